// Sums over the rows of a matrix, per column, in fixed order: the gradients of biases and of norms' weights.
// The rows are cut into strips; a block sums 256 columns of one strip into `partials` (strips, cols), and a
// second kernel adds those up.
#pragma once

#include "kernels/cuda/rows.cuh"

namespace fedllm::kernels::cuda {

// Enough strips to fill a GPU, few enough that partials cost nothing beside the rows.
struct Strips {
    static constexpr std::size_t kMost = 128, kRowsLeast = 16;

    explicit Strips(std::size_t all_rows)
        : rows(all_rows <= kMost * kRowsLeast ? kRowsLeast : (all_rows + kMost - 1) / kMost),
          count((all_rows + rows - 1) / rows) {}

    std::size_t rows;   // of a strip
    std::size_t count;  // strips
};

constexpr unsigned kStripWarps = 8;
constexpr unsigned kStripCols = kWarp * kEight;

// term(row, column, left, sums) adds what eight columns of a row contribute to each of kSums sums; what it
// adds at `left` and behind is dropped. Partials (kSums, strips, cols).
template <unsigned kSums, class Term>
__global__ void __launch_bounds__(kStripWarps* kWarp)
    strip_sums(Term term, std::size_t rows, unsigned cols, Strips strips, float* partials) {
    auto* of_warps = shared_memory<EightFloats>();  // (kSums, kStripWarps, kWarp)
    const unsigned chunks = (cols + kStripCols - 1) / kStripCols;
    const unsigned strip = blockIdx.x / chunks;
    const unsigned first = blockIdx.x % chunks * kStripCols;
    const unsigned warp = threadIdx.x / kWarp, column = first + threadIdx.x % kWarp * kEight;
    const std::size_t end = (strip + 1) * strips.rows < rows ? (strip + 1) * strips.rows : rows;
    EightFloats sums[kSums] = {};
    if (column < cols) {
        FEDLLM_UNROLL_BY(4)
        for (std::size_t row = strip * strips.rows + warp; row < end; row += kStripWarps)
            term(row, column, cols - column, sums);
    }
    for (unsigned s = 0; s < kSums; ++s) of_warps[s * kStripWarps * kWarp + threadIdx.x] = sums[s];
    __syncthreads();
    if (first + threadIdx.x >= cols) return;
    const auto* summand = reinterpret_cast<const float*>(of_warps) + threadIdx.x;
    for (unsigned s = 0; s < kSums; ++s) {
        float sum = 0;
        for (unsigned w = 0; w < kStripWarps; ++w) sum += summand[(s * kStripWarps + w) * kStripCols];
        partials[(s * strips.count + strip) * cols + first + threadIdx.x] = sum;
    }
}

inline std::size_t column_sums_scratch(std::size_t rows, std::size_t cols, unsigned sums) {
    return sums * Strips(rows).count * cols;
}

template <unsigned kSums, class Term>
void column_sums(const Stream& stream, const Term& term, std::size_t rows, std::size_t cols,
                 float* partials) {
    const Strips strips(rows);
    launch(stream,
           {.grid = {blocks_for(cols, kStripCols) * static_cast<unsigned>(strips.count)},
            .threads = kStripWarps * kWarp,
            .shared_bytes = kSums * kStripWarps * kWarp * sizeof(EightFloats)},
           strip_sums<kSums, Term>, term, rows, static_cast<unsigned>(cols), strips, partials);
}

// out (cols) += the sum of partials (count, cols): a warp has every 8th row of 32 columns.
template <unsigned kWarps>
__global__ void __launch_bounds__(kWarps* kWarp)
    sum_partials(const float* partials, std::size_t count, unsigned cols, float* out) {
    auto* of_warps = shared_memory<float>();  // (kWarps, kWarp)
    const unsigned lane = threadIdx.x % kWarp;
    const unsigned column = blockIdx.x * kWarp + lane;
    float sum = 0;
    if (column < cols) {
        FEDLLM_UNROLL_BY(8)
        for (std::size_t p = threadIdx.x / kWarp; p < count; p += kWarps) sum += partials[p * cols + column];
    }
    of_warps[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= kWarp || column >= cols) return;
    for (unsigned w = 1; w < kWarps; ++w) sum += of_warps[w * kWarp + lane];
    out[column] += sum;
}
inline void add_partials(const Stream& stream, const float* partials, std::size_t count, std::size_t cols,
                         float* out) {
    launch(stream,
           {.grid = {blocks_for(cols, kWarp)},
            .threads = kStripWarps * kWarp,
            .shared_bytes = kStripWarps * kWarp * sizeof(float)},
           sum_partials<kStripWarps>, partials, count, static_cast<unsigned>(cols), out);
}

}  // namespace fedllm::kernels::cuda
