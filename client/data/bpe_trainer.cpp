#include "client/data/bpe_trainer.hpp"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <queue>
#include <unordered_map>
#include <utility>
#include <vector>

#include "client/data/byte_level.hpp"
#include "client/data/split_pattern.hpp"
#include "client/data/unicode.hpp"

namespace fedllm::client::data {
namespace {

using Id = std::uint32_t;
using Pair = std::uint64_t;  // left id above, right id below: sorts by left, then right

constexpr std::size_t kVocabSizeMax = 1'000'000;
constexpr std::size_t kSpecialTokens = 2;
constexpr std::size_t kFirstLearned = kSpecialTokens + 256;

Pair pair_of(Id left, Id right) { return (Pair{left} << 32) | right; }
Id left_of(Pair pair) { return static_cast<Id>(pair >> 32); }
Id right_of(Pair pair) { return static_cast<Id>(pair); }

struct Word {
    std::vector<Id> symbols;
    std::uint64_t count;
};

std::vector<Word> count_words(std::span<const std::string> texts) {
    std::unordered_map<std::string, std::uint64_t> counts;
    std::string key;
    for (const auto& raw : texts) {
        const std::string text = is_valid_utf8(raw) ? std::string() : to_valid_utf8(raw);
        const std::string_view view = text.empty() ? std::string_view(raw) : text;
        for (std::size_t at = 0; at < view.size();) {
            const std::size_t length = match_length(SplitPattern::Gpt2, view, at);
            key.assign(view, at, length);
            ++counts[key];
            at += length;
        }
    }
    std::vector<Word> words;
    words.reserve(counts.size());
    for (const auto& [text, count] : counts) {
        if (text.size() < 2) continue;
        std::vector<Id> symbols;
        for (const char byte : text) symbols.push_back(kSpecialTokens + static_cast<unsigned char>(byte));
        words.push_back({std::move(symbols), count});
    }
    return words;
}

// The words as sequences of ids, with the count of each adjacent pair and the words it may occur in.
class PairCounts {
public:
    explicit PairCounts(std::vector<Word> words) : words_(std::move(words)) {
        for (std::size_t i = 0; i < words_.size(); ++i) add_pairs(i, std::nullopt);
        for (const auto& [pair, entry] : pairs_) queue_.push({entry.count, pair});
    }

    // The most frequent pair that occurs often enough.
    std::optional<Pair> best(std::uint64_t count_min) {
        while (!queue_.empty()) {
            const auto [count, pair] = queue_.top();
            if (count < count_min) return std::nullopt;
            queue_.pop();
            // Counts of queued pairs only fall, so one that fell goes back to its new place.
            const auto found = pairs_.find(pair);
            const std::uint64_t now = found == pairs_.end() ? 0 : found->second.count;
            if (now == count) return pair;
            if (now > 0) queue_.push({now, pair});
        }
        return std::nullopt;
    }

    void forget(Pair pair) { pairs_.erase(pair); }

    void merge(Pair pair, Id merged) {
        const auto words = std::move(pairs_.at(pair).words);
        for (const std::uint32_t index : words) {
            subtract_pairs(index);
            replace(words_[index].symbols, pair, merged);
            add_pairs(index, merged);
        }
        pairs_.erase(pair);
        std::sort(grown_.begin(), grown_.end());
        grown_.erase(std::unique(grown_.begin(), grown_.end()), grown_.end());
        for (const Pair grown : grown_) queue_.push({pairs_.at(grown).count, grown});
        grown_.clear();
    }

private:
    struct Entry {
        std::uint64_t count = 0;
        std::vector<std::uint32_t> words;
    };
    struct Queued {
        std::uint64_t count;
        Pair pair;
        bool operator<(const Queued& other) const {
            return count != other.count ? count < other.count : pair > other.pair;
        }
    };

    static void replace(std::vector<Id>& symbols, Pair pair, Id merged) {
        std::size_t out = 0;
        for (std::size_t i = 0; i < symbols.size(); ++i) {
            const bool match =
                symbols[i] == left_of(pair) && i + 1 < symbols.size() && symbols[i + 1] == right_of(pair);
            symbols[out++] = match ? merged : symbols[i];
            if (match) ++i;
        }
        symbols.resize(out);
    }

    void subtract_pairs(std::size_t index) {
        const Word& word = words_[index];
        for (std::size_t i = 0; i + 1 < word.symbols.size(); ++i) {
            const auto found = pairs_.find(pair_of(word.symbols[i], word.symbols[i + 1]));
            if (found != pairs_.end()) found->second.count -= word.count;
        }
    }

    // Only pairs with the new id are new to the word; without a new id, all are.
    void add_pairs(std::size_t index, std::optional<Id> merged) {
        const Word& word = words_[index];
        for (std::size_t i = 0; i + 1 < word.symbols.size(); ++i) {
            const Pair pair = pair_of(word.symbols[i], word.symbols[i + 1]);
            const bool fresh = !merged || left_of(pair) == *merged || right_of(pair) == *merged;
            const auto found = fresh ? pairs_.try_emplace(pair).first : pairs_.find(pair);
            if (found == pairs_.end()) continue;  // forgotten
            found->second.count += word.count;
            if (!fresh) continue;
            auto& list = found->second.words;
            if (list.empty() || list.back() != index) list.push_back(static_cast<std::uint32_t>(index));
            if (merged) grown_.push_back(pair);
        }
    }

    std::vector<Word> words_;
    std::unordered_map<Pair, Entry> pairs_;
    std::priority_queue<Queued> queue_;
    std::vector<Pair> grown_;  // pairs with the new id, of one merge
};

struct Vocabulary {
    std::vector<std::string> tokens;  // by id; after the special ones, bytes
    std::unordered_map<std::string, Id> ids;
    std::vector<Pair> merges;

    Id add(const std::string& token) {
        const auto [place, fresh] = ids.emplace(token, static_cast<Id>(tokens.size()));
        if (fresh) tokens.push_back(token);
        return place->second;
    }
};

Vocabulary learn(std::span<const std::string> texts, std::size_t vocab_size,
                 const BpeTrainerOptions& options) {
    Vocabulary vocabulary;
    vocabulary.tokens = {options.bos, options.eos};
    for (unsigned byte = 0; byte < 256; ++byte) vocabulary.add(std::string(1, static_cast<char>(byte)));
    PairCounts counts(count_words(texts));
    while (vocabulary.tokens.size() < vocab_size) {
        const auto pair = counts.best(options.pair_count_min);
        if (!pair) break;
        const std::string token = vocabulary.tokens[left_of(*pair)] + vocabulary.tokens[right_of(*pair)];
        // A learned token that reads as a special one would have two ids.
        if (token.size() > options.token_bytes_max || token == options.bos || token == options.eos) {
            counts.forget(*pair);
            continue;
        }
        vocabulary.merges.push_back(*pair);
        counts.merge(*pair, vocabulary.add(token));
    }
    return vocabulary;
}

using OrderedJson = nlohmann::ordered_json;

OrderedJson added_token(Id id, const std::string& content) {
    return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
            {"rstrip", false}, {"normalized", false}, {"special", true}};
}

OrderedJson bos_template(const std::string& bos) {
    const OrderedJson special{{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
    const OrderedJson first{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    const OrderedJson second{{"Sequence", {{"id", "B"}, {"type_id", 0}}}};
    OrderedJson result{{"type", "TemplateProcessing"}};
    result["single"] = OrderedJson::array({special, first});
    result["pair"] = OrderedJson::array({special, first, special, second});
    result["special_tokens"][bos] = {
        {"id", bos}, {"ids", OrderedJson::array({0})}, {"tokens", OrderedJson::array({bos})}};
    return result;
}

OrderedJson model_json(const Vocabulary& vocabulary) {
    OrderedJson ids = OrderedJson::object();
    std::vector<std::string> spelled;
    for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
        const auto& token = vocabulary.tokens[id];
        spelled.push_back(id < kSpecialTokens ? token : to_byte_characters(token));
        ids.push_back({spelled.back(), id});
    }
    OrderedJson merges = OrderedJson::array();
    for (const Pair pair : vocabulary.merges)
        merges.push_back(spelled[left_of(pair)] + " " + spelled[right_of(pair)]);
    return {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", std::move(ids)},
            {"merges", std::move(merges)}};
}

std::string to_tokenizer_json(const Vocabulary& vocabulary, const BpeTrainerOptions& options) {
    const OrderedJson byte_level{
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
    const OrderedJson json{
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens", OrderedJson::array({added_token(0, options.bos), added_token(1, options.eos)})},
        {"normalizer", nullptr},
        {"pre_tokenizer", byte_level},
        {"post_processor", bos_template(options.bos)},
        {"decoder", byte_level},
        {"model", model_json(vocabulary)}};
    return json.dump(1) + "\n";
}

}  // namespace

Result<std::string> train_byte_level_bpe(std::span<const std::string> texts, std::size_t vocab_size,
                                         const BpeTrainerOptions& options) {
    if (vocab_size < kFirstLearned || vocab_size > kVocabSizeMax) {
        return make_error(Errc::InvalidArgument, "vocab_size: expected " + std::to_string(kFirstLearned) +
                                                     " to " + std::to_string(kVocabSizeMax) + ", found " +
                                                     std::to_string(vocab_size));
    }
    // Of one byte, a special token would be a byte's as well.
    if (options.bos == options.eos || options.bos.size() < 2 || options.eos.size() < 2 ||
        !is_valid_utf8(options.bos) || !is_valid_utf8(options.eos)) {
        return make_error(Errc::InvalidArgument,
                          "bos and eos: expected two different texts in UTF-8 of two bytes "
                          "or more, found '" +
                              options.bos + "' and '" + options.eos + "'");
    }
    if (std::all_of(texts.begin(), texts.end(), [](const std::string& text) { return text.empty(); })) {
        return make_error(Errc::InvalidArgument, "texts: all are empty; there is nothing to learn from");
    }
    return to_tokenizer_json(learn(texts, vocab_size, options), options);
}

}  // namespace fedllm::client::data
