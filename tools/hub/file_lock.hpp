// One process, and one thread of it, at a time.
#pragma once

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::tools::hub {

// flock on a file, made where it is missing, as huggingface_hub locks. Lifecycle: move-only; take() waits,
// the destructor gives back; the file stays.
class FileLock {
public:
    static Result<FileLock> take(const Path& path);
    FileLock(FileLock&& other) noexcept;
    FileLock& operator=(FileLock&&) = delete;
    ~FileLock();

private:
    explicit FileLock(int descriptor) : descriptor_(descriptor) {}

    int descriptor_;
};

}  // namespace fedllm::tools::hub
