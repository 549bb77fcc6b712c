#include "client/data/example_builder.hpp"

#include <algorithm>

namespace fedllm::client::data {
namespace {

struct Labelled {
    std::vector<std::int32_t> ids;
    std::vector<bool> learned;

    void add(std::int32_t id, bool learn) {
        ids.push_back(id);
        learned.push_back(learn);
    }
    void erase(std::size_t begin, std::size_t end) {
        const auto from = static_cast<std::ptrdiff_t>(begin), to = static_cast<std::ptrdiff_t>(end);
        ids.erase(ids.begin() + from, ids.begin() + to);
        learned.erase(learned.begin() + from, learned.begin() + to);
    }
};

Labelled tokenize(const Row& row, const Tokenizer& tokenizer, const DatasetOptions& options) {
    Labelled out;
    if (options.prepend_bos && tokenizer.bos()) out.add(*tokenizer.bos(), false);
    for (const auto& segment : row.segments) {
        const bool learn = segment.learn == Learn::Yes;
        for (const std::int32_t id : tokenizer.encode(segment.text)) out.add(id, learn);
        if (segment.ends_turn && options.append_eos && tokenizer.eos()) out.add(*tokenizer.eos(), learn);
    }
    return out;
}

// Shortens to `limit` ids, as the header says. True if anything went.
bool shorten(Labelled& text, std::size_t limit, std::size_t keep_left) {
    if (text.ids.size() <= limit) return false;
    const auto first_learned =
        std::find(text.learned.begin(), text.learned.end(), true) - text.learned.begin();
    const std::size_t droppable = std::max(static_cast<std::size_t>(first_learned), keep_left) - keep_left;
    const std::size_t dropped = std::min(droppable, text.ids.size() - limit);
    text.erase(keep_left, keep_left + dropped);
    if (text.ids.size() > limit) text.erase(limit, text.ids.size());
    return true;
}

Example window(const Labelled& text, std::size_t begin, std::size_t end) {
    Example example;
    for (std::size_t i = begin; i < end; ++i) {
        example.tokens.push_back(text.ids[i]);
        example.targets.push_back(text.learned[i + 1] ? text.ids[i + 1] : kIgnoreIndex);
    }
    return example;
}

// The last id is predicted and predicts nothing.
void append_windows(const Labelled& text, std::size_t length, std::vector<Example>& examples) {
    for (std::size_t begin = 0; begin + 1 < text.ids.size(); begin += length) {
        Example example = window(text, begin, std::min(begin + length, text.ids.size() - 1));
        const bool learns = std::any_of(example.targets.begin(), example.targets.end(),
                                        [](std::int32_t target) { return target != kIgnoreIndex; });
        if (learns) examples.push_back(std::move(example));
    }
}

}  // namespace

BuiltRow build_examples(const Row& row, const Tokenizer& tokenizer, const DatasetOptions& options) {
    BuiltRow built;
    std::vector<Labelled> texts;
    if (!row.segments.empty()) texts.push_back(tokenize(row, tokenizer, options));
    for (const auto& chat : row.chats) {
        auto marked = tokenizer.encode_marked(chat.text, chat.learned);
        texts.push_back({std::move(marked.ids), std::move(marked.marked)});
    }
    for (auto& text : texts) {
        if (!row.cut_into_windows) {
            const bool has_bos = !text.ids.empty() && tokenizer.bos() == text.ids.front();
            if (shorten(text, options.sequence_length + 1, has_bos ? 1 : 0)) built.truncated = true;
        }
        append_windows(text, options.sequence_length, built.examples);
    }
    return built;
}

}  // namespace fedllm::client::data
