// Backward attention: probabilities are computed again, once by blocks that own a tile of keys (dk, dv) and
// once by blocks that own a tile of queries (dq). Two products more than if one kernel did all, but every sum
// has one owner and a fixed order, and no atomics.
#include "kernels/attention/tiles.cuh"

namespace fedllm::kernels::cuda {
namespace attention {
namespace {

// As in the forward pass: two blocks at once, and as many strips a warp as its registers hold.
template <unsigned kHead>
struct KeyTiles {
    static constexpr unsigned kStrips = kHead <= 64 ? 2 : 1;
    static constexpr unsigned kKeys = 64 * kStrips;
    static constexpr unsigned kQueries = kHead <= 64 ? 32 : kHead <= 128 ? 64 : 16;
    static constexpr std::size_t kSharedBytes =
        (2 * kKeys + 4 * kQueries) * kHead * sizeof(BF16) + 2 * kQueries * sizeof(float4);
    static_assert(kSharedBytes <= kSharedBytesMax);
};
template <unsigned kHead>
struct QueryTiles {
    static constexpr unsigned kStrips = kHead <= 128 ? 2 : 1;
    static constexpr unsigned kQueries = 64 * kStrips;
    static constexpr unsigned kKeys = kHead <= 64 ? 64 : kHead <= 128 ? 32 : 16;
    static constexpr std::size_t kSharedBytes = (2 * kQueries + 4 * kKeys) * kHead * sizeof(BF16);
    static_assert(kSharedBytes <= kSharedBytesMax);
};

// What the tiles need to know of a query and head: x = log2(e) * log_sum_exp, y = minus dot of out and dout,
// z = bits of first_key. (B,H, tokens rounded up to whole tiles): a query that is not there sees nothing.
using Facts = float4;
constexpr unsigned kFactRows = 128;
__host__ __device__ __forceinline__ std::size_t fact_rows(std::size_t tokens) {
    return (tokens + kFactRows - 1) / kFactRows * kFactRows;
}
__device__ __forceinline__ std::int32_t first_key_of(const Facts& facts) { return __float_as_int(facts.z); }

struct BackwardTask {
    AttentionShape shape;
    const std::int32_t* first_key;
    ConstDeviceMatrix q, k, v, out, dout;
    const float* log_sum_exp;
    Facts* facts;
    DeviceMatrix dq, dk, dv;
};

// `lanes`, a power of two up to 32 that is at least D / 8, work on one query and head.
__global__ void gather_facts(BackwardTask task, unsigned lanes) {
    const AttentionShape& shape = task.shape;
    const std::size_t at = (std::size_t{blockIdx.x} * blockDim.x + threadIdx.x) / lanes;
    const std::size_t rows = fact_rows(shape.tokens), h = at % shape.heads, t = at / shape.heads % rows;
    const std::size_t b = at / shape.heads / rows, token = b * shape.tokens + t;
    const unsigned chunk = threadIdx.x % lanes;
    const bool there = b < shape.batch && t < shape.tokens;
    float dot = 0;
    if (there && chunk < shape.head_size / 8) {
        const std::size_t column = h * shape.head_size + chunk * 8;
        const uint4 x = *reinterpret_cast<const uint4*>(task.out.data + token * task.out.pitch + column);
        const uint4 y = *reinterpret_cast<const uint4*>(task.dout.data + token * task.dout.pitch + column);
        auto add = [&dot](unsigned a, unsigned c) {
            dot = fmaf(low_of(a), low_of(c), dot);
            dot = fmaf(high_of(a), high_of(c), dot);
        };
        add(x.x, y.x), add(x.y, y.y), add(x.z, y.z), add(x.w, y.w);
    }
    for (unsigned apart = lanes / 2; apart > 0; apart /= 2) dot += __shfl_xor_sync(kFullMask, dot, apart);
    if (chunk != 0 || b >= shape.batch) return;
    const std::size_t head_row = b * shape.heads + h;
    task.facts[head_row * rows + t] =
        there ? make_float4(task.log_sum_exp[head_row * shape.tokens + t] * kLog2e, -dot,
                            __int_as_float(task.first_key[token]), 0.0f)
              : make_float4(0.0f, 0.0f, __int_as_float(0x7FFFFFFF), 0.0f);
}

// a *= b.
template <unsigned kStrips, unsigned kTiles>
__device__ __forceinline__ void multiply_elements(float (&a)[kStrips][kTiles][4],
                                                  const float (&b)[kStrips][kTiles][4]) {
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kStrips; ++m) {
        FEDLLM_UNROLL
        for (unsigned n = 0; n < kTiles; ++n) {
            FEDLLM_UNROLL
            for (unsigned e = 0; e < 4; ++e) a[m][n][e] *= b[m][n][e];
        }
    }
}

// Keys are rows, queries columns. Scores become probabilities; dp begins at minus dot, so that once dout v^T
// is added, their product is the gradient of the scores.
template <unsigned kStrips, unsigned kTiles>
__device__ __forceinline__ void weigh_queries(float scale_log2e, const Facts* facts,
                                              float (&scores)[kStrips][kTiles][4],
                                              float (&dp)[kStrips][kTiles][4]) {
    FEDLLM_UNROLL
    for (unsigned n = 0; n < kTiles; ++n) {
        FEDLLM_UNROLL
        for (unsigned e = 0; e < 4; ++e) {
            const Facts query = facts[8 * n + 2 * (lane() % 4) + e % 2];
            FEDLLM_UNROLL
            for (unsigned m = 0; m < kStrips; ++m) {
                scores[m][n][e] = exp2_approximate(fmaf(scores[m][n][e], scale_log2e, -query.x));
                dp[m][n][e] = query.y;
            }
        }
    }
}

// hide_unseen for keys as rows and queries as columns.
template <unsigned kStrips, unsigned kTiles>
__device__ __forceinline__ void hide_from_queries(float (&scores)[kStrips][kTiles][4], unsigned query,
                                                  const Facts* facts, unsigned key) {
    FEDLLM_UNROLL
    for (unsigned n = 0; n < kTiles; ++n) {
        FEDLLM_UNROLL
        for (unsigned e = 0; e < 4; ++e) {
            const unsigned column = 8 * n + 2 * (lane() % 4) + e % 2;
            const auto first = static_cast<unsigned>(first_key_of(facts[column]));
            FEDLLM_UNROLL
            for (unsigned m = 0; m < kStrips; ++m) {
                const unsigned at = key + 16 * m + 8 * (e / 2) + lane() / 4;
                if (at < first || at > query + column) scores[m][n][e] = -INFINITY;
            }
        }
    }
}

// The end of those tiles of kQueries queries that see a key before `key_end`; the first is among them.
template <unsigned kQueries>
__device__ __forceinline__ unsigned tiles_that_see(const std::int32_t* first_key, unsigned tokens,
                                                   unsigned first, unsigned key_end) {
    unsigned low = first + 1, high = (tokens + kQueries - 1) / kQueries;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        if (static_cast<unsigned>(first_key[middle * kQueries]) < key_end)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

enum class Gradients { Both, Keys, Values };

// What a warp's own keys gather while queries pass.
template <unsigned kHead, Gradients kWanted>
struct KeySums {
    static constexpr unsigned kStrips = KeyTiles<kHead>::kStrips;
    float dk[kStrips][kHead / 8][4] = {};
    float dv[kStrips][kHead / 8][4] = {};

    __device__ __forceinline__ void add(float scale_log2e, HeadTile<kHead> own_keys,
                                        HeadTile<kHead> own_values, unsigned key, HeadTile<kHead> q,
                                        HeadTile<kHead> dout, const Facts* facts, unsigned query) {
        constexpr unsigned kQueries = KeyTiles<kHead>::kQueries;
        const Sight sight = sight_of(query, kQueries, first_key_of(facts[0]),
                                     first_key_of(facts[kQueries - 1]), key, 16 * kStrips);
        if (sight == Sight::None) return;
        float p[kStrips][kQueries / 8][4] = {}, dp[kStrips][kQueries / 8][4];
        multiply_rows(p, own_keys, q);
        if (sight == Sight::Some) hide_from_queries(p, query, facts, key);
        weigh_queries(scale_log2e, facts, p, dp);
        if constexpr (kWanted != Gradients::Keys) multiply_columns(dv, p, dout);
        if constexpr (kWanted != Gradients::Values) {
            multiply_rows(dp, own_values, dout);
            multiply_elements(p, dp);
            multiply_columns(dk, p, q);
        }
    }
};

// dk and dv of a tile of keys: all queries that see them, of all heads that share them.
template <unsigned kHead, Gradients kWanted>
__global__ void __launch_bounds__(kThreads, 2) backward_keys(BackwardTask task) {
    using Tiles = KeyTiles<kHead>;
    constexpr unsigned kStrips = Tiles::kStrips, kKeys = Tiles::kKeys, kQueries = Tiles::kQueries;
    const AttentionShape& shape = task.shape;
    const auto tokens = static_cast<unsigned>(shape.tokens), kv_heads = static_cast<unsigned>(shape.kv_heads);
    const unsigned group = static_cast<unsigned>(shape.heads) / kv_heads;
    // The first keys are seen by most queries and begin first.
    const unsigned kv = blockIdx.x, b = blockIdx.y, key0 = blockIdx.z * kKeys;
    const unsigned own = warp() * 16 * kStrips, key = key0 + own;

    const HeadTile<kHead> keys{shared_memory<uint4>()}, values = keys.from(kKeys),
                                                        stages = keys.from(2 * kKeys);
    auto* facts = reinterpret_cast<Facts*>(stages.from(4 * kQueries).data);
    auto copy_queries = [&](unsigned stage, unsigned h, unsigned tile) {
        const unsigned query = tile * kQueries;
        copy_rows<kQueries>(stages.from(2 * stage * kQueries), head_rows(shape, task.q, b, h, query));
        copy_rows<kQueries>(stages.from((2 * stage + 1) * kQueries),
                            head_rows(shape, task.dout, b, h, query));
        const Facts* from = task.facts + (b * shape.heads + h) * fact_rows(tokens) + query;
        if (threadIdx.x < kQueries) copy_async_16(facts + stage * kQueries + threadIdx.x, from + threadIdx.x);
        copy_async_commit();
    };
    const unsigned first = key0 / kQueries, head0 = kv * group;
    copy_rows<kKeys>(keys, head_rows(shape, task.k, b, kv, key0));
    if constexpr (kWanted != Gradients::Values)
        copy_rows<kKeys>(values, head_rows(shape, task.v, b, kv, key0));
    copy_queries(0, head0, first);
    const unsigned end =
        tiles_that_see<kQueries>(task.first_key + b * shape.tokens, tokens, first, key0 + kKeys);

    KeySums<kHead, kWanted> sums;
    for (unsigned h = head0, tile = first, stage = 0; h < head0 + group; stage ^= 1) {
        copy_async_wait<0>();
        __syncthreads();  // this tile is there, and nobody reads the one before it
        const bool last = tile + 1 == end;
        const unsigned next_h = last ? h + 1 : h, next = last ? first : tile + 1;
        if (next_h < head0 + group) copy_queries(stage ^ 1, next_h, next);
        sums.add(shape.scale * kLog2e, keys.from(own), values.from(own), key,
                 stages.from(2 * stage * kQueries), stages.from((2 * stage + 1) * kQueries),
                 facts + stage * kQueries, tile * kQueries);
        h = next_h;
        tile = next;
    }
    float factors[kStrips][2];
    auto fill = [&](float factor) {
        for (auto& strip : factors) strip[0] = strip[1] = factor;
    };
    if constexpr (kWanted != Gradients::Values) {
        fill(shape.scale);
        store_rows(sums.dk, factors, keys.from(own), head_rows(shape, task.dk, b, kv, key));
    }
    if constexpr (kWanted != Gradients::Keys) {
        fill(1.0f);
        store_rows(sums.dv, factors, keys.from(own), head_rows(shape, task.dv, b, kv, key));
    }
}

// Queries are rows: weigh_queries for their own facts.
template <unsigned kStrips, unsigned kTiles>
__device__ __forceinline__ void weigh_keys(float scale_log2e, const Facts (&facts)[kStrips][2],
                                           float (&scores)[kStrips][kTiles][4],
                                           float (&dp)[kStrips][kTiles][4]) {
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kStrips; ++m) {
        FEDLLM_UNROLL
        for (unsigned n = 0; n < kTiles; ++n) {
            FEDLLM_UNROLL
            for (unsigned e = 0; e < 4; ++e) {
                scores[m][n][e] = exp2_approximate(fmaf(scores[m][n][e], scale_log2e, -facts[m][e / 2].x));
                dp[m][n][e] = facts[m][e / 2].y;
            }
        }
    }
}

// dq of a tile of queries of one head: all keys that they see.
template <unsigned kHead>
__global__ void __launch_bounds__(kThreads, 2) backward_queries(BackwardTask task) {
    using Tiles = QueryTiles<kHead>;
    constexpr unsigned kStrips = Tiles::kStrips, kKeys = Tiles::kKeys, kQueries = Tiles::kQueries;
    const AttentionShape& shape = task.shape;
    const auto tokens = static_cast<unsigned>(shape.tokens), heads = static_cast<unsigned>(shape.heads);
    const unsigned h = blockIdx.x, b = blockIdx.y, head_row = b * heads + h;
    const unsigned kv = h / (heads / static_cast<unsigned>(shape.kv_heads));
    const unsigned query0 = (gridDim.z - 1 - blockIdx.z) * kQueries;  // the last begin first
    const unsigned own = warp() * 16 * kStrips, query = query0 + own;

    const HeadTile<kHead> queries{shared_memory<uint4>()}, douts = queries.from(kQueries);
    const HeadTile<kHead> stages = queries.from(2 * kQueries);
    auto copy_keys = [&](unsigned stage, unsigned key) {
        copy_rows<kKeys>(stages.from(2 * stage * kKeys), head_rows(shape, task.k, b, kv, key));
        copy_rows<kKeys>(stages.from((2 * stage + 1) * kKeys), head_rows(shape, task.v, b, kv, key));
        copy_async_commit();
    };
    const Facts* facts = task.facts + head_row * fact_rows(tokens);
    auto first_key = [&](unsigned t) { return first_key_of(facts[t]); };
    Facts mine[kStrips][2];
    FEDLLM_UNROLL
    for (unsigned m = 0; m < kStrips; ++m) {
        mine[m][0] = facts[query + 16 * m + lane() / 4];
        mine[m][1] = facts[query + 16 * m + 8 + lane() / 4];
    }
    const std::int32_t first = first_key(query), first_of_last = first_key(query + 16 * kStrips - 1);

    const unsigned end = query0 + kQueries < tokens ? query0 + kQueries : tokens;
    unsigned key = static_cast<unsigned>(first_key(query0)) / kKeys * kKeys, stage = 0;
    copy_rows<kQueries>(queries, head_rows(shape, task.q, b, h, query0));
    copy_rows<kQueries>(douts, head_rows(shape, task.dout, b, h, query0));
    copy_keys(stage, key);
    float dq[kStrips][kHead / 8][4] = {};
    for (; key < end; key += kKeys, stage ^= 1) {
        copy_async_wait<0>();
        __syncthreads();
        if (key + kKeys < end) copy_keys(stage ^ 1, key + kKeys);
        const Sight sight = sight_of(query, 16 * kStrips, first, first_of_last, key, kKeys);
        if (sight == Sight::None) continue;
        const HeadTile<kHead> keys = stages.from(2 * stage * kKeys);
        float p[kStrips][kKeys / 8][4] = {}, dp[kStrips][kKeys / 8][4];
        multiply_rows(p, queries.from(own), keys);
        if (sight == Sight::Some) hide_unseen(p, query, key, first_key);
        weigh_keys(shape.scale * kLog2e, mine, p, dp);
        multiply_rows(dp, douts.from(own), keys.from(kKeys));
        multiply_elements(p, dp);
        multiply_columns(dq, p, keys);
    }
    float factors[kStrips][2];
    for (auto& strip : factors) strip[0] = strip[1] = shape.scale;
    store_rows(dq, factors, queries.from(own), head_rows(shape, task.dq, b, h, query));
}

template <unsigned kHead, Gradients kWanted>
void start_keys(const Stream& stream, const BackwardTask& task) {
    const AttentionShape& shape = task.shape;
    launch(stream,
           {.grid = grid_of(shape, shape.kv_heads, KeyTiles<kHead>::kKeys),
            .threads = kThreads,
            .shared_bytes = KeyTiles<kHead>::kSharedBytes},
           backward_keys<kHead, kWanted>, task);
}

void start_facts(const Stream& stream, const BackwardTask& task) {
    constexpr unsigned kFactThreads = 256;
    const AttentionShape& shape = task.shape;
    unsigned lanes = 1;
    while (lanes * 8 < shape.head_size) lanes *= 2;
    const std::size_t rows = shape.batch * shape.heads * fact_rows(shape.tokens);
    launch(stream, {.grid = {blocks_for(rows * lanes, kFactThreads)}, .threads = kFactThreads}, gather_facts,
           task, lanes);
}

}  // namespace
}  // namespace attention

void attention_backward(const Stream& stream, const AttentionShape& shape, const std::int32_t* first_key,
                        ConstDeviceMatrix q, ConstDeviceMatrix k, ConstDeviceMatrix v, ConstDeviceMatrix out,
                        const float* log_sum_exp, ConstDeviceMatrix dout, void* scratch, DeviceMatrix dq,
                        DeviceMatrix dk, DeviceMatrix dv) {
    using namespace attention;
    const BackwardTask task{shape, first_key, q, k, v, out, dout, log_sum_exp, static_cast<Facts*>(scratch),
                            dq,    dk,        dv};
    start_facts(stream, task);
    with_head_tile(shape.head_size, [&]<unsigned kHead>() {
        if constexpr (kHead <= 128) {
            start_keys<kHead, Gradients::Both>(stream, task);
        } else {  // the registers hold the sums of one
            start_keys<kHead, Gradients::Values>(stream, task);
            start_keys<kHead, Gradients::Keys>(stream, task);
        }
        using Tiles = QueryTiles<kHead>;
        launch(stream,
               {.grid = grid_of(shape, shape.heads, Tiles::kQueries),
                .threads = kThreads,
                .shared_bytes = Tiles::kSharedBytes},
               backward_queries<kHead>, task);
    });
}

std::size_t attention_scratch(const AttentionShape& shape) {
    return shape.batch * shape.heads * attention::fact_rows(shape.tokens) * sizeof(attention::Facts);
}

}  // namespace fedllm::kernels::cuda
