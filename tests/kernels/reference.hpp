// Naive double-precision oracles, one per operation, and the magnitudes their error bounds are made of.
// They are written to be read, not to be fast; their gradients are checked by finite differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/device/views.hpp"
#include "kernels/quantize/code_books.hpp"

namespace fedllm::kernels::reference {

struct Dense {
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::vector<double> values;

    Dense() = default;
    Dense(std::size_t r, std::size_t c) : rows(r), cols(c), values(r * c, 0.0) {}
    double& operator()(std::size_t i, std::size_t j) { return values[i * cols + j]; }
    double operator()(std::size_t i, std::size_t j) const { return values[i * cols + j]; }
};

inline Dense transposed(const Dense& a) {
    Dense out(a.cols, a.rows);
    for (std::size_t i = 0; i < a.rows; ++i) {
        for (std::size_t j = 0; j < a.cols; ++j) out(j, i) = a(i, j);
    }
    return out;
}
inline Dense absolute(Dense a) {
    for (double& value : a.values) value = std::abs(value);
    return a;
}
inline Dense scaled(Dense a, double factor) {
    for (double& value : a.values) value *= factor;
    return a;
}
inline Dense sum(Dense a, const Dense& b) {
    for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] += b.values[i];
    return a;
}

// a (M,K) times b (N,K) transposed.
inline Dense times_transposed(const Dense& a, const Dense& b) {
    Dense out(a.rows, b.rows);
    for (std::size_t i = 0; i < a.rows; ++i) {
        for (std::size_t j = 0; j < b.rows; ++j) {
            for (std::size_t k = 0; k < a.cols; ++k) out(i, j) += a(i, k) * b(j, k);
        }
    }
    return out;
}
inline Dense times(const Dense& a, const Dense& b) { return times_transposed(a, transposed(b)); }

// Element i of a flattened quantised weight with `cols` columns, decoded as bitsandbytes does.
inline float dequantised(WeightType type, const std::uint8_t* codes, const float* scales, std::size_t block,
                         std::size_t cols, std::size_t i) {
    if (type == WeightType::Int8)
        return static_cast<float>(static_cast<std::int8_t>(codes[i])) * scales[i / cols];
    const unsigned nibble = i % 2 == 0 ? codes[i / 2] / 16u : codes[i / 2] % 16u;
    const auto& book = type == WeightType::NF4 ? kNf4Values : kFp4Values;
    return book[nibble] * scales[i / block];
}

struct Lora {
    Dense a, b;
    double scale = 1.0;
};
inline Dense lora_forward(const Dense& x, const Dense& w, const Lora& lora) {
    const Dense s = times_transposed(x, lora.a);
    return sum(times_transposed(x, w), scaled(times_transposed(s, lora.b), lora.scale));
}
struct LoraGradients {
    Dense dx, da, db;
};
inline LoraGradients lora_backward(const Dense& dy, const Dense& x, const Dense& w, const Lora& lora) {
    const Dense ds = scaled(times(dy, lora.b), lora.scale);
    const Dense s = times_transposed(x, lora.a);
    return {sum(times(dy, w), times(ds, lora.a)), times(transposed(ds), x),
            scaled(times(transposed(dy), s), lora.scale)};
}

inline double rstd_of(const Dense& x, std::size_t row, double epsilon) {
    double squares = 0.0;
    for (std::size_t c = 0; c < x.cols; ++c) squares += x(row, c) * x(row, c);
    return 1.0 / std::sqrt(squares / static_cast<double>(x.cols) + epsilon);
}
inline Dense rms_norm(const Dense& x, const std::vector<double>& weight, double epsilon) {
    Dense y(x.rows, x.cols);
    for (std::size_t m = 0; m < x.rows; ++m) {
        const double rstd = rstd_of(x, m, epsilon);
        for (std::size_t c = 0; c < x.cols; ++c) y(m, c) = x(m, c) * rstd * weight[c];
    }
    return y;
}
struct NormGradients {
    Dense dx, dx_magnitude;
    std::vector<double> dweight, dweight_magnitude;
};
inline NormGradients rms_norm_backward(const Dense& dy, const Dense& x, const std::vector<double>& weight,
                                       double epsilon) {
    NormGradients out{Dense(x.rows, x.cols), Dense(x.rows, x.cols), std::vector<double>(x.cols),
                      std::vector<double>(x.cols)};
    for (std::size_t m = 0; m < x.rows; ++m) {
        const double rstd = rstd_of(x, m, epsilon);
        double mean = 0.0, mean_magnitude = 0.0;
        for (std::size_t c = 0; c < x.cols; ++c) {
            const double term = dy(m, c) * weight[c] * x(m, c) / static_cast<double>(x.cols);
            mean += term;
            mean_magnitude += std::abs(term);
        }
        for (std::size_t c = 0; c < x.cols; ++c) {
            const double g = dy(m, c) * weight[c];
            out.dx(m, c) = rstd * (g - x(m, c) * rstd * rstd * mean);
            out.dx_magnitude(m, c) = rstd * (std::abs(g) + std::abs(x(m, c)) * rstd * rstd * mean_magnitude);
            out.dweight[c] += dy(m, c) * x(m, c) * rstd;
            out.dweight_magnitude[c] += std::abs(dy(m, c) * x(m, c) * rstd);
        }
    }
    return out;
}

struct RowMoments {
    double mean = 0.0, rstd = 0.0;
};
inline RowMoments moments_of(const Dense& x, std::size_t row, double epsilon) {
    const double count = static_cast<double>(x.cols);
    double mean = 0.0, squares = 0.0;
    for (std::size_t c = 0; c < x.cols; ++c) mean += x(row, c) / count;
    for (std::size_t c = 0; c < x.cols; ++c) squares += (x(row, c) - mean) * (x(row, c) - mean);
    return {mean, 1.0 / std::sqrt(squares / count + epsilon)};
}
inline Dense layer_norm(const Dense& x, const std::vector<double>& weight, const std::vector<double>& bias,
                        double epsilon) {
    Dense y(x.rows, x.cols);
    for (std::size_t m = 0; m < x.rows; ++m) {
        const RowMoments row = moments_of(x, m, epsilon);
        for (std::size_t c = 0; c < x.cols; ++c) {
            y(m, c) = (x(m, c) - row.mean) * row.rstd * weight[c] + bias[c];
        }
    }
    return y;
}
struct LayerNormGradients {
    Dense dx, dx_magnitude;
    std::vector<double> dweight, dweight_magnitude, dbias, dbias_magnitude;
};
inline LayerNormGradients layer_norm_backward(const Dense& dy, const Dense& x,
                                              const std::vector<double>& weight, double epsilon) {
    const std::vector<double> zeros(x.cols);
    LayerNormGradients out{Dense(x.rows, x.cols), Dense(x.rows, x.cols), zeros, zeros, zeros, zeros};
    const double count = static_cast<double>(x.cols);
    for (std::size_t m = 0; m < x.rows; ++m) {
        const RowMoments row = moments_of(x, m, epsilon);
        double shift = 0.0, shift_magnitude = 0.0, pull = 0.0, pull_magnitude = 0.0,
               spread = std::abs(row.mean);
        for (std::size_t c = 0; c < x.cols; ++c) spread = std::max(spread, std::abs(x(m, c)));
        for (std::size_t c = 0; c < x.cols; ++c) {
            const double g = dy(m, c) * weight[c], n = (x(m, c) - row.mean) * row.rstd;
            shift += g / count;
            shift_magnitude += std::abs(g) / count;
            pull += g * n / count;
            pull_magnitude += std::abs(g) * spread * row.rstd / count;
        }
        for (std::size_t c = 0; c < x.cols; ++c) {
            const double g = dy(m, c) * weight[c], n = (x(m, c) - row.mean) * row.rstd;
            out.dx(m, c) = row.rstd * (g - shift - n * pull);
            out.dx_magnitude(m, c) =
                row.rstd * (std::abs(g) + shift_magnitude + spread * row.rstd * pull_magnitude);
            out.dweight[c] += dy(m, c) * n;
            out.dweight_magnitude[c] += std::abs(dy(m, c)) * spread * row.rstd;
            out.dbias[c] += dy(m, c);
            out.dbias_magnitude[c] += std::abs(dy(m, c));
        }
    }
    return out;
}

inline double sigmoid(double g) { return 1.0 / (1.0 + std::exp(-g)); }
inline double swiglu(double gate, double up) { return gate * sigmoid(gate) * up; }
struct SwigluGradient {
    double dgate, dup;
};
inline SwigluGradient swiglu_backward(double dout, double gate, double up) {
    const double s = sigmoid(gate);
    return {dout * up * (s + gate * s * (1.0 - s)), dout * gate * s};
}

inline double gelu_slope() { return std::sqrt(2.0 / std::acos(-1.0)); }
inline double gelu(double x) {
    return 0.5 * x * (1.0 + std::tanh(gelu_slope() * (x + 0.044715 * x * x * x)));
}
inline double gelu_derivative(double x) {
    const double t = std::tanh(gelu_slope() * (x + 0.044715 * x * x * x));
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * gelu_slope() * (1.0 + 3.0 * 0.044715 * x * x);
}

// direction -1 turns back.
inline Dense rope(const Dense& x, std::size_t heads, const std::vector<std::int32_t>& positions,
                  const std::vector<double>& frequencies, double direction) {
    Dense out = x;
    const std::size_t half = frequencies.size();
    for (std::size_t m = 0; m < x.rows; ++m) {
        for (std::size_t h = 0; h < heads; ++h) {
            for (std::size_t j = 0; j < half; ++j) {
                const double angle = positions[m] * frequencies[j];
                const std::size_t first = h * 2 * half + j, second = first + half;
                const double c = std::cos(angle), s = std::sin(angle) * direction;
                out(m, first) = x(m, first) * c - x(m, second) * s;
                out(m, second) = x(m, second) * c + x(m, first) * s;
            }
        }
    }
    return out;
}

inline double log_sum_exp(const Dense& logits, std::size_t row) {
    double highest = logits(row, 0), sum = 0.0;
    for (std::size_t v = 1; v < logits.cols; ++v) highest = std::max(highest, logits(row, v));
    for (std::size_t v = 0; v < logits.cols; ++v) sum += std::exp(logits(row, v) - highest);
    return highest + std::log(sum);
}
// Loss of one row; a negative target is ignored.
inline double cross_entropy(const Dense& logits, std::size_t row, std::int32_t target) {
    return target < 0 ? 0.0 : log_sum_exp(logits, row) - logits(row, static_cast<std::size_t>(target));
}
inline Dense cross_entropy_gradient(const Dense& logits, const std::vector<std::int32_t>& targets) {
    Dense out(logits.rows, logits.cols);
    for (std::size_t m = 0; m < logits.rows; ++m) {
        if (targets[m] < 0) continue;
        const double total = log_sum_exp(logits, m);
        for (std::size_t v = 0; v < logits.cols; ++v) out(m, v) = std::exp(logits(m, v) - total);
        out(m, static_cast<std::size_t>(targets[m])) -= 1.0;
    }
    return out;
}

struct AttentionSizes {
    std::size_t batch, tokens, heads, kv_heads, head_size;
    double scale;
};
struct AttentionResult {
    Dense out, out_magnitude;         // sum over keys of p |v|
    std::vector<double> log_sum_exp;  // (B,H,T)
    double score_magnitude = 0.0;     // the largest scale * sum |q| |k|
};
// Calls visit(row of the query, row of the key, query head, key head) for every visible pair, keys in order.
template <class Visit>
void for_visible_keys(const AttentionSizes& s, const std::vector<std::int32_t>& first_key, std::size_t b,
                      std::size_t h, std::size_t t, Visit&& visit) {
    const auto first = static_cast<std::size_t>(first_key[b * s.tokens + t]);
    for (std::size_t key = first; key <= t; ++key) {
        visit(b * s.tokens + t, b * s.tokens + key, h * s.head_size,
              h / (s.heads / s.kv_heads) * s.head_size);
    }
}
inline AttentionResult attention(const AttentionSizes& s, const std::vector<std::int32_t>& first_key,
                                 const Dense& q, const Dense& k, const Dense& v) {
    AttentionResult result{Dense(q.rows, q.cols), Dense(q.rows, q.cols),
                           std::vector<double>(s.batch * s.heads * s.tokens), 0.0};
    for (std::size_t i = 0; i < result.log_sum_exp.size(); ++i) {
        const std::size_t t = i % s.tokens, h = i / s.tokens % s.heads, b = i / s.tokens / s.heads;
        std::vector<double> scores;
        for_visible_keys(s, first_key, b, h, t,
                         [&](std::size_t row, std::size_t key, std::size_t at, std::size_t kv) {
                             double score = 0.0, magnitude = 0.0;
                             for (std::size_t j = 0; j < s.head_size; ++j) {
                                 score += s.scale * q(row, at + j) * k(key, kv + j);
                                 magnitude += s.scale * std::abs(q(row, at + j) * k(key, kv + j));
                             }
                             scores.push_back(score);
                             result.score_magnitude = std::max(result.score_magnitude, magnitude);
                         });
        const double highest = *std::max_element(scores.begin(), scores.end());
        double total = 0.0;
        for (const double score : scores) total += std::exp(score - highest);
        result.log_sum_exp[i] = highest + std::log(total);
        std::size_t n = 0;
        for_visible_keys(s, first_key, b, h, t,
                         [&](std::size_t row, std::size_t key, std::size_t at, std::size_t kv) {
                             const double p = std::exp(scores[n++] - result.log_sum_exp[i]);
                             for (std::size_t j = 0; j < s.head_size; ++j) {
                                 result.out(row, at + j) += p * v(key, kv + j);
                                 result.out_magnitude(row, at + j) += p * std::abs(v(key, kv + j));
                             }
                         });
    }
    return result;
}

struct AttentionGradients {
    Dense dq, dk, dv;
    Dense dq_magnitude, dk_magnitude, dv_magnitude;
};
inline AttentionGradients attention_backward(const AttentionSizes& s,
                                             const std::vector<std::int32_t>& first_key, const Dense& q,
                                             const Dense& k, const Dense& v, const Dense& dout) {
    const AttentionResult forward = attention(s, first_key, q, k, v);
    AttentionGradients g{Dense(q.rows, q.cols), Dense(k.rows, k.cols), Dense(k.rows, k.cols),
                         Dense(q.rows, q.cols), Dense(k.rows, k.cols), Dense(k.rows, k.cols)};
    for (std::size_t i = 0; i < forward.log_sum_exp.size(); ++i) {
        const std::size_t t = i % s.tokens, h = i / s.tokens % s.heads, b = i / s.tokens / s.heads;
        double dot = 0.0, dot_magnitude = 0.0;
        for (std::size_t j = 0; j < s.head_size; ++j) {
            const std::size_t row = b * s.tokens + t, at = h * s.head_size + j;
            dot += forward.out(row, at) * dout(row, at);
            dot_magnitude += forward.out_magnitude(row, at) * std::abs(dout(row, at));
        }
        for_visible_keys(s, first_key, b, h, t,
                         [&](std::size_t row, std::size_t key, std::size_t at, std::size_t kv) {
                             double score = 0.0, dp = 0.0, dp_magnitude = 0.0;
                             for (std::size_t j = 0; j < s.head_size; ++j) {
                                 score += s.scale * q(row, at + j) * k(key, kv + j);
                                 dp += dout(row, at + j) * v(key, kv + j);
                                 dp_magnitude += std::abs(dout(row, at + j) * v(key, kv + j));
                             }
                             const double p = std::exp(score - forward.log_sum_exp[i]);
                             const double ds = s.scale * p * (dp - dot),
                                          ds_magnitude = s.scale * p * (dp_magnitude + dot_magnitude);
                             for (std::size_t j = 0; j < s.head_size; ++j) {
                                 g.dq(row, at + j) += ds * k(key, kv + j);
                                 g.dk(key, kv + j) += ds * q(row, at + j);
                                 g.dv(key, kv + j) += p * dout(row, at + j);
                                 g.dq_magnitude(row, at + j) += ds_magnitude * std::abs(k(key, kv + j));
                                 g.dk_magnitude(key, kv + j) += ds_magnitude * std::abs(q(row, at + j));
                                 g.dv_magnitude(key, kv + j) += p * std::abs(dout(row, at + j));
                             }
                         });
    }
    return g;
}

struct AdamWState {
    double param, first, second;
};
inline AdamWState adamw(AdamWState state, double gradient, double rate, double beta1, double beta2,
                        double epsilon, double decay, std::uint64_t step) {
    const auto n = static_cast<double>(step);
    state.first = beta1 * state.first + (1.0 - beta1) * gradient;
    state.second = beta2 * state.second + (1.0 - beta2) * gradient * gradient;
    const double mean = state.first / (1.0 - std::pow(beta1, n));
    const double variance = state.second / (1.0 - std::pow(beta2, n));
    state.param = state.param * (1.0 - rate * decay) - rate * mean / (std::sqrt(variance) + epsilon);
    return state;
}

}  // namespace fedllm::kernels::reference
