// Memory that a disk can take bytes from past the system's cache, without a copy (DiskFile::stream_out()).
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <span>

#include "common/base/disk.hpp"

namespace fedllm {

// Begins at a multiple of kDiskBlockBytes; not zeroed. Move-only; empty where nothing was taken.
class DiskMemory {
public:
    DiskMemory() = default;
    explicit DiskMemory(std::size_t bytes)
        : begin_(static_cast<std::byte*>(::operator new(bytes, kAlignment))), bytes_(bytes) {}

    std::span<std::byte> bytes() const { return {begin_.get(), begin_ ? bytes_ : 0}; }

private:
    static constexpr std::align_val_t kAlignment{kDiskBlockBytes};
    struct Free {
        void operator()(std::byte* begin) const { ::operator delete(begin, kAlignment); }
    };
    std::unique_ptr<std::byte, Free> begin_;
    std::size_t bytes_ = 0;
};

}  // namespace fedllm
