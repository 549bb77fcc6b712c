#include "client/engine/decoder.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "client/engine/block.hpp"
#include "client/engine/linear.hpp"
#include "client/engine/rows.hpp"
#include "kernels/attention/op.hpp"
#include "kernels/embedding/op.hpp"
#include "kernels/matmul/op.hpp"

namespace fedllm::client::engine {
namespace {

using kernels::ConstMatrix;
using kernels::Matrix;
using namespace model;  // the parts' names

constexpr std::size_t kBlock = 64;  // tokens of a prompt that are computed together

// One query against all these keys of its head, softmax in one pass (kernels/attention says how).
void attend_one(const float* query, ConstMatrix keys, ConstMatrix values, float scale, float* out) {
    const std::size_t size = keys.cols;
    float largest = -std::numeric_limits<float>::infinity();
    float sum = 0;
    std::fill_n(out, size, 0.0F);
    for (std::size_t key = 0; key < keys.rows; ++key) {
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
    made.rotation_ = Rotation(made.network_.config(), capacity);
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
    b.stats = carver.take(2 * m);
    b.qkv = carver.take(m * (config.query_width() + 2 * config.key_width()));
    b.heads_rstd = carver.take(m * config.heads);
    b.attended = carver.take(m * config.query_width());
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
    if (network_.has(kPositions) && tokens.size() > config.context - std::min(length_, config.context)) {
        return make_error(Errc::TooLarge, std::to_string(length_ + tokens.size()) +
                                              " tokens, and the model has learned positions for " +
                                              std::to_string(config.context));
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
    const ConstMatrix last(buffers_.stream + (last_rows - 1) * config.hidden, 1, config.hidden);
    norm_forward(*pool_, network_.final_norm(values, nullptr), last, normed, buffers_.stats);
    linear_forward(*pool_, network_.head(values, nullptr), normed, {},
                   Matrix(buffers_.logits, 1, config.vocab));
    return std::span<const float>(buffers_.logits, config.vocab);
}

void Decoder::project(std::size_t layer, Part part, const float* params, ConstMatrix x, Matrix y) {
    const Linear linear = network_.linear(layer, part, params, nullptr);
    linear_forward(*pool_, linear, x, Matrix(buffers_.lora, x.rows, linear.lora.a.rows), y);
}

void Decoder::run_block(std::span<const std::int32_t> tokens, const float* params) {
    const Matrix stream(buffers_.stream, tokens.size(), network_.config().hidden);
    embed(tokens, params, stream);
    for (std::size_t layer = 0; layer < network_.config().layers; ++layer) {
        run_attention(layer, params, stream);
        run_mlp(layer, params, stream);
    }
    length_ += tokens.size();
}

void Decoder::embed(std::span<const std::int32_t> tokens, const float* params, Matrix stream) {
    kernels::embedding_forward(*pool_, tokens, network_.table(kEmbedding, params), stream);
    if (!network_.has(kPositions)) return;
    const Matrix positions(buffers_.normed, stream.rows, stream.cols);
    kernels::embedding_forward(*pool_, std::span(positions_).subspan(length_, tokens.size()),
                               network_.table(kPositions, params), positions);
    add_rows(*pool_, positions, stream);
}

void Decoder::run_attention(std::size_t layer, const float* params, Matrix stream) {
    const model::ModelConfig& config = network_.config();
    const Buffers& b = buffers_;
    const std::size_t m = stream.rows;
    const Matrix normed(b.normed, m, config.hidden);
    norm_forward(*pool_, network_.norm(layer, kInputNorm, params, nullptr), stream, normed, b.stats);
    const auto [all, q, k, v] = split_qkv(config, b.qkv, m);
    for (const Columns& to : network_.qkv()) {
        project(layer, to.part, params, normed, all.columns(to.first, to.width));
    }
    if (network_.has(kQueryNorm)) {
        norm_heads_forward(*pool_, network_.norm(layer, kQueryNorm, params, nullptr), config.head_size, q, q,
                           b.heads_rstd);
        norm_heads_forward(*pool_, network_.norm(layer, kKeyNorm, params, nullptr), config.head_size, k, k,
                           b.heads_rstd);
    }
    rotation_.turn(*pool_, q, positions_.data() + length_, kernels::Turn::Forward);
    rotation_.turn(*pool_, k, positions_.data() + length_, kernels::Turn::Forward);
    copy_rows(*pool_, k, cache(b.keys, layer).slice(length_, m));
    copy_rows(*pool_, v, cache(b.values, layer).slice(length_, m));
    attend(layer, m);
    project(layer, kO, params, ConstMatrix(b.attended, m, config.query_width()), normed);
    add_rows(*pool_, normed, stream);
}

void Decoder::run_mlp(std::size_t layer, const float* params, Matrix stream) {
    const model::ModelConfig& config = network_.config();
    const Buffers& b = buffers_;
    const Matrix normed(b.normed, stream.rows, config.hidden);
    const Matrix gate(b.gate, stream.rows, config.intermediate);
    const Matrix up(b.up, stream.rows, config.intermediate);
    const Matrix act(b.act, stream.rows, config.intermediate);
    norm_forward(*pool_, network_.norm(layer, kMlpNorm, params, nullptr), stream, normed, b.stats);
    if (network_.has(kGate)) project(layer, kGate, params, normed, gate);
    project(layer, kUp, params, normed, up);
    activation_forward(*pool_, config.family->activation, gate, up, act);
    project(layer, kDown, params, act, normed);
    add_rows(*pool_, normed, stream);
}

void Decoder::attend(std::size_t layer, std::size_t rows) {
    const model::ModelConfig& config = network_.config();
    const std::size_t d = config.head_size;
    const float scale = 1.0F / std::sqrt(static_cast<float>(d));
    const std::size_t group = config.heads / config.kv_heads;
    const std::size_t window = config.window_of(layer);
    const ConstMatrix query = split_qkv(config, buffers_.qkv, rows).q;
    const Matrix keys = cache(buffers_.keys, layer);
    const Matrix values = cache(buffers_.values, layer);
    pool_->parallel_for(rows * config.heads, [&](std::size_t index) {
        const std::size_t row = index / config.heads;
        const std::size_t head = index % config.heads;
        const std::size_t seen = length_ + row + 1;
        const std::size_t count = window == 0 ? seen : std::min(seen, window);
        const auto visible = [&](const Matrix& all) {
            return all.columns(head / group * d, d).slice(seen - count, count);
        };
        attend_one(query.row(row) + head * d, visible(keys), visible(values), scale,
                   buffers_.attended + row * config.query_width() + head * d);
    });
}

}  // namespace fedllm::client::engine
