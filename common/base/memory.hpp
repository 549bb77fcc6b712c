// The memory of this machine, as far as this process may have it.
#pragma once

#include <cstddef>

#include "common/base/files.hpp"

namespace fedllm {

// Bytes that the process could hold in all: what it holds privately now and what is free for it, under the
// limits of its control group (containers, systemd's MemoryMax). Pages of files do not count: they can be
// read again. 0 where the system does not tell. The folders are Linux's; tests name others.
std::size_t memory_limit(const Path& proc = "/proc", const Path& groups = "/sys/fs/cgroup");

// Bytes of memory that this process has resident now, files it maps included; 0 where the system does not
// tell.
std::size_t resident_memory();

}  // namespace fedllm
