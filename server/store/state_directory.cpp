#include "server/store/state_directory.hpp"

#include <unistd.h>

#include <array>
#include <string>

namespace fedllm::server::store {

Result<StateDirectory> StateDirectory::open(const Path& directory) {
    FEDLLM_TRY_VOID(make_directories(directory));
    FEDLLM_TRY(auto lock, disk().open(directory / "lock", Disk::Open::Write, FileMode::Secret));
    FEDLLM_TRY(const bool ours, lock->lock());
    if (!ours) {
        std::array<char, 16> owner{};
        const auto known = lock->read(0, std::as_writable_bytes(std::span(owner)).first(15));
        return make_error(Errc::AlreadyExists,
                          directory.string() + ": this state directory is in use by another fedllm-server" +
                              (known && *known > 0 ? " (process " + std::string(owner.data()) + ")" : "") +
                              "; stop it, or give this one another state_directory");
    }
    // The process id is for the message above only; the lock itself is the kernel's.
    const std::string owner = std::to_string(::getpid());
    FEDLLM_TRY_VOID(lock->resize(0));
    FEDLLM_TRY_VOID(lock->write(0, std::as_bytes(std::span(owner.data(), owner.size()))));
    return StateDirectory(directory, std::move(lock));
}

}  // namespace fedllm::server::store
