// y = x w^T on Hopper's tensor cores: two warpgroups of 64 rows each, fragments of the weight in registers,
// tokens in shared memory. While the products of one block run, the codes of the next are widened.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/wgmma.cuh"
#include "kernels/quant_matmul/fragments.cuh"
#include "kernels/quant_matmul/fused.hpp"

namespace fedllm::kernels::cuda::nf4 {
namespace {

constexpr unsigned kRows = 128;
constexpr unsigned kThreads = kRows / kSlabRows * kWarp;  // a slab for each warp

template <unsigned kTokens_, unsigned kStages_>
struct Tile {
    static constexpr unsigned kTokens = kTokens_, kStages = kStages_;
    using Staged = Stage<kRows, kTokens, 1>;
    static constexpr unsigned kPipelineBytes = kStages * Staged::kBytes;
    static constexpr unsigned kSharedBytes = kPipelineBytes + sizeof(Book);
    // Two blocks on a multiprocessor fill each other's barriers, where registers and shared memory allow.
    static constexpr unsigned kTogether = kTokens <= 128 ? 2 : 1;
    static_assert(kTogether * (kSharedBytes + 1024) <= 228 * 1024);
};

using Fragments = std::uint32_t[4][4];  // of a warp's slab: the steps of 16 of a block

template <class T>
struct Pipeline {
    const Product& p;
    std::size_t first_token, first_row;
    unsigned char* shared;

    __device__ typename T::Staged stage(unsigned block) const {
        return {shared + block % T::kStages * T::Staged::kBytes};
    }
    // Every call is a group of copies, also behind the last block.
    __device__ __forceinline__ void fetch(unsigned block) const {
        if (block < p.blocks) stage(block).fetch(p, first_token, first_row, block);
        copy_async_commit();
    }
    // `kPending` later blocks may still be under way.
    template <int kPending>
    __device__ __forceinline__ void arrive() const {
        copy_async_wait<kPending>();
        publish_to_wgmma();
        __syncthreads();
    }
    __device__ __forceinline__ void widen(unsigned block, Fragments& a) const {
        LaneCodes codes;
        codes.load(stage(block), 0, threadIdx.x / kWarp, threadIdx.x % kWarp);
        const auto* book = reinterpret_cast<const float*>(shared + T::kPipelineBytes);
        FEDLLM_UNROLL
        for (unsigned t = 0; t < 4; ++t) widen_codes(codes.word[t], codes.even, codes.odd, book, a[t]);
    }
};

// Starts the products of `block` and prepares the next one meanwhile. Behind the wait the block before is
// done in this warpgroup, behind the barrier in both: its fragments and its stage are free.
template <class T>
__device__ __forceinline__ void turn(const Pipeline<T>& pipeline, unsigned block, const Fragments& now,
                                     Fragments& next, float (&sums)[T::kTokens / 8][4]) {
    wgmma_fence();
    FEDLLM_UNROLL
    for (unsigned t = 0; t < 4; ++t)
        wgmma_m64k16(sums, now[t], wgmma_operand(pipeline.stage(block).tokens(0), t));
    wgmma_commit();
    wgmma_wait<1>();
    if (block + 1 >= pipeline.p.blocks) return;
    pipeline.template arrive<static_cast<int>(T::kStages) - 3>();
    pipeline.fetch(block + T::kStages - 1);
    pipeline.widen(block + 1, next);
}

template <class T>
__global__ void __launch_bounds__(kThreads, T::kTogether) product(Product p, unsigned token_tiles) {
    auto* shared = shared_memory<unsigned char>();
    const Pipeline<T> pipeline{p, std::size_t{blockIdx.x % token_tiles} * T::kTokens,
                               std::size_t{blockIdx.x / token_tiles} * kRows, shared};
    fill_book(reinterpret_cast<float*>(shared + T::kPipelineBytes));
    for (unsigned block = 0; block < T::kStages - 1; ++block) pipeline.fetch(block);
    pipeline.template arrive<static_cast<int>(T::kStages) - 2>();
    float sums[T::kTokens / 8][4] = {};
    Fragments even, odd;  // of blocks with such numbers
    pipeline.widen(0, even);
    for (unsigned block = 0; block < p.blocks; block += 2) {
        turn(pipeline, block, even, odd, sums);
        if (block + 1 < p.blocks) turn(pipeline, block + 1, odd, even, sums);
    }
    wgmma_wait_all(sums);
    copy_async_wait<0>();
    write_slab(p, pipeline.first_token, pipeline.first_row + threadIdx.x / kWarp * kSlabRows,
               threadIdx.x % kWarp, sums);
}

template <class T>
void launch_tile(const Stream& stream, const Product& p) {
    const unsigned token_tiles = blocks_for(p.tokens, T::kTokens);
    launch(stream,
           {.grid = {token_tiles * blocks_for(p.rows, kRows)},
            .threads = kThreads,
            .shared_bytes = T::kSharedBytes},
           product<T>, p, token_tiles);
}

}  // namespace

void launch_wgmma(const Stream& stream, unsigned tile_tokens, ConstDeviceMatrix x, const Nf4Tiles& w,
                  DeviceMatrix y, Write write) {
    const Product p = product_of(x, w, y, write);
    if (tile_tokens == 64) return launch_tile<Tile<64, 6>>(stream, p);
    if (tile_tokens == 128) return launch_tile<Tile<128, 5>>(stream, p);
    if (tile_tokens == 256) return launch_tile<Tile<256, 5>>(stream, p);
    throw GpuError("nf4_matmul has no tile of " + std::to_string(tile_tokens) + " tokens (wgmma)");
}

}  // namespace fedllm::kernels::cuda::nf4
