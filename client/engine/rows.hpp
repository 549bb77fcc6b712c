// Moves of whole rows between matrices, spread over the pool. Every element is written by one index, so
// results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::client::engine {

template <class Body>
void for_rows(kernels::ThreadPool& pool, std::size_t rows, Body&& body) {
    constexpr std::size_t kBlock = 32;
    pool.parallel_for((rows + kBlock - 1) / kBlock, [&](std::size_t block) {
        const std::size_t end = std::min(rows, (block + 1) * kBlock);
        for (std::size_t row = block * kBlock; row < end; ++row) body(row);
    });
}

// y += x.
inline void add_rows(kernels::ThreadPool& pool, kernels::ConstMatrix x, kernels::Matrix y) {
    for_rows(pool, y.rows, [&](std::size_t row) {
        const float* from = x.row(row);
        float* to = y.row(row);
        for (std::size_t c = 0; c < y.cols; ++c) to[c] += from[c];
    });
}

inline void copy_rows(kernels::ThreadPool& pool, kernels::ConstMatrix x, kernels::Matrix y) {
    for_rows(pool, y.rows, [&](std::size_t row) { std::copy_n(x.row(row), y.cols, y.row(row)); });
}

// y[i] = x[places[i]].
inline void gather_rows(kernels::ThreadPool& pool, kernels::ConstMatrix x,
                        std::span<const std::int32_t> places, kernels::Matrix y) {
    for_rows(pool, places.size(), [&](std::size_t row) {
        std::copy_n(x.row(static_cast<std::size_t>(places[row])), x.cols, y.row(row));
    });
}

// y[places[i]] = x[i], all other rows 0; places increase.
inline void scatter_rows(kernels::ThreadPool& pool, kernels::ConstMatrix x,
                         std::span<const std::int32_t> places, kernels::Matrix y) {
    for_rows(pool, y.rows, [&](std::size_t row) {
        const auto found = std::lower_bound(places.begin(), places.end(), static_cast<std::int32_t>(row));
        if (found != places.end() && static_cast<std::size_t>(*found) == row) {
            std::copy_n(x.row(static_cast<std::size_t>(found - places.begin())), x.cols, y.row(row));
        } else {
            std::fill_n(y.row(row), y.cols, 0.0F);
        }
    });
}

}  // namespace fedllm::client::engine
