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

constexpr std::size_t kTile = 64;  // queries and keys of a tile

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
// The largest user is the backward pass: ten tiles of head rows and four of scores.
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

// Keys of the tile [k0, k0 + nk) that token t may see, as offsets [low, high).
struct Seen {
    std::size_t low, high;
};
Seen seen_keys(const std::int32_t* first_key, std::size_t t, std::size_t k0, std::size_t nk) {
    const std::size_t first = static_cast<std::size_t>(first_key[t]);
    const std::size_t low = first > k0 ? std::min(first - k0, nk) : 0;
    const std::size_t high = t + 1 > k0 ? std::min(t + 1 - k0, nk) : 0;
    return {low, std::max(low, high)};
}

float max_of(const float* row, Seen seen, float floor) {
    const Floats d;
    Vector highest = hn::Set(d, floor);
    for (std::size_t j = seen.low; j < seen.high; j += kLanes) {
        const Vector x = load_n(d, row + j, seen.high - j);
        const auto inside = hn::FirstN(d, seen.high - j);
        highest = hn::Max(highest, hn::IfThenElse(inside, x, hn::Set(d, floor)));
    }
    return hn::GetLane(hn::MaxOfLanes(d, highest));
}

// row becomes exp(row - shift) where seen and 0 elsewhere; returns the sum.
float exp_row(float* row, std::size_t count, Seen seen, float shift) {
    const Floats d;
    std::fill(row, row + seen.low, 0.0f);
    std::fill(row + seen.high, row + count, 0.0f);
    Vector sum = hn::Zero(d);
    for (std::size_t j = seen.low; j < seen.high; j += kLanes) {
        const std::size_t left = seen.high - j;
        Vector p = exp_of(d, hn::Sub(load_n(d, row + j, left), hn::Set(d, shift)));
        p = hn::IfThenElseZero(hn::FirstN(d, left), p);
        store_n(d, p, row + j, left);
        sum = hn::Add(sum, p);
    }
    return sum_of(d, sum);
}

void scale_row(const float* from, std::size_t count, float factor, float* to) {
    const Floats d;
    for (std::size_t i = 0; i < count; i += kLanes) {
        store_n(d, hn::Mul(load_n(d, from + i, count - i), hn::Set(d, factor)), to + i, count - i);
    }
}

// The state of the online softmax for one tile of queries.
struct Online {
    float highest[kTile];
    float sum[kTile];
    float* out;  // (kTile, D), not yet divided by sum
};

void fold_scores(const ForwardTask& task, std::size_t b, std::size_t t0, std::size_t nq, std::size_t k0,
                 std::size_t nk, float* scores, Online& state) {
    const std::int32_t* first_key = task.first_key + b * task.shape.tokens;
    const std::size_t size = task.shape.head_size;
    for (std::size_t i = 0; i < nq; ++i) {
        const Seen seen = seen_keys(first_key, t0 + i, k0, nk);
        float* row = scores + i * kTile;
        const float highest = max_of(row, seen, state.highest[i]);
        const float sum = exp_row(row, nk, seen, highest);
        if (seen.low == seen.high) continue;
        const float keep = std::exp(state.highest[i] - highest);  // 0 for the first keys: exp(-inf)
        state.highest[i] = highest;
        state.sum[i] = state.sum[i] * keep + sum;
        scale_row(state.out + i * size, size, keep, state.out + i * size);
    }
}

// One tile of queries of one head against all its keys.
void ForwardTile(const ForwardTask& task, std::size_t b, std::size_t h, std::size_t t0) {
    const AttentionShape& s = task.shape;
    const std::size_t nq = std::min(kTile, s.tokens - t0);
    const std::size_t kv_head = h / (s.heads / s.kv_heads);
    const std::size_t width = padded_cols(s.head_size);
    Scratch scratch;
    float* packed_q = scratch.take(packed_a_floats(kTile, s.head_size));
    float* packed_k = scratch.take((kTile + kPanelCols) * s.head_size);
    float* packed_v = scratch.take(kTile * width);
    float* packed_p = scratch.take(packed_a_floats(kTile, kTile));
    float* scores = scratch.take(kTile * kTile);
    Online state{{}, {}, scratch.take(kTile * s.head_size)};
    std::fill(state.highest, state.highest + kTile, kNever);
    std::fill(state.out, state.out + nq * s.head_size, 0.0f);

    const std::size_t row0 = b * s.tokens;
    pack_a(by_row(head_rows(task.q, row0 + t0, nq, h, s.head_size)), nq, whole(s.head_size), s.scale,
           packed_q);
    const std::size_t first = static_cast<std::size_t>(task.first_key[row0 + t0]);
    for (std::size_t k0 = first / kTile * kTile; k0 < t0 + nq; k0 += kTile) {
        const std::size_t nk = std::min(kTile, t0 + nq - k0);
        pack_b(by_row(head_rows(task.k, row0 + k0, nk, kv_head, s.head_size)), nk, whole(s.head_size),
               packed_k);
        multiply_packed(nq, nk, s.head_size, packed_q, packed_k, scores, kTile, /*accumulate=*/false);
        fold_scores(task, b, t0, nq, k0, nk, scores, state);
        pack_a({scores, kTile, 1}, nq, whole(nk), 1.0f, packed_p);
        pack_b(by_column(head_rows(task.v, row0 + k0, nk, kv_head, s.head_size)), s.head_size, whole(nk),
               packed_v);
        multiply_packed(nq, s.head_size, nk, packed_p, packed_v, state.out, s.head_size, /*accumulate=*/true);
    }
    for (std::size_t i = 0; i < nq; ++i) {
        scale_row(state.out + i * s.head_size, s.head_size, 1.0f / state.sum[i],
                  task.out.row(row0 + t0 + i) + h * s.head_size);
        task.log_sum_exp[(b * s.heads + h) * s.tokens + t0 + i] = state.highest[i] + std::log(state.sum[i]);
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

// dscores becomes p * (dscores - dot) * scale: the gradient of q k^T before scaling. p is 0 where nothing is
// seen.
void score_gradient(const float* p, std::size_t count, float dot, float scale, float* dscores) {
    const Floats d;
    for (std::size_t j = 0; j < count; j += kLanes) {
        const Vector centred = hn::Sub(load_n(d, dscores + j, count - j), hn::Set(d, dot));
        const Vector scaled = hn::Mul(load_n(d, p + j, count - j), hn::Set(d, scale));
        store_n(d, hn::Mul(scaled, centred), dscores + j, count - j);
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

    multiply_packed(nq, key.nk, size, scratch.q_a, key.k_by_row, scratch.p, kTile, /*accumulate=*/false);
    multiply_packed(nq, key.nk, size, scratch.dout_a, key.v_by_row, scratch.ds, kTile, /*accumulate=*/false);
    for (std::size_t i = 0; i < nq; ++i) {
        const std::size_t at = (b * s.heads + h) * s.tokens + t0 + i;
        const Seen seen = seen_keys(task.first_key + row0, t0 + i, key.k0, key.nk);
        exp_row(scratch.p + i * kTile, key.nk, seen, task.log_sum_exp[at]);
        score_gradient(scratch.p + i * kTile, key.nk, task.dot[at], s.scale, scratch.ds + i * kTile);
    }
    pack_a({scratch.p, 1, kTile}, key.nk, whole(nq), 1.0f, scratch.packed);
    multiply_packed(key.nk, size, nq, scratch.packed, scratch.dout_b, key.dv, size, /*accumulate=*/true);
    pack_a({scratch.ds, 1, kTile}, key.nk, whole(nq), 1.0f, scratch.packed);
    multiply_packed(key.nk, size, nq, scratch.packed, scratch.q_b, key.dk, size, /*accumulate=*/true);
    pack_a({scratch.ds, kTile, 1}, nq, whole(key.nk), 1.0f, scratch.packed);
    multiply_packed(nq, size, key.nk, scratch.packed, key.k_by_column, task.dq.row(row0 + t0) + h * size,
                    task.dq.pitch, /*accumulate=*/true);
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
    pool.parallel_for(shape.batch * shape.heads * tiles, [&](std::size_t i) {
        // Late tiles see the most keys: they come first, so that the threads finish together.
        const std::size_t tile = tiles - 1 - i / (shape.batch * shape.heads);
        const std::size_t head = i % (shape.batch * shape.heads);
        HWY_DYNAMIC_DISPATCH(ForwardTile)(task, head / shape.heads, head % shape.heads, tile * kTile);
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
