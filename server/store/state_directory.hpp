// The server's state directory belongs to one process at a time.
#pragma once

#include <memory>
#include <utility>

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::server::store {

// Holds an exclusive lock on <directory>/lock while it lives; the kernel lets go of it with the process,
// however that ends. Move-only.
class StateDirectory {
public:
    // Creates the directory if needed. AlreadyExists, naming the other process, when one holds it.
    static Result<StateDirectory> open(const Path& directory);

    const Path& path() const { return path_; }

private:
    StateDirectory(Path path, std::unique_ptr<DiskFile> lock)
        : path_(std::move(path)), lock_(std::move(lock)) {}

    Path path_;
    std::unique_ptr<DiskFile> lock_;
};

}  // namespace fedllm::server::store
