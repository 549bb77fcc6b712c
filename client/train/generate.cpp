#include "client/train/generate.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "client/engine/decoder.hpp"
#include "common/base/philox.hpp"

namespace fedllm::client::train {
namespace {

// Draws from softmax(logits / temperature) over the top_k likeliest tokens.
class Sampler {
public:
    Sampler(const GenerateOptions& options, std::size_t vocab)
        : options_(options), rng_(options.seed, "generate"), order_(vocab), weights_(vocab) {}

    std::int32_t draw(std::span<const float> logits) {
        if (options_.temperature <= 0) {
            return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        }
        const std::size_t count =
            options_.top_k == 0 ? logits.size() : std::min(options_.top_k, logits.size());
        std::iota(order_.begin(), order_.end(), 0);
        // Ties go to the lower id, so the set does not depend on the library's selection algorithm.
        const auto likelier = [&](std::int32_t a, std::int32_t b) {
            const float x = logits[static_cast<std::size_t>(a)];
            const float y = logits[static_cast<std::size_t>(b)];
            return x != y ? x > y : a < b;
        };
        std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(count), order_.end(),
                          likelier);
        const double largest = logits[static_cast<std::size_t>(order_[0])];
        double sum = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const double logit = logits[static_cast<std::size_t>(order_[i])];
            weights_[i] = sum += std::exp((logit - largest) / options_.temperature);
        }
        const double point = static_cast<double>(rng_.uniform()) * sum;
        const auto end = weights_.begin() + static_cast<std::ptrdiff_t>(count);
        const auto found = std::upper_bound(weights_.begin(), end, point);
        return order_[static_cast<std::size_t>(std::min(found, end - 1) - weights_.begin())];
    }

private:
    const GenerateOptions& options_;
    Rng rng_;
    std::vector<std::int32_t> order_;
    std::vector<double> weights_;  // running sums
};

}  // namespace

Result<std::vector<std::int32_t>> generate(kernels::ThreadPool& pool, const engine::Network& network,
                                           const tensor::ParamSet& params,
                                           std::span<const std::int32_t> prompt,
                                           const GenerateOptions& options) {
    const std::size_t context = network.config().context;
    if (prompt.empty())
        return make_error(Errc::InvalidArgument, "the prompt is empty: give at least one token");
    if (prompt.size() > context) {
        return make_error(Errc::TooLarge, "the prompt has " + std::to_string(prompt.size()) +
                                              " tokens, and the model's context is " +
                                              std::to_string(context));
    }
    const std::size_t count = std::min(options.new_tokens_max, context - prompt.size() + 1);
    FEDLLM_TRY(engine::Decoder decoder, engine::Decoder::create(pool, network, prompt.size() + count));
    Sampler sampler(options, network.config().vocab);
    std::vector<std::int32_t> text;
    std::span<const std::int32_t> next = prompt;
    while (text.size() < count) {
        FEDLLM_TRY(const std::span<const float> logits, decoder.append(next, params));
        if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
            return make_error(Errc::NotFinite, "the model's logits are not finite after " +
                                                   std::to_string(decoder.length()) + " tokens");
        }
        const std::int32_t token = sampler.draw(logits);
        if (std::find(options.stop.begin(), options.stop.end(), token) != options.stop.end()) break;
        text.push_back(token);
        next = std::span(&text.back(), 1);
    }
    return text;
}

}  // namespace fedllm::client::train
