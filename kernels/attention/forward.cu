// Forward attention: a block is a tile of queries of one head, and meets the tiles of keys that they see, two
// of them in flight.
#include "kernels/attention/tiles.cuh"

namespace fedllm::kernels::cuda {
namespace attention {
namespace {

// Small enough that Hopper runs two blocks at once. Two strips a warp halve what a product reads from shared
// memory; at head size 256 the registers hold only one.
template <unsigned kHead>
struct ForwardTiles {
    static constexpr unsigned kStrips = kHead <= 128 ? 2 : 1;
    static constexpr unsigned kQueries = 64 * kStrips;
    static constexpr unsigned kKeys = kHead <= 128 ? 64 : 32;
    static constexpr std::size_t kSharedBytes = (kQueries + 4 * kKeys) * kHead * sizeof(BF16);
    static_assert(kSharedBytes <= kSharedBytesMax);
};

struct ForwardTask {
    AttentionShape shape;
    const std::int32_t* first_key;
    ConstDeviceMatrix q, k, v;
    DeviceMatrix out;
    float* log_sum_exp;
};

// The online softmax of a warp's queries: what weights refer to, near the highest score, and this lane's part
// of their sum.
template <unsigned kStrips>
struct Online {
    float reference[kStrips][2];  // in the units of exp2
    float sum[kStrips][2];
};
// The reference follows the highest score when weights would pass 2^8: a sum of 2^32 such is still far from
// the end of f32, and their precision is the same.
constexpr float kSlack = 8;
// The reference while nothing was seen: finite, or infinity would be taken from itself.
constexpr float kBelowAll = -1e30f;

// Scores become weights, exp2(scale * score - reference). Where the reference moves, what was summed before
// shrinks: seldom after the first tiles, hence the branch. It also keeps the compiler from adding up the
// weights as late as after the product that follows, all of them held in registers for that.
template <unsigned kStrips, unsigned kTiles, unsigned kChunks>
__device__ __forceinline__ void fold_scores(float scale_log2e, float (&scores)[kStrips][kTiles][4],
                                            Online<kStrips>& state, float (&out)[kStrips][kChunks][4]) {
    float shrink[kStrips][2], sum[kStrips][2];
    bool moved = false;
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kStrips; ++m) {
        FEDLLM_UNROLL
        for (unsigned half = 0; half < 2; ++half) {
            float highest = -INFINITY;
            FEDLLM_UNROLL
            for (unsigned n = 0; n < kTiles; ++n) {
                highest = fmaxf(highest, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
            }
            highest = fmaxf(highest, __shfl_xor_sync(kFullMask, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(kFullMask, highest, 2)) * scale_log2e;
            float& reference = state.reference[m][half];
            shrink[m][half] = 1.0f;
            if (highest > reference + kSlack) {
                shrink[m][half] = exp2_approximate(reference - highest);
                reference = highest;
                moved = true;
            }
            sum[m][half] = 0.0f;
            FEDLLM_UNROLL
            for (unsigned n = 0; n < kTiles; ++n) {
                FEDLLM_UNROLL
                for (unsigned e = 2 * half; e < 2 * half + 2; ++e) {
                    scores[m][n][e] = exp2_approximate(fmaf(scores[m][n][e], scale_log2e, -reference));
                    sum[m][half] += scores[m][n][e];
                }
            }
        }
    }
    if (__any_sync(kFullMask, moved)) {
        FEDLLM_UNROLL
        for (unsigned m = 0; m < kStrips; ++m) {
            FEDLLM_UNROLL
            for (unsigned half = 0; half < 2; ++half) {
                state.sum[m][half] *= shrink[m][half];
                FEDLLM_UNROLL
                for (unsigned n = 0; n < kChunks; ++n) {
                    out[m][n][2 * half] *= shrink[m][half];
                    out[m][n][2 * half + 1] *= shrink[m][half];
                }
            }
        }
    }
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kStrips; ++m) {
        FEDLLM_UNROLL
        for (unsigned half = 0; half < 2; ++half) state.sum[m][half] += sum[m][half];
    }
}

// A row's log of the sum, and what its output must be multiplied by.
template <unsigned kStrips>
__device__ __forceinline__ void finish(const ForwardTask& task, unsigned head_row, unsigned query,
                                       const Online<kStrips>& state, float (&inverse)[kStrips][2]) {
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kStrips; ++m) {
        FEDLLM_UNROLL
        for (unsigned half = 0; half < 2; ++half) {
            float sum = state.sum[m][half];
            sum += __shfl_xor_sync(kFullMask, sum, 1);
            sum += __shfl_xor_sync(kFullMask, sum, 2);
            inverse[m][half] = 1.0f / sum;
            const unsigned t = query + 16 * m + 8 * half + lane() / 4;
            if (lane() % 4 == 0 && t < task.shape.tokens) {
                task.log_sum_exp[head_row * task.shape.tokens + t] =
                    state.reference[m][half] * kLn2 + logf(sum);
            }
        }
    }
}

template <unsigned kHead>
__global__ void __launch_bounds__(kThreads, 2) forward(ForwardTask task) {
    using Tiles = ForwardTiles<kHead>;
    constexpr unsigned kStrips = Tiles::kStrips, kKeys = Tiles::kKeys;
    const AttentionShape& shape = task.shape;
    const auto tokens = static_cast<unsigned>(shape.tokens), heads = static_cast<unsigned>(shape.heads);
    // The last queries see most and begin first; heads that share keys are neighbours.
    const unsigned h = blockIdx.x, b = blockIdx.y, head_row = b * heads + h;
    const unsigned kv = h / (heads / static_cast<unsigned>(shape.kv_heads));
    const unsigned query0 = (gridDim.z - 1 - blockIdx.z) * Tiles::kQueries;
    const unsigned query = query0 + warp() * 16 * kStrips;
    const std::int32_t* first_key = task.first_key + b * shape.tokens;

    const HeadTile<kHead> queries{shared_memory<uint4>()}, own = queries.from(warp() * 16 * kStrips);
    const HeadTile<kHead> stages = queries.from(Tiles::kQueries);  // keys, values; keys, values
    auto copy_keys = [&](unsigned stage, unsigned key) {
        copy_rows<kKeys>(stages.from(2 * stage * kKeys), head_rows(shape, task.k, b, kv, key));
        copy_rows<kKeys>(stages.from((2 * stage + 1) * kKeys), head_rows(shape, task.v, b, kv, key));
        copy_async_commit();
    };
    auto first_key_of = [&](unsigned t) { return first_key[t < tokens ? t : tokens - 1]; };
    const std::int32_t first = first_key_of(query), first_of_last = first_key_of(query + 16 * kStrips - 1);
    Online<kStrips> state;
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kStrips; ++m) {
        state.reference[m][0] = state.reference[m][1] = kBelowAll;
        state.sum[m][0] = state.sum[m][1] = 0.0f;
    }
    float out[kStrips][kHead / 8][4] = {};

    const unsigned end = query0 + Tiles::kQueries < tokens ? query0 + Tiles::kQueries : tokens;
    unsigned key = static_cast<unsigned>(first_key[query0]) / kKeys * kKeys, stage = 0;
    copy_rows<Tiles::kQueries>(queries, head_rows(shape, task.q, b, h, query0));
    copy_keys(stage, key);
    for (; key < end; key += kKeys, stage ^= 1) {
        copy_async_wait<0>();
        __syncthreads();  // this tile is there, and nobody reads the one before it
        if (key + kKeys < end) copy_keys(stage ^ 1, key + kKeys);
        const Sight sight =
            query < tokens ? sight_of(query, 16 * kStrips, first, first_of_last, key, kKeys) : Sight::None;
        if (sight == Sight::None) continue;
        float scores[kStrips][kKeys / 8][4] = {};
        multiply_rows(scores, own, stages.from(2 * stage * kKeys));
        if (sight == Sight::Some) hide_unseen(scores, query, key, first_key_of);
        fold_scores(shape.scale * kLog2e, scores, state, out);
        multiply_columns(out, scores, stages.from((2 * stage + 1) * kKeys));
    }
    float inverse[kStrips][2];
    finish(task, head_row, query, state, inverse);
    store_rows(out, inverse, own, head_rows(shape, task.out, b, h, query));
}

}  // namespace
}  // namespace attention

void attention_forward(const Stream& stream, const AttentionShape& shape, const std::int32_t* first_key,
                       ConstDeviceMatrix q, ConstDeviceMatrix k, ConstDeviceMatrix v, DeviceMatrix out,
                       float* log_sum_exp) {
    attention::with_head_tile(shape.head_size, [&]<unsigned kHead>() {
        using Tiles = attention::ForwardTiles<kHead>;
        launch(stream,
               {.grid = attention::grid_of(shape, shape.heads, Tiles::kQueries),
                .threads = attention::kThreads,
                .shared_bytes = Tiles::kSharedBytes},
               attention::forward<kHead>, {shape, first_key, q, k, v, out, log_sum_exp});
    });
}

}  // namespace fedllm::kernels::cuda
