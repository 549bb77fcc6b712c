// What the attention kernels share: tiles of one head's rows in shared memory, their products on the tensor
// cores, and which keys are seen. A block is four warps. Of every product a warp owns the rows 16 kStrips w
// and on; what only it reads of a tile ("its own rows") it may overwrite without asking the others.
//
// Sums are held as mma's D fragments: [strip of 16 rows][tile of 8 columns][4], with lane = 4 g + i, element
// e at row 8 (e / 2) + g and column 2 i + e % 2.
#pragma once

#include "kernels/attention/op_cuda.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/tensor_core.cuh"

namespace fedllm::kernels::cuda::attention {

constexpr unsigned kThreads = 128;
constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;
constexpr std::size_t kSharedBytesMax = 99 * 1024;  // what a block may have on every GPU from sm_80 on

__device__ __forceinline__ unsigned lane() { return threadIdx.x % kWarp; }
__device__ __forceinline__ unsigned warp() { return threadIdx.x / kWarp; }

// Rows of one head in the GPU's memory: rows beyond `rows` and chunks of 8 columns beyond `chunks` are not
// there.
template <class T>
struct HeadRows {
    T* data;
    std::size_t pitch;
    unsigned rows, chunks;
};
// Rows [first, tokens) of the batch's row b.
template <class T>
__device__ __forceinline__ HeadRows<T> head_rows(const AttentionShape& shape, MatrixView<T> matrix,
                                                 unsigned b, unsigned head, unsigned first) {
    const auto tokens = static_cast<unsigned>(shape.tokens), size = static_cast<unsigned>(shape.head_size);
    return {matrix.data + (b * shape.tokens + first) * matrix.pitch + head * size, matrix.pitch,
            first < tokens ? tokens - first : 0, size / 8};
}

// Rows of kHead bf16 in shared memory, in chunks of 16 bytes. Chunks change places within a row so that one
// chunk of eight rows, as ldmatrix reads it, lies in all 32 banks.
template <unsigned kHead>
struct HeadTile {
    static constexpr unsigned kChunks = kHead / 8;
    static constexpr unsigned kTurn = kChunks % 8 == 0 ? 8 : 4;  // chunks that change places
    static_assert(kChunks % kTurn == 0);
    uint4* data;

    // The place of a chunk, counted in chunks. What depends on the lane goes in here, and the constants of
    // unrolled loops into at(), which then costs an exclusive or at most.
    __device__ __forceinline__ static unsigned place(unsigned row, unsigned chunk) {
        return row * kChunks + (chunk ^ (kTurn == 8 ? row % 8 : row / 2 % 4));
    }
    // `rows`, a multiple of 8, rows below a place, and `chunks` to the right of it: it is one of the first
    // chunks of its row, and shares no bit with `chunks`.
    __device__ __forceinline__ uint4* at(unsigned place, unsigned rows, unsigned chunks) const {
        return from(rows).data + chunks / kTurn * kTurn + (place ^ chunks % kTurn);
    }
    // The tile that begins at a row that is a multiple of 8.
    __device__ __forceinline__ HeadTile from(unsigned row) const { return {data + row * kChunks}; }
};

// By all threads of the block; zeros for what is not there. A thread keeps its place within every group of
// rows, so that one address serves all its copies.
template <unsigned kRows, unsigned kHead>
__device__ __forceinline__ void copy_rows(HeadTile<kHead> to, const HeadRows<const BF16>& from) {
    constexpr unsigned kChunks = kHead / 8, kAcross = kChunks % 8 == 0 ? 8 : 4, kDown = kThreads / kAcross;
    static_assert(kRows % kDown == 0);
    const unsigned row = threadIdx.x / kAcross, chunk = threadIdx.x % kAcross;
    uint4* shared = to.at(to.place(row, chunk), 0, 0);
    const BF16* global = from.data + row * from.pitch + chunk * 8;
    FEDLLM_UNROLL
    for (unsigned r = 0; r < kRows; r += kDown) {
        FEDLLM_UNROLL
        for (unsigned c = 0; c < kChunks; c += kAcross) {
            const bool there = row + r < from.rows && chunk + c < from.chunks;
            copy_async_16(shared + r * kChunks + c, global + r * from.pitch + c * 8, there);
        }
    }
}

// sums (16 kStrips, kCols) += rows of a (., kHead) times rows of b (kCols, kHead) transposed.
template <unsigned kStrips, unsigned kTiles, unsigned kHead>
__device__ __forceinline__ void multiply_rows(float (&sums)[kStrips][kTiles][4], HeadTile<kHead> a,
                                              HeadTile<kHead> b) {
    const unsigned left_place = a.place(lane() % 16, lane() / 16);
    const unsigned right_place = b.place(lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
    FEDLLM_UNROLL
    for (unsigned step = 0; step < kHead / 16; ++step) {
        std::uint32_t left[kStrips][4];
        FEDLLM_UNROLL
        for (unsigned m = 0; m < kStrips; ++m) {
            load_matrices(left[m], a.at(left_place, 16 * m, 2 * step));
        }
        FEDLLM_UNROLL
        for (unsigned n = 0; n < kTiles; n += 2) {
            std::uint32_t right[4];
            load_matrices(right, b.at(right_place, 8 * n, 2 * step));
            const std::uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
            FEDLLM_UNROLL
            for (unsigned m = 0; m < kStrips; ++m) {
                mma_m16n8k16(sums[m][n], left[m], first);
                mma_m16n8k16(sums[m][n + 1], left[m], second);
            }
        }
    }
}

// sums (16 kStrips, kHead) += weights (16 kStrips, kRows), rounded to bf16, times b (kRows, kHead). Two D
// fragments side by side are one A fragment: the weights stay in registers.
template <unsigned kStrips, unsigned kTiles, unsigned kHead>
__device__ __forceinline__ void multiply_columns(float (&sums)[kStrips][kHead / 8][4],
                                                 const float (&weights)[kStrips][kTiles][4],
                                                 HeadTile<kHead> b) {
    const unsigned place = b.place(lane() % 16, lane() / 16);
    FEDLLM_UNROLL
    for (unsigned step = 0; step < kTiles / 2; ++step) {
        std::uint32_t left[kStrips][4];
        FEDLLM_UNROLL
        for (unsigned m = 0; m < kStrips; ++m) {
            FEDLLM_UNROLL
            for (unsigned part = 0; part < 4; ++part) {
                const float* pair = weights[m][2 * step + part / 2] + 2 * (part % 2);
                left[m][part] = pack(pair[0], pair[1]);
            }
        }
        FEDLLM_UNROLL
        for (unsigned n = 0; n < kHead / 8; n += 2) {
            std::uint32_t right[4];
            load_matrices_transposed(right, b.at(place, 16 * step, n));
            const std::uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
            FEDLLM_UNROLL
            for (unsigned m = 0; m < kStrips; ++m) {
                mma_m16n8k16(sums[m][n], left[m], first);
                mma_m16n8k16(sums[m][n + 1], left[m], second);
            }
        }
    }
}

// Writes sums times `factors` of their rows to the warp's rows `to`, 16 bytes at a time, by way of `own`, its
// own rows of a tile that it has finished with.
template <unsigned kStrips, unsigned kHead>
__device__ __forceinline__ void store_rows(const float (&sums)[kStrips][kHead / 8][4],
                                           const float (&factors)[kStrips][2], HeadTile<kHead> own,
                                           const HeadRows<BF16>& to) {
    constexpr unsigned kChunks = kHead / 8;
    const unsigned place = own.place(lane() / 4, 0);
    __syncwarp();
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kStrips; ++m) {
        FEDLLM_UNROLL
        for (unsigned half = 0; half < 2; ++half) {
            FEDLLM_UNROLL
            for (unsigned n = 0; n < kChunks; ++n) {
                auto* pairs = reinterpret_cast<std::uint32_t*>(own.at(place, 16 * m + 8 * half, n));
                pairs[lane() % 4] = pack(sums[m][n][2 * half] * factors[m][half],
                                         sums[m][n][2 * half + 1] * factors[m][half]);
            }
        }
    }
    __syncwarp();
    for (unsigned at = lane(); at < 16 * kStrips * kChunks; at += kWarp) {
        const unsigned row = at / kChunks, chunk = at % kChunks;
        if (row < to.rows && chunk < to.chunks) {
            *reinterpret_cast<uint4*>(to.data + row * to.pitch + chunk * 8) =
                *(own.data + own.place(row, chunk));
        }
    }
}

// What some queries see of some keys.
enum class Sight { None, Some, All };
// Queries [query, query + queries), the first of which sees keys from first_key on, the last from
// first_key_last on; keys [key, key + keys). Neither bound of what a query sees decreases from one to the
// next.
__device__ __forceinline__ Sight sight_of(unsigned query, unsigned queries, std::int32_t first_key,
                                          std::int32_t first_key_last, unsigned key, unsigned keys) {
    if (key >= query + queries || key + keys <= static_cast<unsigned>(first_key)) return Sight::None;
    return key + keys - 1 <= query && key >= static_cast<unsigned>(first_key_last) ? Sight::All : Sight::Some;
}

// Scores of queries (rows, from `query` on) and keys (columns, from `key` on) become -infinity where the key
// is not seen; first_key_of(query) is the first that is.
template <unsigned kStrips, unsigned kTiles, class FirstKeyOf>
__device__ __forceinline__ void hide_unseen(float (&scores)[kStrips][kTiles][4], unsigned query, unsigned key,
                                            FirstKeyOf&& first_key_of) {
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kStrips; ++m) {
        FEDLLM_UNROLL
        for (unsigned half = 0; half < 2; ++half) {
            const unsigned last = query + 16 * m + 8 * half + lane() / 4;
            const auto first = static_cast<unsigned>(first_key_of(last));
            FEDLLM_UNROLL
            for (unsigned n = 0; n < kTiles; ++n) {
                FEDLLM_UNROLL
                for (unsigned e = 0; e < 2; ++e) {
                    const unsigned at = key + 8 * n + 2 * (lane() % 4) + e;
                    if (at < first || at > last) scores[m][n][2 * half + e] = -INFINITY;
                }
            }
        }
    }
}

// A block for each head, row of the batch and tile of tokens: indices that need no division are the block's
// and not its threads', which leaves registers to sums.
inline Grid grid_of(const AttentionShape& shape, std::size_t heads, std::size_t tile) {
    return {static_cast<unsigned>(heads), static_cast<unsigned>(shape.batch), blocks_for(shape.tokens, tile)};
}

// Calls body.template operator()<kHead>() with the smallest tile that holds a head.
template <class Body>
void with_head_tile(std::size_t head_size, Body&& body) {
    if (head_size <= 32) return body.template operator()<32>();
    if (head_size <= 64) return body.template operator()<64>();
    if (head_size <= 96) return body.template operator()<96>();
    if (head_size <= 128) return body.template operator()<128>();
    return body.template operator()<256>();
}

}  // namespace fedllm::kernels::cuda::attention
