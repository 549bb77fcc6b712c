#include "server/store/state_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace fedllm::server::store {

Result<StateDirectory> StateDirectory::open(const Path& directory) {
    FEDLLM_TRY_VOID(make_directories(directory));
    const Path lock = directory / "lock";
    StateDirectory held(directory, ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (held.fd_ < 0) return make_error(Errc::IoFailed, lock.string() + ": opening: " + std::strerror(errno));
    if (::flock(held.fd_, LOCK_EX | LOCK_NB) != 0) {
        char owner[16] = {};
        const bool known = ::pread(held.fd_, owner, sizeof owner - 1, 0) > 0;
        return make_error(Errc::AlreadyExists,
                          directory.string() + ": this state directory is in use by another fedllm-server" +
                              (known ? " (process " + std::string(owner) + ")" : "") +
                              "; stop it, or give this one another state_directory");
    }
    // The process id is for the message above only; the lock itself is the kernel's.
    const std::string owner = std::to_string(::getpid());
    if (::ftruncate(held.fd_, 0) != 0 || ::pwrite(held.fd_, owner.data(), owner.size(), 0) < 0) {
        return make_error(Errc::IoFailed, lock.string() + ": writing: " + std::strerror(errno));
    }
    return held;
}

StateDirectory::StateDirectory(StateDirectory&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

StateDirectory& StateDirectory::operator=(StateDirectory&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    return *this;
}

StateDirectory::~StateDirectory() {
    if (fd_ >= 0) ::close(fd_);
}

}  // namespace fedllm::server::store
