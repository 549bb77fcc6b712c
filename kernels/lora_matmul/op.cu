#include <algorithm>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/lora_matmul/op_cuda.hpp"

namespace fedllm::kernels::cuda {
namespace {

constexpr unsigned kThreads = 256;

constexpr std::size_t rounded_up(std::size_t value, std::size_t step) {
    return (value + step - 1) / step * step;
}

// A dense f32 matrix on its way into the panel.
struct Border {
    const float* from;  // (rows, cols)
    std::size_t rows, cols, eights_per_row;
    float scale;
    BF16* to;
};

// Eight columns a thread, of A and then of B. Trained values lie anywhere: rows may start off 16 bytes.
__global__ void __launch_bounds__(kThreads) copy_borders(Border a, Border b, std::size_t pitch) {
    const std::size_t thread = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
    const std::size_t eights_of_a = a.rows * a.eights_per_row;
    const bool of_a = thread < eights_of_a;
    const std::size_t index = of_a ? thread : thread - eights_of_a;
    const std::size_t cols = of_a ? a.cols : b.cols;
    const std::size_t eights_per_row = of_a ? a.eights_per_row : b.eights_per_row;
    const std::size_t row = index / eights_per_row, column = (index - row * eights_per_row) * kEight;
    if (row >= (of_a ? a.rows : b.rows)) return;
    const float* from = (of_a ? a.from : b.from) + row * cols + column;
    const auto left = static_cast<unsigned>(cols - column);
    EightFloats values{};
    if (left >= kEight && reinterpret_cast<std::uintptr_t>(from) % 16 == 0) {
        values = load_eight(from);
    } else {
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) values.at[i] = i < left ? from[i] : 0.0f;
    }
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) values.at[i] *= of_a ? a.scale : b.scale;
    store_eight((of_a ? a.to : b.to) + row * pitch + column, to_eight(values), left);
}

// How the gradients of one part are divided: a block takes 512 outputs of some steps of 64 tokens, so that
// about two blocks for each multiprocessor of the largest Hopper cover dY. Sizes alone decide, for the same
// bits on every GPU.
constexpr unsigned kTokens = 64;
constexpr unsigned kOutputs = 256;  // of a tile
constexpr unsigned kTilesAcross = 2;
constexpr std::size_t kBlocksWanted = 2 * 132;

struct Division {
    unsigned chunks = 0;          // of outputs
    unsigned parts = 0;           // of tokens
    unsigned steps_per_part = 0;  // of 64 tokens
    std::size_t rank_padded = 0;
};
Division division_of(std::size_t m, std::size_t n, std::size_t rank) {
    Division division;
    division.chunks = blocks_for(n, kTilesAcross * kOutputs);
    const std::size_t steps = blocks_for(m, kTokens);
    const std::size_t parts_wanted = std::max<std::size_t>(1, kBlocksWanted / std::max(division.chunks, 1U));
    division.steps_per_part = blocks_for(std::max<std::size_t>(steps, 1), parts_wanted);
    division.parts = blocks_for(steps, division.steps_per_part);
    division.rank_padded = rounded_up(rank, kEight);
    return division;
}

struct Gradients {
    ConstDeviceMatrix dy;  // (M,N)
    ConstDeviceMatrix s;   // (M,R)
    ConstDeviceMatrix b;   // (N,R), scaled
    Division division;
    float* ds_parts;  // (chunks, M, padded R)
    float* db_parts;  // (parts, N, padded R)
};

// Rows of `kColumns` bf16 in shared memory, 16 bytes further apart: eight rows' units of 16 bytes fall into
// different banks.
template <unsigned kColumns>
constexpr unsigned kSharedPitch = kColumns + kEight;
// Where things lie in shared memory, in bf16. Few ranks leave room for two blocks of a multiprocessor, which
// hide each other's waiting; else a block has one more tile on its way.
template <unsigned kRank>
struct Layout {
    static constexpr unsigned kStages = kRank == 16 ? 2 : 3;
    static constexpr unsigned kTile = kTokens * kSharedPitch<kOutputs>;
    static constexpr unsigned kS = kTokens * kSharedPitch<kRank>;
    static constexpr unsigned kB = kTilesAcross * kOutputs * kSharedPitch<kRank>;
    static constexpr unsigned kBytes = (kB + kStages * kTile + 2 * kS) * sizeof(BF16);
};

// A window of a matrix into shared memory, zeros beyond the matrix.
template <unsigned kRows, unsigned kColumns>
__device__ __forceinline__ void copy_window(BF16* shared, const ConstDeviceMatrix& from,
                                            std::size_t first_row, std::size_t first_column) {
    constexpr unsigned kEights = kColumns / kEight;
    FEDLLM_UNROLL
    for (unsigned index = threadIdx.x; index < kRows * kEights; index += kThreads) {
        const unsigned row = index / kEights, column = index % kEights * kEight;
        const std::size_t at_row = first_row + row, at_column = first_column + column;
        const bool inside = at_row < from.rows && at_column < from.cols;
        const std::size_t left = inside ? from.cols - at_column : 0;
        copy_async_part(shared + row * kSharedPitch<kColumns> + column,
                        inside ? from.data + at_row * from.pitch + at_column : from.data,
                        left < kEight ? static_cast<unsigned>(left * sizeof(BF16)) : 16);
    }
}

// ds (16 tokens, 8 kTiles ranks) = dy (16 tokens, 256) b (256, ranks). `lane` as ldmatrix wants its rows.
template <unsigned kTiles, unsigned kRankPitch>
__device__ __forceinline__ void multiply_outputs(float (&ds)[kTiles][4], const BF16* dy, const BF16* b) {
    const unsigned lane = threadIdx.x % kWarp;
    dy += lane % 16 * kSharedPitch<kOutputs> + lane / 16 * 8;
    b += lane * kRankPitch;
    FEDLLM_UNROLL
    for (unsigned n = 0; n < kOutputs; n += 32) {
        std::uint32_t left[2][4];
        load_matrices(left[0], dy + n);
        load_matrices(left[1], dy + n + 16);
        FEDLLM_UNROLL
        for (unsigned tile = 0; tile < kTiles; ++tile) {
            std::uint32_t right[4];
            load_matrices_transposed(right, b + n * kRankPitch + 8 * tile);
            mma_m16n8k16(ds[tile], left[0], {right[0], right[1]});
            mma_m16n8k16(ds[tile], left[1], {right[2], right[3]});
        }
    }
}

// db (32 outputs, kRank) += dy^T (32 outputs, 64 tokens) s (64 tokens, kRank).
template <unsigned kRank>
__device__ __forceinline__ void multiply_tokens(float (&db)[2][kRank / 8][4], const BF16* dy, const BF16* s) {
    const unsigned lane = threadIdx.x % kWarp;
    dy += (lane % 8 + lane / 16 * 8) * kSharedPitch<kOutputs> + lane / 8 % 2 * 8;
    s += lane % 16 * kSharedPitch<kRank> + lane / 16 * 8;
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kTokens; m += 16) {
        std::uint32_t left[2][4];
        load_matrices_transposed(left[0], dy + m * kSharedPitch<kOutputs>);
        load_matrices_transposed(left[1], dy + m * kSharedPitch<kOutputs> + 16);
        FEDLLM_UNROLL
        for (unsigned pair = 0; pair < kRank / 16; ++pair) {
            std::uint32_t right[4];
            load_matrices_transposed(right, s + m * kSharedPitch<kRank> + 16 * pair);
            FEDLLM_UNROLL
            for (unsigned half = 0; half < 2; ++half) {
                mma_m16n8k16(db[half][2 * pair], left[half], {right[0], right[1]});
                mma_m16n8k16(db[half][2 * pair + 1], left[half], {right[2], right[3]});
            }
        }
    }
}

// A fragment (16 rows, 8 columns) to rows of f32, what of it lies within (rows, cols).
__device__ __forceinline__ void store_fragment(float* to, const float (&d)[4], std::size_t row,
                                               std::size_t column, std::size_t rows, std::size_t cols) {
    const unsigned lane = threadIdx.x % kWarp;
    row += lane / 4;
    if (column >= cols) return;
    column += lane % 4 * 2;
    if (row < rows) *reinterpret_cast<float2*>(to + row * cols + column) = {d[0], d[1]};
    if (row + 8 < rows) *reinterpret_cast<float2*>(to + (row + 8) * cols + column) = {d[2], d[3]};
}

// One pass over dY: a tile of 64 tokens and 256 outputs is read once and multiplied twice, while the next are
// on their way. Of dS every warp makes 16 tokens and half of the ranks, per step, over two tiles; of dB 2 x
// 32 outputs, over all steps. Blocks of y take further ranks.
template <unsigned kRank>
__global__ void __launch_bounds__(kThreads, kRank == 16 ? 2 : 1) multiply_low_rank(Gradients g) {
    using In = Layout<kRank>;
    constexpr unsigned kTiles = kRank / 16;
    auto* b = shared_memory<BF16>();  // (512, kRank)
    BF16* tiles_of_dy = b + In::kB;
    BF16* tiles_of_s = tiles_of_dy + In::kStages * In::kTile;
    const Division& division = g.division;
    const unsigned chunk = blockIdx.x % division.chunks, part = blockIdx.x / division.chunks;
    const std::size_t first_output = std::size_t{chunk} * kTilesAcross * kOutputs;
    const std::size_t first_rank = blockIdx.y * kRank, rank_padded = division.rank_padded;
    const std::size_t first_token = std::size_t{part} * division.steps_per_part * kTokens;
    const std::size_t tokens_left = g.dy.rows - first_token;
    const unsigned steps = tokens_left < division.steps_per_part * kTokens
                               ? static_cast<unsigned>((tokens_left + kTokens - 1) / kTokens)
                               : division.steps_per_part;
    const unsigned warp = threadIdx.x / kWarp;
    auto copy_tile = [&](unsigned tile) {
        const unsigned step = tile / kTilesAcross, across = tile % kTilesAcross;
        const std::size_t token = first_token + step * kTokens;
        if (step < steps) {
            copy_window<kTokens, kOutputs>(tiles_of_dy + tile % In::kStages * In::kTile, g.dy, token,
                                           first_output + across * kOutputs);
            if (across == 0)
                copy_window<kTokens, kRank>(tiles_of_s + step % 2 * In::kS, g.s, token, first_rank);
        }
        copy_async_commit();  // of nothing too: groups are counted
    };
    copy_window<kTilesAcross * kOutputs, kRank>(b, g.b, first_output, first_rank);
    for (unsigned tile = 0; tile + 1 < In::kStages; ++tile) copy_tile(tile);
    float db[kTilesAcross][2][kRank / 8][4] = {};
    for (unsigned step = 0; step < steps; ++step) {
        float ds[kTiles][4] = {};
        const unsigned row = warp % 4 * 16, rank = warp / 4 * (kRank / 2);
        FEDLLM_UNROLL
        for (unsigned across = 0; across < kTilesAcross; ++across) {
            const unsigned tile = step * kTilesAcross + across;
            copy_async_wait<In::kStages - 2>();
            __syncthreads();  // this tile is there, and nobody reads the last one any more
            copy_tile(tile + In::kStages - 1);
            const BF16* dy = tiles_of_dy + tile % In::kStages * In::kTile;
            multiply_outputs<kTiles, kSharedPitch<kRank>>(ds, dy + row * kSharedPitch<kOutputs>,
                                                          b + across * kOutputs * kSharedPitch<kRank> + rank);
            multiply_tokens<kRank>(db[across], dy + warp * 32, tiles_of_s + step % 2 * In::kS);
        }
        FEDLLM_UNROLL
        for (unsigned tile = 0; tile < kTiles; ++tile) {
            store_fragment(g.ds_parts + chunk * g.dy.rows * rank_padded, ds[tile],
                           first_token + step * kTokens + row, first_rank + rank + 8 * tile, g.dy.rows,
                           rank_padded);
        }
    }
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kTilesAcross * 2 * (kRank / 8); ++i) {
        const unsigned across = i % kTilesAcross, half = i / kTilesAcross % 2, tile = i / kTilesAcross / 2;
        store_fragment(g.db_parts + part * g.dy.cols * rank_padded, db[across][half][tile],
                       first_output + across * kOutputs + warp * 32 + half * 16, first_rank + 8 * tile,
                       g.dy.cols, rank_padded);
    }
}

__device__ __forceinline__ float2 sum_parts(const float* from, unsigned parts, std::size_t apart) {
    float2 sum = make_float2(0.0f, 0.0f);
    FEDLLM_UNROLL_BY(8)
    for (unsigned part = 0; part < parts; ++part) {
        const float2 more = __ldg(reinterpret_cast<const float2*>(from + part * apart));
        sum.x += more.x;
        sum.y += more.y;
    }
    return sum;
}

// The sums over the parts, two ranks a thread: of dS, and in the blocks behind of dB.
__global__ void __launch_bounds__(kThreads)
    add_parts(Gradients g, unsigned ds_blocks, float scale, DeviceMatrix ds, float* db) {
    const bool of_ds = blockIdx.x < ds_blocks;
    const std::size_t pairs = g.division.rank_padded / 2, rows = of_ds ? g.dy.rows : g.dy.cols;
    const std::size_t index =
        std::size_t{of_ds ? blockIdx.x : blockIdx.x - ds_blocks} * kThreads + threadIdx.x;
    const std::size_t row = index / pairs, rank = (index - row * pairs) * 2;
    if (row >= rows || rank >= ds.cols) return;
    const bool both = rank + 1 < ds.cols;
    const float2 sum = sum_parts((of_ds ? g.ds_parts : g.db_parts) + 2 * index,
                                 of_ds ? g.division.chunks : g.division.parts, rows * 2 * pairs);
    if (of_ds) {
        BF16* to = ds.data + row * ds.pitch + rank;
        if (both) *reinterpret_cast<std::uint32_t*>(to) = pack(sum.x, sum.y);
        if (!both) *to = from_float<BF16>(sum.x);
    } else {
        float* to = db + row * ds.cols + rank;
        to[0] = fmaf(scale, sum.x, to[0]);
        if (both) to[1] = fmaf(scale, sum.y, to[1]);
    }
}

template <unsigned kRank>
void multiply(const Stream& stream, const Gradients& g) {
    launch(stream,
           {.grid = {g.division.chunks * g.division.parts, blocks_for(g.division.rank_padded, kRank)},
            .threads = kThreads,
            .shared_bytes = Layout<kRank>::kBytes},
           multiply_low_rank<kRank>, g);
}

}  // namespace

std::size_t place_adapters(std::span<PanelPart> parts) {
    std::size_t places = 0;
    for (PanelPart& part : parts) {
        part.place = places;
        places += rounded_up(part.rank, 8);
    }
    return rounded_up(places, 16);
}

void fill_border(const Stream& stream, const Panel& panel, const PanelPart& part) {
    if (part.rank == 0) return;
    const DeviceMatrix& to = panel.values;
    const Border a{part.a,  part.rank,
                   panel.k, rounded_up(panel.k, kEight) / kEight,
                   1.0f,    to.row(panel.n_padded() + part.place)};
    const Border b{part.b,     part.rows,
                   part.rank,  rounded_up(part.rank, kEight) / kEight,
                   part.scale, to.row(part.row) + panel.k_padded() + part.place};
    const std::size_t eights = a.rows * a.eights_per_row + b.rows * b.eights_per_row;
    launch(stream, {.grid = {blocks_for(eights, kThreads)}, .threads = kThreads}, copy_borders, a, b,
           to.pitch);
}

void low_rank_backward(const Stream& stream, const Panel& panel, const PanelPart& part, ConstDeviceMatrix dy,
                       ConstDeviceMatrix s, DeviceMatrix ds, float* db, float* scratch) {
    if (part.rank == 0 || dy.rows == 0) return;
    const ConstDeviceMatrix b =
        panel.values.slice(part.row, part.rows).columns(panel.k_padded() + part.place, part.rank);
    Gradients g{dy, s, b, division_of(dy.rows, dy.cols, part.rank), scratch, nullptr};
    const std::size_t rank = g.division.rank_padded;
    g.db_parts = scratch + g.division.chunks * dy.rows * rank;
    // As many ranks at a time as there are, or as fit: the sums are the same.
    const std::size_t room = device_properties().shared_bytes_max;
    if (rank <= 16 || room < Layout<32>::kBytes) {
        multiply<16>(stream, g);
    } else if (rank <= 32 || room < Layout<64>::kBytes) {
        multiply<32>(stream, g);
    } else {
        multiply<64>(stream, g);
    }
    const unsigned ds_blocks = blocks_for(dy.rows * rank / 2, kThreads);
    const unsigned db_blocks = blocks_for(dy.cols * rank / 2, kThreads);
    launch(stream, {.grid = {ds_blocks + db_blocks}, .threads = kThreads}, add_parts, g, ds_blocks,
           part.scale, ds, db);
}

std::size_t low_rank_scratch(std::size_t m, std::size_t n, std::size_t rank) {
    const Division division = division_of(m, n, rank);
    return (division.chunks * m + division.parts * n) * division.rank_padded;
}

}  // namespace fedllm::kernels::cuda
