// The server's state directory belongs to one process at a time.
#pragma once

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::server::store {

// Holds an exclusive flock on <directory>/lock while it lives; the kernel lets go of it with the process,
// however that ends. Move-only.
class StateDirectory {
public:
    // Creates the directory if needed. AlreadyExists, naming the other process, when one holds it.
    static Result<StateDirectory> open(const Path& directory);
    StateDirectory(StateDirectory&& other) noexcept;
    StateDirectory& operator=(StateDirectory&& other) noexcept;
    ~StateDirectory();

    const Path& path() const { return path_; }

private:
    StateDirectory(Path path, int fd) : path_(std::move(path)), fd_(fd) {}

    Path path_;
    int fd_ = -1;
};

}  // namespace fedllm::server::store
