// What the fused kernels share: the order of the codes, how a stage of the pipeline is filled, how codes
// become fragments, and how sums are written.
//
// The weight is operand A of the tensor cores, its rows the rows of the fragment; the tokens are operand B.
// A slab is 16 rows by one block of 64: 512 bytes, of which lane 4 g + i owns 16: word t is its fragment of
// step t of 16, byte p of a word is a[p], the element with the even column in the high nibble. Row g of a
// fragment is row 2 g of the slab, row g + 8 is row 2 g + 1: so a lane's two sums of one token lie side by
// side in y. Slabs of 16 rows follow each other along K, then along N.
#pragma once

#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/views.hpp"
#include "kernels/quant_matmul/op_cuda.hpp"
#include "kernels/quantize/code_books.hpp"

namespace fedllm::kernels::cuda::nf4 {

constexpr unsigned kSlabRows = 16;
constexpr unsigned kBlock = 64;                  // columns of K under one scale
constexpr unsigned kSlabBytes = 512;             // of codes
constexpr unsigned kTokenRowBytes = 2 * kBlock;  // of one token and one block

struct Product {
    const BF16* x;
    std::size_t x_pitch;
    const std::uint8_t* codes;
    const float* scales;
    BF16* y;
    std::size_t y_pitch;
    std::size_t tokens, rows;  // M, N
    unsigned blocks;           // K / 64
    bool accumulate;
};
inline Product product_of(ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y, Write write) {
    return {x.data,
            x.pitch,
            w.codes,
            w.scales,
            y.data,
            y.pitch,
            x.rows,
            w.n,
            static_cast<unsigned>(w.k / kBlock),
            write == Write::Accumulate};
}

struct Book {
    float values[kFourBitCodes];
};
constexpr Book book_of(const std::array<float, kFourBitCodes>& values) {
    Book book{};
    for (std::size_t i = 0; i < kFourBitCodes; ++i) book.values[i] = values[i];
    return book;
}
__constant__ const Book kBook = book_of(kNf4Values);

// Sixteen words in sixteen banks: whatever the lanes look up, they look it up at once.
__device__ __forceinline__ void fill_book(float* book) {
    if (threadIdx.x < kFourBitCodes) book[threadIdx.x] = kBook.values[threadIdx.x];
}

// A lane's fragment, rounded once from f32 as dequantize() rounds. `even` and `odd` scale rows 2 g, 2 g + 1.
__device__ __forceinline__ void widen_codes(std::uint32_t word, float even, float odd, const float* book,
                                            std::uint32_t (&a)[4]) {
    FEDLLM_UNROLL
    for (unsigned p = 0; p < 4; ++p) {
        const float scale = p % 2 == 0 ? even : odd;
        const float first = book[word >> (8 * p + 4) & 15], second = book[word >> (8 * p) & 15];
        a[p] = pack(__fmul_rn(first, scale), __fmul_rn(second, scale));
    }
}

// One step of the pipeline in shared memory: kBlocks blocks of K of kTokens tokens and kRows weight rows.
// Tokens come first and start at multiples of 1024 bytes. A token's 128 bytes of a block are 8 chunks of 16,
// chunk c of token m at place c ^ (m % 8): the 128-byte swizzle that wgmma reads, and no bank conflicts for
// ldmatrix.
template <unsigned kRows, unsigned kTokens, unsigned kBlocks>
struct Stage {
    static constexpr unsigned kSlabs = kRows / kSlabRows;
    static constexpr unsigned kTokenBytes = kTokens * kBlocks * kTokenRowBytes;
    static constexpr unsigned kCodeBytes = kSlabs * kBlocks * kSlabBytes;
    static constexpr unsigned kScaleBytes = kRows * kBlocks * sizeof(float);
    static constexpr unsigned kBytes = (kTokenBytes + kCodeBytes + kScaleBytes + 1023) / 1024 * 1024;

    unsigned char* data;

    __device__ unsigned char* tokens(unsigned block) const {
        return data + block * (kTokens * kTokenRowBytes);
    }
    __device__ unsigned char* codes(unsigned block, unsigned slab) const {
        return data + kTokenBytes + (block * kSlabs + slab) * kSlabBytes;
    }
    __device__ float* scales(unsigned block) const {
        return reinterpret_cast<float*>(data + kTokenBytes + kCodeBytes) + block * kRows;
    }

    // Asks for blocks first_block ... of tokens from first_token and rows from first_row; beyond the matrices
    // are zeros.
    __device__ __forceinline__ void fetch(const Product& p, std::size_t first_token, std::size_t first_row,
                                          unsigned first_block) const {
        for (unsigned at = threadIdx.x; at < kTokens * kBlocks * 8; at += blockDim.x) {
            const unsigned chunk = at % 8, block = at / 8 % kBlocks, token = at / (8 * kBlocks);
            const bool valid = first_token + token < p.tokens && first_block + block < p.blocks;
            const std::size_t from = valid ? (first_token + token) * p.x_pitch +
                                                 std::size_t{first_block + block} * kBlock + 8 * chunk
                                           : 0;
            copy_async_16(tokens(block) + token * kTokenRowBytes + 16 * (chunk ^ token % 8), p.x + from,
                          valid);
        }
        for (unsigned at = threadIdx.x; at < kSlabs * kBlocks * kWarp; at += blockDim.x) {
            const unsigned lane = at % kWarp, block = at / kWarp % kBlocks, slab = at / (kWarp * kBlocks);
            const bool valid = first_row + slab * kSlabRows < p.rows && first_block + block < p.blocks;
            const std::size_t index = (first_row / kSlabRows + slab) * p.blocks + first_block + block;
            const std::size_t from = valid ? index * kSlabBytes + 16 * lane : 0;
            copy_async_16(codes(block, slab) + 16 * lane, p.codes + from, valid);
        }
        for (unsigned at = threadIdx.x; at < kRows / 4 * kBlocks; at += blockDim.x) {
            const unsigned row = at % (kRows / 4) * 4, block = at / (kRows / 4);
            const bool valid = first_row + row < p.rows && first_block + block < p.blocks;
            const std::size_t from = valid ? std::size_t{first_block + block} * p.rows + first_row + row : 0;
            copy_async_16(scales(block) + row, p.scales + from, valid);
        }
    }
};

// What a lane reads of one slab: the codes of its fragments and the scales of its two rows.
struct LaneCodes {
    std::uint32_t word[4];
    float even, odd;

    template <class AnyStage>
    __device__ __forceinline__ void load(const AnyStage& stage, unsigned block, unsigned slab,
                                         unsigned lane) {
        const uint4 words = *reinterpret_cast<const uint4*>(stage.codes(block, slab) + 16 * lane);
        word[0] = words.x, word[1] = words.y, word[2] = words.z, word[3] = words.w;
        const float2 both =
            *reinterpret_cast<const float2*>(stage.scales(block) + slab * kSlabRows + lane / 4 * 2);
        even = both.x, odd = both.y;
    }
};

// Two neighbours of y's row `token`.
__device__ __forceinline__ void write_pair(const Product& p, std::size_t token, std::size_t row, float low,
                                           float high) {
    if (token >= p.tokens) return;
    auto* at = reinterpret_cast<std::uint32_t*>(p.y + token * p.y_pitch + row);
    if (p.accumulate) {
        const std::uint32_t before = *at;
        low = __fadd_rn(low_of(before), low);
        high = __fadd_rn(high_of(before), high);
    }
    *at = pack(low, high);
}

// A lane's sums of one slab: d[j] is the accumulator of tokens 8 j ... of the tile.
template <unsigned kGroups>
__device__ __forceinline__ void write_slab(const Product& p, std::size_t first_token, std::size_t first_row,
                                           unsigned lane, const float (&d)[kGroups][4]) {
    if (first_row >= p.rows) return;
    const std::size_t row = first_row + lane / 4 * 2;
    FEDLLM_UNROLL
    for (unsigned j = 0; j < kGroups; ++j) {
        const std::size_t token = first_token + 8 * j + lane % 4 * 2;
        write_pair(p, token, row, d[j][0], d[j][2]);
        write_pair(p, token + 1, row, d[j][1], d[j][3]);
    }
}

}  // namespace fedllm::kernels::cuda::nf4
