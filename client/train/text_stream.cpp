#include "client/train/text_stream.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

namespace fedllm::client::train {
namespace {

constexpr std::size_t kContextTokens = 8;  // enough for a character's bytes and a space before it
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// The length of the longest end of `text` that is the beginning of `stop`, but not all of it.
std::size_t overlap(std::string_view text, std::string_view stop) {
    std::size_t length = std::min(text.size(), stop.size() - 1);
    while (length > 0 && text.substr(text.size() - length) != stop.substr(0, length)) --length;
    return length;
}

}  // namespace

TextStream::TextStream(const data::Tokenizer& tokenizer, std::span<const std::int32_t> prompt,
                       std::vector<std::string> stops)
    : tokenizer_(&tokenizer), stops_(std::move(stops)) {
    std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
    const auto last = prompt.last(std::min(prompt.size(), kContextTokens));
    ids_.assign(last.begin(), last.end());
    shown_ = ids_.size();
}

std::string TextStream::push(std::int32_t token) {
    if (stopped_) return "";
    ids_.push_back(token);
    held_ += fresh_text(/*last=*/false);
    return release(/*last=*/false);
}

std::string TextStream::finish() {
    if (stopped_) return "";
    held_ += fresh_text(/*last=*/true);
    return release(/*last=*/true);
}

// What ids_ say beyond their first shown_. Decoders look at neighbours, so a little context is decoded with
// them; text that ends in U+FFFD may be a character whose other bytes are still to come.
std::string TextStream::fresh_text(bool last) {
    const std::string before = tokenizer_->decode(std::span(ids_).first(shown_));
    std::string all = tokenizer_->decode(ids_);
    if (!last && all.ends_with(kReplacement)) return "";
    if (all.size() <= before.size()) return "";
    if (all.starts_with(before)) {
        all.erase(0, before.size());
    } else {  // a broken byte spoils its whole run for byte-fallback decoders: the new tokens for themselves
        all = tokenizer_->decode(std::span(ids_).subspan(shown_));
    }
    const std::size_t dropped = shown_;
    ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(dropped));
    shown_ = ids_.size();
    return all;
}

std::string TextStream::release(bool last) {
    std::size_t found = std::string::npos;
    std::size_t kept = 0;
    for (const std::string& stop : stops_) {
        found = std::min(found, held_.find(stop));
        kept = std::max(kept, overlap(held_, stop));
    }
    stopped_ = found != std::string::npos;
    if (last) kept = 0;
    std::string text = held_.substr(0, stopped_ ? found : held_.size() - kept);
    held_.erase(0, stopped_ ? held_.size() : text.size());
    return text;
}

}  // namespace fedllm::client::train
