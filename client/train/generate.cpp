#include "client/train/generate.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "client/engine/decoder.hpp"
#include "common/base/philox.hpp"

namespace fedllm::client::train {
namespace {

// Draws from softmax(logits / temperature) over the top_k likeliest tokens, and of those over the nucleus
// (Holtzman et al. 2020): the fewest likeliest whose probabilities reach top_p. The order is transformers'.
class Sampler {
public:
    Sampler(const GenerateOptions& options, std::size_t vocab)
        : options_(options), rng_(options.seed, "generate"), order_(vocab), weights_(vocab) {}

    std::int32_t draw(std::span<const float> logits) {
        if (options_.temperature <= 0) {
            return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        }
        const float largest = *std::max_element(logits.begin(), logits.end());
        const double whole = gather(logits, largest);
        std::size_t count = options_.top_k == 0 ? order_.size() : std::min(options_.top_k, order_.size());
        // Ties go to the lower id, so the set does not depend on the library's selection algorithm.
        const auto likelier = [&](std::int32_t a, std::int32_t b) {
            const float x = logits[static_cast<std::size_t>(a)];
            const float y = logits[static_cast<std::size_t>(b)];
            return x != y ? x > y : a < b;
        };
        std::partial_sort(order_.begin(), order_.begin() + ptr(count), order_.end(), likelier);
        double sum = 0;
        for (std::size_t i = 0; i < count; ++i) weights_[i] = sum += weight(logits, order_[i], largest);
        if (options_.top_p < 1) {
            const double share = options_.top_p * (options_.top_k == 0 ? whole : sum);
            const auto reached = std::lower_bound(weights_.begin(), weights_.begin() + ptr(count), share);
            count = std::min(count, static_cast<std::size_t>(reached - weights_.begin()) + 1);
            sum = weights_[count - 1];
        }
        const double point = static_cast<double>(rng_.uniform()) * sum;
        const auto end = weights_.begin() + ptr(count);
        const auto found = std::upper_bound(weights_.begin(), end, point);
        return order_[static_cast<std::size_t>(std::min(found, end - 1) - weights_.begin())];
    }

private:
    static std::ptrdiff_t ptr(std::size_t count) { return static_cast<std::ptrdiff_t>(count); }

    double weight(std::span<const float> logits, std::int32_t token, float largest) const {
        return std::exp((static_cast<double>(logits[static_cast<std::size_t>(token)]) - largest) /
                        options_.temperature);
    }

    // Fills order_ with the tokens that may be drawn, and returns the weight of all. Weights below
    // (1 - top_p)/V of the largest are less than 1 - top_p together, so none of them is in the nucleus: only
    // the others need be sorted.
    double gather(std::span<const float> logits, float largest) {
        order_.resize(logits.size());
        std::iota(order_.begin(), order_.end(), 0);
        if (options_.top_k != 0 || options_.top_p >= 1) return 0;
        const double least = (1 - options_.top_p) / static_cast<double>(logits.size());
        double whole = 0;
        std::erase_if(order_, [&](std::int32_t token) {
            const double own = weight(logits, token, largest);
            whole += own;
            return own < least;
        });
        return whole;
    }

    const GenerateOptions& options_;
    Rng rng_;
    std::vector<std::int32_t> order_;
    std::vector<double> weights_;  // running sums
};

}  // namespace

Result<std::vector<std::int32_t>> generate(kernels::ThreadPool& pool, const engine::Network& network,
                                           const tensor::ParamSet& params,
                                           std::span<const std::int32_t> prompt,
                                           const GenerateOptions& options, const OnToken& on_token) {
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
        if (on_token && !on_token(token)) break;
        next = std::span(&text.back(), 1);
    }
    return text;
}

}  // namespace fedllm::client::train
