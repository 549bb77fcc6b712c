// What a failed sync has left behind.
#pragma once

#include "common/base/files.hpp"

namespace fedllm {

// Writes a file's own bytes again, in place, where it is there; not synced. A process that met a failed sync
// has ended, and its successor on the same system may find pages that read as written, count as clean and are
// not on the disk (see disk.hpp): no later sync would bring them there. Written again they are synced like
// any others.
Result<void> write_again(const Path& path);

}  // namespace fedllm
