// What a daemon keeps is nobody else's business: updates, model versions and the ledger tell about people's texts.
#pragma once

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::service {

// From now on this process makes files and folders that only its own user can read, and `state_directory`, if it is
// there already, is closed to others. PermissionDenied when it belongs to somebody else who has left it open.
Result<void> keep_private(const Path& state_directory);

}  // namespace fedllm::service
