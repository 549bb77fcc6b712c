#include "tools/hub/file_lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace fedllm::tools::hub {

FileLock::FileLock(FileLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

FileLock::~FileLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

Result<FileLock> FileLock::take(const Path& path) {
    FEDLLM_TRY_VOID(make_directories(path.parent_path()));
    FileLock lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    bool taken = lock.descriptor_ >= 0;
    while (taken && ::flock(lock.descriptor_, LOCK_EX) != 0) taken = errno == EINTR;
    if (taken) return lock;
    return make_error(errno == EACCES ? Errc::PermissionDenied : Errc::IoFailed,
                      path.string() + ": locking: " + std::strerror(errno));
}

}  // namespace fedllm::tools::hub
