// One allocation for all buffers of a computation: the layout runs once to measure and once to place.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace fedllm::client::engine {

// Hands out consecutive pieces, each on its own cache line. Over nothing (the default) it only measures.
class Carver {
public:
    Carver() = default;
    explicit Carver(float* base) : base_(base) {}

    float* take(std::size_t elements) {
        float* piece = base_ == nullptr ? nullptr : base_ + used_;
        used_ += (elements + kLine - 1) / kLine * kLine;
        return piece;
    }
    std::size_t used() const { return used_; }  // elements

private:
    static constexpr std::size_t kLine = 16;  // floats in 64 bytes

    float* base_ = nullptr;
    std::size_t used_ = 0;
};

// Uninitialised memory: pages that a short batch never touches cost nothing.
class Arena {
public:
    Arena() = default;
    explicit Arena(std::size_t elements)
        : data_(static_cast<float*>(::operator new(elements * sizeof(float), kAlignment))) {}

    float* data() const { return data_.get(); }

private:
    static constexpr std::align_val_t kAlignment{64};
    struct Free {
        void operator()(float* data) const { ::operator delete(data, kAlignment); }
    };

    std::unique_ptr<float, Free> data_;
};

}  // namespace fedllm::client::engine
