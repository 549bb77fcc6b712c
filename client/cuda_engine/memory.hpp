// How the GPU's memory is laid out: one list of pieces, run once to measure and once to place.
#pragma once

#include <cstddef>

#include "kernels/cuda/views.hpp"

namespace fedllm::client::cuda_engine {

using kernels::cuda::BF16;
using kernels::cuda::ConstDeviceMatrix;
using kernels::cuda::DeviceMatrix;

constexpr std::size_t round_up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }

// Hands out consecutive pieces, each aligned to 256 bytes. Over nothing (the default) it only measures.
class Carver {
public:
    Carver() = default;
    explicit Carver(void* base) : base_(static_cast<unsigned char*>(base)) {}

    template <class T>
    T* take(std::size_t count) {
        T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
        used_ += round_up(count * sizeof(T), 256);
        return piece;
    }
    // Rows with room for `tail` more columns behind them.
    DeviceMatrix matrix(std::size_t rows, std::size_t cols, std::size_t tail = 0) {
        const std::size_t pitch = round_up(cols, 8) + round_up(tail, 8);
        return {take<BF16>(rows * pitch), rows, cols, pitch};
    }
    std::size_t used() const { return used_; }  // bytes

private:
    unsigned char* base_ = nullptr;
    std::size_t used_ = 0;
};

// Columns of the room behind a matrix's own.
inline DeviceMatrix tail(const DeviceMatrix& matrix, std::size_t first, std::size_t count) {
    return {matrix.data + round_up(matrix.cols, 8) + first, matrix.rows, count, matrix.pitch};
}
// The same with `count` columns, reaching into that room.
inline ConstDeviceMatrix widened(const DeviceMatrix& matrix, std::size_t count) {
    return {matrix.data, matrix.rows, count, matrix.pitch};
}

}  // namespace fedllm::client::cuda_engine
