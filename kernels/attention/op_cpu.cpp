#include "kernels/attention/op.hpp"

#include <algorithm>
#include <cmath>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/gemm_tile-inl.hpp"

#ifndef FEDLLM_KERNELS_ATTENTION_TASK
#define FEDLLM_KERNELS_ATTENTION_TASK
namespace fedllm::kernels {
namespace {

constexpr std::size_t kTile = 64;        // queries and keys of a tile
constexpr std::size_t kHeadsAtOnce = 4;  // query heads that share one packing of a key tile

struct ForwardTask {
    const AttentionShape& shape;
    const std::int32_t* first_key;
    ConstMatrix q, k, v;
    Matrix out;
    float* log_sum_exp;
};

struct BackwardTask {
    const AttentionShape& shape;
    const std::int32_t* first_key;
    ConstMatrix q, k, v, dout;
    const float* log_sum_exp;
    const float* dot;
    Matrix dq, dk, dv;
};

}  // namespace
}  // namespace fedllm::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

static_assert(kTile <= kTileRows);
constexpr float kNever = -std::numeric_limits<float>::infinity();

// Parts of the thread's scratch, each beginning at a cache line.
class Scratch {
public:
    float* take(std::size_t floats) {
        float* part = rest_.data();
        rest_ = rest_.subspan((floats + 15) / 16 * 16);
        return part;
    }

private:
    std::span<float> rest_ = ThreadPool::thread_scratch();
};
// Ten tiles of head rows and four of scores for the backward pass, and as many at most for the forward pass:
// two per head at once and those of the keys and values.
static_assert(2 * kHeadsAtOnce + 2 <= 10);
static_assert(10 * packed_a_floats(kTile, kHeadSizeMax) + 4 * packed_a_floats(kTile, kTile) <=
              ThreadPool::kThreadScratchFloats);

// A tile of at most kTile rows of one head.
struct HeadRows {
    const float* data;
    std::size_t pitch;
    std::size_t rows;
    std::size_t size;  // D
};

HeadRows head_rows(ConstMatrix m, std::size_t first_row, std::size_t rows, std::size_t head,
                   std::size_t size) {
    return {m.row(first_row) + head * size, m.pitch, rows, size};
}

Operand by_row(const HeadRows& t) { return {t.data, t.pitch, 1}; }     // outer = rows, depth = D
Operand by_column(const HeadRows& t) { return {t.data, 1, t.pitch}; }  // outer = D, depth = rows

// Keys of the tile [k0, k0 + nk) that a token may see, as offsets [low, high).
struct Seen {
    std::size_t low, high;
};

// What the tokens [t0, t0 + nq) see of the keys [k0, k0 + nk). Neither bound decreases from token to token.
struct Mask {
    std::size_t nq, nk;
    Seen seen[kTile];

    Mask(const std::int32_t* first_key, std::size_t t0, std::size_t q, std::size_t k0, std::size_t k)
        : nq(q), nk(k) {
        for (std::size_t i = 0; i < nq; ++i) {
            const std::size_t t = t0 + i, first = static_cast<std::size_t>(first_key[t]);
            const std::size_t low = first > k0 ? std::min(first - k0, nk) : 0;
            const std::size_t high = t + 1 > k0 ? std::min(t + 1 - k0, nk) : 0;
            seen[i] = {low, std::max(low, high)};
        }
    }
    // Keys that any of the queries [m, m + rows) sees.
    Range keys_of(std::size_t m, std::size_t rows) const { return {seen[m].low, seen[m + rows - 1].high}; }
    // Queries that see any of the keys [m, m + rows).
    Range queries_of(std::size_t m, std::size_t rows) const {
        Range range{0, nq};
        while (range.begin < nq && seen[range.begin].high <= m) ++range.begin;
        while (range.end > range.begin && seen[range.end - 1].low >= m + rows) --range.end;
        return range;
    }
};

// The three products of a tile pair; each leaves out what the mask makes zero. scores (nq,nk) = q k^T stays
// as it was where no query of a strip sees a key of a panel.
void multiply_scores(const Mask& mask, std::size_t size, const float* q, const float* k, float* scores) {
    multiply_packed(mask.nq, mask.nk, size, q, k, scores, kTile, /*accumulate=*/false,
                    [&](std::size_t m, std::size_t rows, std::size_t n, std::size_t cols) {
                        const Range keys = mask.keys_of(m, rows);
                        const bool wanted = n < keys.end && n + cols > keys.begin;
                        return Range{0, wanted ? size : 0};
                    });
}
// to (nq,D) += p (nq,nk) times rows of keys or values.
void add_over_keys(const Mask& mask, std::size_t size, const float* p, const float* v, float* to,
                   std::size_t pitch) {
    multiply_packed(
        mask.nq, size, mask.nk, p, v, to, pitch, /*accumulate=*/true,
        [&](std::size_t m, std::size_t rows, std::size_t, std::size_t) { return mask.keys_of(m, rows); });
}
// to (nk,D) += p^T (nk,nq) times rows of queries or of the output's gradient.
void add_over_queries(const Mask& mask, std::size_t size, const float* p, const float* q, float* to) {
    multiply_packed(
        mask.nk, size, mask.nq, p, q, to, size, /*accumulate=*/true,
        [&](std::size_t m, std::size_t rows, std::size_t, std::size_t) { return mask.queries_of(m, rows); });
}

float max_of(const float* row, Seen seen, float floor) {
    const Floats d;
    Vector highest = hn::Set(d, floor);
    std::size_t j = seen.low;
    for (; j + kLanes <= seen.high; j += kLanes) highest = hn::Max(highest, hn::LoadU(d, row + j));
    if (j < seen.high) {
        const auto inside = hn::FirstN(d, seen.high - j);
        highest = hn::Max(highest, hn::IfThenElse(inside, load_n(d, row + j, seen.high - j), highest));
    }
    return hn::GetLane(hn::MaxOfLanes(d, highest));
}

// row becomes exp(row - shift) where seen and 0 elsewhere; returns the sum.
float exp_row(float* row, std::size_t count, Seen seen, float shift) {
    const Floats d;
    const Vector shifts = hn::Set(d, shift);
    std::fill(row, row + seen.low, 0.0f);
    std::fill(row + seen.high, row + count, 0.0f);
    Vector sum = hn::Zero(d);
    std::size_t j = seen.low;
    for (; j + kLanes <= seen.high; j += kLanes) {
        const Vector p = exp_of(d, hn::Sub(hn::LoadU(d, row + j), shifts));
        hn::StoreU(p, d, row + j);
        sum = hn::Add(sum, p);
    }
    if (j < seen.high) {
        const std::size_t left = seen.high - j;
        const Vector p = exp_of(d, hn::Sub(load_n(d, row + j, left), shifts));
        store_n(d, p, row + j, left);
        sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(d, left), p));
    }
    return sum_of(d, sum);
}

void scale_row(const float* from, std::size_t count, float factor, float* to) {
    const Floats d;
    for (std::size_t i = 0; i < count; i += kLanes) {
        store_n(d, hn::Mul(load_n(d, from + i, count - i), hn::Set(d, factor)), to + i, count - i);
    }
}

// The state of the online softmax for one tile of queries of one head.
struct Online {
    float highest[kTile];
    float sum[kTile];
    float* packed_q;
    float* out;  // (kTile, D), not yet divided by sum
};

void fold_scores(const Mask& mask, std::size_t size, float* scores, Online& state) {
    for (std::size_t i = 0; i < mask.nq; ++i) {
        const Seen seen = mask.seen[i];
        float* row = scores + i * kTile;
        const float highest = max_of(row, seen, state.highest[i]);
        const float sum = exp_row(row, mask.nk, seen, highest);
        if (highest != state.highest[i] && state.sum[i] != 0.0f) {  // what was summed so far shrinks
            const float keep = std::exp(state.highest[i] - highest);
            state.sum[i] *= keep;
            scale_row(state.out + i * size, size, keep, state.out + i * size);
        }
        state.highest[i] = highest;
        state.sum[i] += sum;
    }
}

// One tile of queries of up to kHeadsAtOnce heads that share their keys: each key tile is packed once for
// all.
void ForwardTile(const ForwardTask& task, std::size_t b, std::size_t first_head, std::size_t heads,
                 std::size_t t0) {
    const AttentionShape& s = task.shape;
    const std::size_t nq = std::min(kTile, s.tokens - t0), size = s.head_size, row0 = b * s.tokens;
    const std::size_t kv_head = first_head / (s.heads / s.kv_heads);
    const std::int32_t* first_key = task.first_key + row0;
    Scratch scratch;
    float* packed_k = scratch.take((kTile + kPanelCols) * size);
    float* packed_v = scratch.take(kTile * padded_cols(size));
    float* packed_p = scratch.take(packed_a_floats(kTile, kTile));
    float* scores = scratch.take(kTile * kTile);
    Online states[kHeadsAtOnce];
    for (std::size_t h = 0; h < heads; ++h) {
        Online& state = states[h];
        state.packed_q = scratch.take(packed_a_floats(kTile, size));
        state.out = scratch.take(kTile * size);
        std::fill(state.highest, state.highest + kTile, kNever);
        std::fill(state.sum, state.sum + kTile, 0.0f);
        std::fill(state.out, state.out + nq * size, 0.0f);
        pack_a(by_row(head_rows(task.q, row0 + t0, nq, first_head + h, size)), nq, whole(size), s.scale,
               state.packed_q);
    }
    for (std::size_t k0 = static_cast<std::size_t>(first_key[t0]) / kTile * kTile; k0 < t0 + nq;
         k0 += kTile) {
        const Mask mask(first_key, t0, nq, k0, std::min(kTile, t0 + nq - k0));
        pack_b(by_row(head_rows(task.k, row0 + k0, mask.nk, kv_head, size)), mask.nk, whole(size), packed_k);
        pack_b(by_column(head_rows(task.v, row0 + k0, mask.nk, kv_head, size)), size, whole(mask.nk),
               packed_v);
        for (std::size_t h = 0; h < heads; ++h) {
            multiply_scores(mask, size, states[h].packed_q, packed_k, scores);
            fold_scores(mask, size, scores, states[h]);
            pack_a({scores, kTile, 1}, nq, whole(mask.nk), 1.0f, packed_p);
            add_over_keys(mask, size, packed_p, packed_v, states[h].out, size);
        }
    }
    for (std::size_t h = 0; h < heads; ++h) {
        const Online& state = states[h];
        float* log_sum_exp = task.log_sum_exp + (b * s.heads + first_head + h) * s.tokens + t0;
        for (std::size_t i = 0; i < nq; ++i) {
            scale_row(state.out + i * size, size, 1.0f / state.sum[i],
                      task.out.row(row0 + t0 + i) + (first_head + h) * size);
            log_sum_exp[i] = state.highest[i] + std::log(state.sum[i]);
        }
    }
}

// dot[b,h,t] = sum over D of out * dout, for one token of the batch and all heads.
void DotRow(const AttentionShape& s, ConstMatrix out, ConstMatrix dout, std::size_t row, float* dot) {
    const Floats d;
    const std::size_t b = row / s.tokens, t = row % s.tokens;
    for (std::size_t h = 0; h < s.heads; ++h) {
        const float* x = out.row(row) + h * s.head_size;
        const float* y = dout.row(row) + h * s.head_size;
        Vector sum = hn::Zero(d);
        for (std::size_t j = 0; j < s.head_size; j += kLanes) {
            sum = hn::MulAdd(load_n(d, x + j, s.head_size - j), load_n(d, y + j, s.head_size - j), sum);
        }
        dot[(b * s.heads + h) * s.tokens + t] = sum_of(d, sum);
    }
}

// dscores becomes p * (dscores - dot) * scale, the gradient of q k^T before scaling, and 0 where nothing is
// seen.
void score_gradient(const float* p, std::size_t count, Seen seen, float dot, float scale, float* dscores) {
    const Floats d;
    std::fill(dscores, dscores + seen.low, 0.0f);
    std::fill(dscores + seen.high, dscores + count, 0.0f);
    for (std::size_t j = seen.low; j < seen.high; j += kLanes) {
        const std::size_t left = seen.high - j;
        const Vector centred = hn::Sub(load_n(d, dscores + j, left), hn::Set(d, dot));
        const Vector scaled = hn::Mul(load_n(d, p + j, left), hn::Set(d, scale));
        store_n(d, hn::Mul(scaled, centred), dscores + j, left);
    }
}

// What one key tile keeps while the query tiles pass: its packed keys and values, and its two gradients.
struct KeyTile {
    std::size_t k0, nk;
    float *k_by_row, *v_by_row, *k_by_column;
    float *dk, *dv;  // (kTile, D)
};
struct QueryScratch {
    float *q_a, *q_b, *dout_a, *dout_b;
    float *p, *ds, *packed;
};

void backward_query_tile(const BackwardTask& task, std::size_t b, std::size_t h, std::size_t t0,
                         const KeyTile& key, const QueryScratch& scratch) {
    const AttentionShape& s = task.shape;
    const std::size_t nq = std::min(kTile, s.tokens - t0);
    const std::size_t row0 = b * s.tokens, size = s.head_size;
    const HeadRows q = head_rows(task.q, row0 + t0, nq, h, size);
    const HeadRows dout = head_rows(task.dout, row0 + t0, nq, h, size);
    pack_a(by_row(q), nq, whole(size), s.scale, scratch.q_a);
    pack_b(by_column(q), size, whole(nq), scratch.q_b);
    pack_a(by_row(dout), nq, whole(size), 1.0f, scratch.dout_a);
    pack_b(by_column(dout), size, whole(nq), scratch.dout_b);

    const Mask mask(task.first_key + row0, t0, nq, key.k0, key.nk);
    multiply_scores(mask, size, scratch.q_a, key.k_by_row, scratch.p);
    multiply_scores(mask, size, scratch.dout_a, key.v_by_row, scratch.ds);
    for (std::size_t i = 0; i < nq; ++i) {
        const std::size_t at = (b * s.heads + h) * s.tokens + t0 + i;
        exp_row(scratch.p + i * kTile, key.nk, mask.seen[i], task.log_sum_exp[at]);
        score_gradient(scratch.p + i * kTile, key.nk, mask.seen[i], task.dot[at], s.scale,
                       scratch.ds + i * kTile);
    }
    pack_a({scratch.p, 1, kTile}, key.nk, whole(nq), 1.0f, scratch.packed);
    add_over_queries(mask, size, scratch.packed, scratch.dout_b, key.dv);
    pack_a({scratch.ds, 1, kTile}, key.nk, whole(nq), 1.0f, scratch.packed);
    add_over_queries(mask, size, scratch.packed, scratch.q_b, key.dk);
    pack_a({scratch.ds, kTile, 1}, nq, whole(key.nk), 1.0f, scratch.packed);
    add_over_keys(mask, size, scratch.packed, key.k_by_column, task.dq.row(row0 + t0) + h * size,
                  task.dq.pitch);
}

// All gradients of one key/value head of one row of the batch: nobody else writes them, so their order is
// fixed.
void BackwardHead(const BackwardTask& task, std::size_t b, std::size_t kv_head) {
    const AttentionShape& s = task.shape;
    const std::size_t size = s.head_size, group = s.heads / s.kv_heads, row0 = b * s.tokens;
    const std::size_t width = padded_cols(size);
    Scratch scratch;
    const std::size_t tall = packed_a_floats(kTile, width), square = packed_a_floats(kTile, kTile);
    const QueryScratch query{scratch.take(tall),  scratch.take(tall),   scratch.take(tall),
                             scratch.take(tall),  scratch.take(square), scratch.take(square),
                             scratch.take(square)};
    KeyTile key{0,
                0,
                scratch.take(tall),
                scratch.take(tall),
                scratch.take(tall),
                scratch.take(tall),
                scratch.take(tall)};
    for (std::size_t t = 0; t < s.tokens; ++t) {
        float* row = task.dq.row(row0 + t) + kv_head * group * size;
        std::fill(row, row + group * size, 0.0f);
    }
    for (key.k0 = 0; key.k0 < s.tokens; key.k0 += kTile) {
        key.nk = std::min(kTile, s.tokens - key.k0);
        const HeadRows k = head_rows(task.k, row0 + key.k0, key.nk, kv_head, size);
        const HeadRows v = head_rows(task.v, row0 + key.k0, key.nk, kv_head, size);
        pack_b(by_row(k), key.nk, whole(size), key.k_by_row);
        pack_b(by_row(v), key.nk, whole(size), key.v_by_row);
        pack_b(by_column(k), size, whole(key.nk), key.k_by_column);
        std::fill(key.dk, key.dk + key.nk * size, 0.0f);
        std::fill(key.dv, key.dv + key.nk * size, 0.0f);
        for (std::size_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
            for (std::size_t t0 = key.k0; t0 < s.tokens; t0 += kTile) {
                // first_key does not decrease: once the first query of a tile sees past these keys, all do.
                if (static_cast<std::size_t>(task.first_key[row0 + t0]) >= key.k0 + key.nk) break;
                backward_query_tile(task, b, h, t0, key, query);
            }
        }
        for (std::size_t i = 0; i < key.nk; ++i) {
            const std::size_t row = row0 + key.k0 + i;
            std::copy_n(key.dk + i * size, size, task.dk.row(row) + kv_head * size);
            std::copy_n(key.dv + i * size, size, task.dv.row(row) + kv_head * size);
        }
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(ForwardTile);
HWY_EXPORT(DotRow);
HWY_EXPORT(BackwardHead);

void check(const AttentionShape& s, ConstMatrix q, ConstMatrix k, ConstMatrix v, ConstMatrix out) {
    const std::size_t rows = s.batch * s.tokens;
    FEDLLM_CHECK(s.kv_heads > 0 && s.heads % s.kv_heads == 0, "attention: heads are a multiple of kv_heads");
    FEDLLM_CHECK(s.head_size > 0 && s.head_size <= kHeadSizeMax, "attention: head_size is 1 to 256");
    FEDLLM_CHECK(q.rows == rows && k.rows == rows && v.rows == rows && out.rows == rows,
                 "attention: rows are batch * tokens");
    FEDLLM_CHECK(q.cols == s.heads * s.head_size && out.cols == q.cols,
                 "attention: q and out are (B*T, H*D)");
    FEDLLM_CHECK(k.cols == s.kv_heads * s.head_size && v.cols == k.cols,
                 "attention: k and v are (B*T, KV*D)");
}

}  // namespace

void attention_forward(ThreadPool& pool, const AttentionShape& shape, const std::int32_t* first_key,
                       ConstMatrix q, ConstMatrix k, ConstMatrix v, Matrix out, float* log_sum_exp) {
    check(shape, q, k, v, out);
    const ForwardTask task{shape, first_key, q, k, v, out, log_sum_exp};
    const std::size_t tiles = (shape.tokens + kTile - 1) / kTile;
    const std::size_t group = shape.heads / shape.kv_heads, parts = (group + kHeadsAtOnce - 1) / kHeadsAtOnce;
    const std::size_t columns = shape.batch * shape.kv_heads * parts;
    pool.parallel_for(columns * tiles, [&](std::size_t i) {
        // Late tiles see the most keys: they come first, so that the threads finish together.
        const std::size_t tile = tiles - 1 - i / columns;
        const std::size_t b = i % columns / (shape.kv_heads * parts),
                          kv_head = i % columns / parts % shape.kv_heads;
        const std::size_t first = i % parts * kHeadsAtOnce;
        HWY_DYNAMIC_DISPATCH(ForwardTile)
        (task, b, kv_head * group + first, std::min(kHeadsAtOnce, group - first), tile * kTile);
    });
}

void attention_backward(ThreadPool& pool, const AttentionShape& shape, const std::int32_t* first_key,
                        ConstMatrix q, ConstMatrix k, ConstMatrix v, ConstMatrix out,
                        const float* log_sum_exp, ConstMatrix dout, float* dot, Matrix dq, Matrix dk,
                        Matrix dv) {
    check(shape, q, k, v, out);
    check(shape, dq, dk, dv, dout);
    pool.parallel_for(shape.batch * shape.tokens, [&](std::size_t row) {
        HWY_DYNAMIC_DISPATCH(DotRow)(shape, out, dout, row, dot);
    });
    const BackwardTask task{shape, first_key, q, k, v, dout, log_sum_exp, dot, dq, dk, dv};
    pool.parallel_for(shape.batch * shape.kv_heads, [&](std::size_t i) {
        HWY_DYNAMIC_DISPATCH(BackwardHead)(task, i / shape.kv_heads, i % shape.kv_heads);
    });
}

}  // namespace fedllm::kernels
#endif
