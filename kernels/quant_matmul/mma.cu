// y = x w^T on the tensor cores that every GPU from sm_80 on has (mma.sync).
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/quant_matmul/fragments.cuh"
#include "kernels/quant_matmul/fused.hpp"

namespace fedllm::kernels::cuda::nf4 {
namespace {

// A warp has kWarpSlabs slabs and all tokens of the tile, so that a code is widened once per tile. kAcross
// warps share out the rows, kAlong the blocks of K in a stage: with few tokens there are too few tiles to
// fill the GPU, and the depth has to.
template <unsigned kTokens_, unsigned kWarpSlabs_, unsigned kAcross_, unsigned kAlong_, unsigned kStages_>
struct Tile {
    static constexpr unsigned kTokens = kTokens_, kWarpSlabs = kWarpSlabs_, kAcross = kAcross_,
                              kAlong = kAlong_, kStages = kStages_;
    static constexpr unsigned kRows = kWarpSlabs * kAcross * kSlabRows;
    static constexpr unsigned kThreads = kAcross * kAlong * kWarp;
    static constexpr unsigned kGroups = kTokens / 8;
    using Staged = Stage<kRows, kTokens, kAlong>;
    static constexpr unsigned kPipelineBytes = kStages * Staged::kBytes;
    static constexpr unsigned kSharedBytes = kPipelineBytes + sizeof(Book);
    static constexpr unsigned kSumBytes = (kAlong - 1) * kAcross * kWarpSlabs * kGroups * 4 * kWarp * 4;
    static_assert(kSumBytes <= kPipelineBytes);
    static_assert(kSharedBytes <= 99 * 1024, "more than a block has on GPUs without a data centre");
};

template <class T>
using Sums = float[T::kWarpSlabs][T::kGroups][4];

// One block of K: this warp's slabs against all tokens.
template <class T>
__device__ __forceinline__ void multiply(const typename T::Staged& stage, unsigned block, unsigned across,
                                         const float* book, Sums<T>& sums) {
    const unsigned lane = threadIdx.x % kWarp;
    LaneCodes codes[T::kWarpSlabs];
    FEDLLM_UNROLL
    for (unsigned s = 0; s < T::kWarpSlabs; ++s)
        codes[s].load(stage, block, across * T::kWarpSlabs + s, lane);
    // Matrices 0 to 3 of a load: tokens 0 to 7 with depth 0 to 7 and 8 to 15, then tokens 8 to 15.
    const unsigned token = lane / 16 * 8 + lane % 8, half = lane / 8 % 2;
    const unsigned char* tokens = stage.tokens(block) + token * kTokenRowBytes;
    FEDLLM_UNROLL
    for (unsigned t = 0; t < 4; ++t) {
        std::uint32_t a[T::kWarpSlabs][4];
        FEDLLM_UNROLL
        for (unsigned s = 0; s < T::kWarpSlabs; ++s)
            widen_codes(codes[s].word[t], codes[s].even, codes[s].odd, book, a[s]);
        const unsigned char* at = tokens + 16 * ((2 * t + half) ^ token % 8);
        FEDLLM_UNROLL
        for (unsigned j = 0; j < T::kGroups; j += 2) {
            std::uint32_t r[4];
            load_matrices(r, at + j * 8 * kTokenRowBytes);
            const std::uint32_t first[2] = {r[0], r[1]}, second[2] = {r[2], r[3]};
            FEDLLM_UNROLL
            for (unsigned s = 0; s < T::kWarpSlabs; ++s) {
                mma_m16n8k16(sums[s][j], a[s], first);
                mma_m16n8k16(sums[s][j + 1], a[s], second);
            }
        }
    }
}

// Adds the sums of the warps along K to those of the first, in their order, through shared memory.
template <class T>
__device__ __forceinline__ void add_along(float* shared, unsigned across, unsigned along, Sums<T>& sums) {
    constexpr unsigned kSums = T::kWarpSlabs * T::kGroups * 4;
    float* mine = shared + across * kSums * kWarp + threadIdx.x % kWarp;
    float* flat = &sums[0][0][0];
    constexpr unsigned kApart = T::kAcross * kSums * kWarp;
    if (along > 0) {
        FEDLLM_UNROLL
        for (unsigned e = 0; e < kSums; ++e) mine[(along - 1) * kApart + e * kWarp] = flat[e];
    }
    __syncthreads();
    if (along > 0) return;
    FEDLLM_UNROLL
    for (unsigned e = 0; e < kSums; ++e) {
        for (unsigned other = 0; other < T::kAlong - 1; ++other)
            flat[e] = __fadd_rn(flat[e], mine[other * kApart + e * kWarp]);
    }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads) product(Product p, unsigned token_tiles) {
    auto* shared = shared_memory<unsigned char>();
    auto* book = reinterpret_cast<float*>(shared + T::kPipelineBytes);
    auto stage = [&](unsigned step) {
        return typename T::Staged{shared + step % T::kStages * T::Staged::kBytes};
    };
    // Neighbours share rows of the weight: its codes are read from memory once, the tokens from L2.
    const std::size_t first_token = std::size_t{blockIdx.x % token_tiles} * T::kTokens;
    const std::size_t first_row = std::size_t{blockIdx.x / token_tiles} * T::kRows;
    const unsigned warp = threadIdx.x / kWarp, across = warp % T::kAcross, along = warp / T::kAcross;
    const unsigned steps = (p.blocks + T::kAlong - 1) / T::kAlong;
    fill_book(book);
    Sums<T> sums = {};
    for (unsigned step = 0; step < T::kStages - 1; ++step) {
        if (step < steps) stage(step).fetch(p, first_token, first_row, step * T::kAlong);
        copy_async_commit();
    }
    for (unsigned step = 0; step < steps; ++step) {
        copy_async_wait<static_cast<int>(T::kStages) - 2>();
        __syncthreads();  // the step is there for all, and all are done with the one before
        const unsigned next = step + T::kStages - 1;
        if (next < steps) stage(next).fetch(p, first_token, first_row, next * T::kAlong);
        copy_async_commit();
        if (step * T::kAlong + along < p.blocks) multiply<T>(stage(step), along, across, book, sums);
    }
    copy_async_wait<0>();
    if constexpr (T::kAlong > 1) {
        __syncthreads();
        add_along<T>(reinterpret_cast<float*>(shared), across, along, sums);
        if (along > 0) return;
    }
    FEDLLM_UNROLL
    for (unsigned s = 0; s < T::kWarpSlabs; ++s) {
        write_slab(p, first_token, first_row + (across * T::kWarpSlabs + s) * kSlabRows, threadIdx.x % kWarp,
                   sums[s]);
    }
}

template <class T>
void launch_tile(const Stream& stream, const Product& p) {
    const unsigned token_tiles = blocks_for(p.tokens, T::kTokens);
    launch(stream,
           {.grid = {token_tiles * blocks_for(p.rows, T::kRows)},
            .threads = T::kThreads,
            .shared_bytes = T::kSharedBytes},
           product<T>, p, token_tiles);
}

}  // namespace

void launch_mma(const Stream& stream, unsigned tile_tokens, ConstDeviceMatrix x, const Nf4Tiles& w,
                DeviceMatrix y, Write write) {
    const Product p = product_of(x, w, y, write);
    if (tile_tokens == 16) return launch_tile<Tile<16, 1, 2, 4, 6>>(stream, p);
    if (tile_tokens == 32) return launch_tile<Tile<32, 1, 4, 2, 6>>(stream, p);
    if (tile_tokens == 64) return launch_tile<Tile<64, 2, 4, 2, 3>>(stream, p);
    if (tile_tokens == 128) return launch_tile<Tile<128, 2, 4, 1, 4>>(stream, p);
    throw GpuError("nf4_matmul has no tile of " + std::to_string(tile_tokens) + " tokens (mma.sync)");
}

}  // namespace fedllm::kernels::cuda::nf4
