#include "client/engine/decoder.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "client/engine/rope_frequencies.hpp"
#include "client/engine/rows.hpp"
#include "kernels/attention/op.hpp"
#include "kernels/embedding/op.hpp"
#include "kernels/matmul/op.hpp"
#include "kernels/rms_norm/op.hpp"
#include "kernels/rope/op.hpp"
#include "kernels/swiglu/op.hpp"

namespace fedllm::client::engine {
namespace {

using kernels::ConstMatrix;
using kernels::Matrix;

constexpr std::size_t kBlock = 64;  // tokens of a prompt that are computed together

// One query against keys [0, count) of its head, softmax in one pass (kernels/attention says how).
void attend_one(const float* query, ConstMatrix keys, ConstMatrix values, std::size_t count, float scale,
                float* out) {
    const std::size_t size = keys.cols;
    float largest = -std::numeric_limits<float>::infinity();
    float sum = 0;
    std::fill_n(out, size, 0.0F);
    for (std::size_t key = 0; key < count; ++key) {
        const float score = scale * std::inner_product(query, query + size, keys.row(key), 0.0F);
        if (score > largest) {
            const float shrink = std::exp(largest - score);
            for (std::size_t d = 0; d < size; ++d) out[d] *= shrink;
            sum *= shrink;
            largest = score;
        }
        const float weight = std::exp(score - largest);
        sum += weight;
        const float* value = values.row(key);
        for (std::size_t d = 0; d < size; ++d) out[d] += weight * value[d];
    }
    for (std::size_t d = 0; d < size; ++d) out[d] /= sum;
}

}  // namespace

Decoder::Decoder(kernels::ThreadPool& pool, Network network, std::size_t capacity)
    : pool_(&pool), network_(std::move(network)), capacity_(capacity) {}

Result<Decoder> Decoder::create(kernels::ThreadPool& pool, Network network, std::size_t capacity) {
    if (capacity == 0)
        return make_error(Errc::InvalidArgument, "a decoder needs room for at least one token");
    Decoder made(pool, std::move(network), capacity);
    const std::size_t half = made.network_.config().head_size / 2;
    made.cosine_.resize(capacity * half);
    made.sine_.resize(capacity * half);
    kernels::rope_table(capacity, rope_frequencies(made.network_.config()), made.cosine_.data(),
                        made.sine_.data());
    made.positions_.resize(capacity);
    std::iota(made.positions_.begin(), made.positions_.end(), 0);
    Carver measure;
    made.lay_out(measure);
    made.arena_ = Arena(measure.used());
    Carver place(made.arena_.data());
    made.lay_out(place);
    return made;
}

void Decoder::lay_out(Carver& carver) {
    const model::ModelConfig& config = network_.config();
    const std::size_t m = std::min(kBlock, capacity_);
    Buffers& b = buffers_;
    for (float** rows : {&b.stream, &b.normed}) *rows = carver.take(m * config.hidden);
    b.rstd = carver.take(m);
    for (float** rows : {&b.query, &b.attended}) *rows = carver.take(m * config.query_width());
    for (float** rows : {&b.gate, &b.up, &b.act}) *rows = carver.take(m * config.intermediate);
    b.lora = carver.take(m * network_.binding().rank_max);
    b.logits = carver.take(config.vocab);
    for (float** all : {&b.keys, &b.values})
        *all = carver.take(config.layers * capacity_ * config.key_width());
}

Matrix Decoder::cache(float* base, std::size_t layer) const {
    const std::size_t width = network_.config().key_width();
    return Matrix(base + layer * capacity_ * width, capacity_, width);
}

Result<std::span<const float>> Decoder::append(std::span<const std::int32_t> tokens,
                                               const tensor::ParamSet& params) {
    const model::ModelConfig& config = network_.config();
    FEDLLM_CHECK(params.values().size() == network_.parameters(), "parameters have the network's manifest");
    FEDLLM_CHECK(!tokens.empty(), "there is a token to append");
    if (tokens.size() > capacity_ - length_) {
        return make_error(Errc::TooLarge, std::to_string(length_ + tokens.size()) +
                                              " tokens, and there is room for " + std::to_string(capacity_));
    }
    for (const std::int32_t token : tokens) {
        if (token >= 0 && static_cast<std::size_t>(token) < config.vocab) continue;
        return make_error(Errc::InvalidData, "token id " + std::to_string(token) + ": the model has " +
                                                 std::to_string(config.vocab) +
                                                 "; does the tokenizer belong to it?");
    }
    const float* values = params.values().data();
    std::size_t last_rows = 0;
    while (!tokens.empty()) {
        last_rows = std::min(kBlock, tokens.size());
        run_block(tokens.first(last_rows), values);
        tokens = tokens.subspan(last_rows);
    }
    const Matrix normed(buffers_.normed, 1, config.hidden);
    kernels::rms_norm_forward(
        *pool_, ConstMatrix(buffers_.stream + (last_rows - 1) * config.hidden, 1, config.hidden),
        network_.final_norm(values, nullptr).weight, config.norm_epsilon, normed, buffers_.rstd);
    kernels::matmul_forward(*pool_, normed, network_.head(values, nullptr).weight,
                            Matrix(buffers_.logits, 1, config.vocab));
    return std::span<const float>(buffers_.logits, config.vocab);
}

void Decoder::project(std::size_t layer, Part part, const float* params, ConstMatrix x, Matrix y) {
    const Linear linear = network_.linear(layer, part, params, nullptr);
    linear_forward(*pool_, linear, x, Matrix(buffers_.lora, x.rows, linear.lora.a.rows), y);
}

void Decoder::run_block(std::span<const std::int32_t> tokens, const float* params) {
    const model::ModelConfig& config = network_.config();
    const std::size_t m = tokens.size();
    const Buffers& b = buffers_;
    const std::int32_t* positions = positions_.data() + length_;
    const Matrix stream(b.stream, m, config.hidden);
    const Matrix normed(b.normed, m, config.hidden);
    const Matrix query(b.query, m, config.query_width());
    const Matrix gate(b.gate, m, config.intermediate);
    const Matrix up(b.up, m, config.intermediate);
    const Matrix act(b.act, m, config.intermediate);
    kernels::embedding_forward(*pool_, tokens, network_.embedding(params), stream);
    for (std::size_t layer = 0; layer < config.layers; ++layer) {
        kernels::rms_norm_forward(*pool_, stream, network_.input_norm(layer, params, nullptr).weight,
                                  config.norm_epsilon, normed, b.rstd);
        const Matrix keys = cache(b.keys, layer).slice(length_, m);
        project(layer, kQ, params, normed, query);
        project(layer, kK, params, normed, keys);
        project(layer, kV, params, normed, cache(b.values, layer).slice(length_, m));
        kernels::rope(*pool_, query, config.heads, config.head_size, positions, cosine_.data(), sine_.data(),
                      kernels::Turn::Forward);
        kernels::rope(*pool_, keys, config.kv_heads, config.head_size, positions, cosine_.data(),
                      sine_.data(), kernels::Turn::Forward);
        attend(layer, m);
        project(layer, kO, params, ConstMatrix(b.attended, m, config.query_width()), normed);
        add_rows(*pool_, normed, stream);
        kernels::rms_norm_forward(*pool_, stream, network_.post_attention_norm(layer, params, nullptr).weight,
                                  config.norm_epsilon, normed, b.rstd);
        project(layer, kGate, params, normed, gate);
        project(layer, kUp, params, normed, up);
        kernels::swiglu_forward(*pool_, gate, up, act);
        project(layer, kDown, params, act, normed);
        add_rows(*pool_, normed, stream);
    }
    length_ += m;
}

void Decoder::attend(std::size_t layer, std::size_t rows) {
    const model::ModelConfig& config = network_.config();
    const std::size_t d = config.head_size;
    const float scale = 1.0F / std::sqrt(static_cast<float>(d));
    const std::size_t group = config.heads / config.kv_heads;
    const Matrix keys = cache(buffers_.keys, layer);
    const Matrix values = cache(buffers_.values, layer);
    pool_->parallel_for(rows * config.heads, [&](std::size_t index) {
        const std::size_t row = index / config.heads;
        const std::size_t head = index % config.heads;
        const std::size_t offset = row * config.query_width() + head * d;
        const std::size_t first = head / group * d;
        attend_one(buffers_.query + offset, keys.columns(first, d), values.columns(first, d),
                   length_ + row + 1, scale, buffers_.attended + offset);
    });
}

}  // namespace fedllm::client::engine
