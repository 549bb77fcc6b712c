#include "client/data/added_tokens.hpp"

#include <algorithm>
#include <utility>

#include "client/data/unicode.hpp"

namespace fedllm::client::data {
namespace {

// Whether the characters on both sides of [begin, end) are no part of a word.
bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    return (begin == 0 || !is_word(code_point_at(text, code_point_before(text, begin)).value)) &&
           (end == text.size() || !is_word(code_point_at(text, end).value));
}

}  // namespace

void AddedTokens::Matcher::add(std::string text, std::size_t token) {
    auto& list = by_first_byte[static_cast<unsigned char>(text[0])];
    const auto place = std::find_if(list.begin(), list.end(),
                                    [&](const Pattern& other) { return other.text.size() < text.size(); });
    list.insert(place, Pattern{std::move(text), token});
}

const AddedTokens::Matcher::Pattern* AddedTokens::Matcher::match(std::string_view text,
                                                                 std::size_t at) const {
    for (const auto& pattern : by_first_byte[static_cast<unsigned char>(text[at])]) {
        if (text.compare(at, pattern.text.size(), pattern.text) == 0) return &pattern;
    }
    return nullptr;
}

Result<AddedTokens> AddedTokens::parse(const JsonField& field, const BpeModel& model,
                                       const Normalizer& normalizer) {
    AddedTokens result;
    if (field.is_null()) return result;
    if (!field.value().is_array()) return field.error("expected an array");
    for (std::size_t i = 0; i < field.value().size(); ++i) {
        FEDLLM_TRY_VOID(result.read(field.element(i), model, normalizer));
    }
    return result;
}

Result<void> AddedTokens::read(const JsonField& entry, const BpeModel& model, const Normalizer& normalizer) {
    FEDLLM_TRY(const auto id, entry.token_id("id"));
    FEDLLM_TRY(auto content, entry.text("content"));
    FEDLLM_TRY(const bool special, entry.flag_or("special", false));
    FEDLLM_TRY(const bool left, entry.flag_or("lstrip", false));
    FEDLLM_TRY(const bool right, entry.flag_or("rstrip", false));
    FEDLLM_TRY(const bool normalized, entry.flag_or("normalized", !special));
    FEDLLM_TRY(const bool single_word, entry.flag_or("single_word", false));
    if (content.empty())
        return entry.member_or_null("content").error("expected some text, found an empty string");
    const auto in_model = model.id_of(content);
    const std::string* taken = model.token_of(id);
    if (in_model ? *in_model != id : taken != nullptr) {
        return entry.member_or_null("id").error(
            "'" + content + "' has id " + std::to_string(id) + ", but in model.vocab " +
            (in_model ? "it has " + std::to_string(*in_model) : "that is '" + *taken + "'"));
    }
    const std::size_t index = tokens_.size();
    if (!by_id_.emplace(id, index).second)
        return entry.member_or_null("id").error(std::to_string(id) + " occurs twice");
    if (!by_content_.emplace(content, index).second) {
        return entry.member_or_null("content").error("'" + content + "' occurs twice");
    }
    std::string spelling = normalized ? normalizer.apply(content) : std::move(content);
    if (!spelling.empty()) (normalized ? normalized_ : raw_).add(spelling, index);
    tokens_.push_back(Token{id, std::move(spelling), special, left, right, single_word});
    id_limit_ = std::max(id_limit_, static_cast<std::size_t>(id) + 1);
    return {};
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text, Stage stage) const {
    const Matcher& matcher = stage == Stage::BeforeNormalizing ? raw_ : normalized_;
    std::vector<Part> parts;
    std::size_t covered = 0;  // what lies before belongs to a part
    for (std::size_t at = 0; at < text.size();) {
        const auto* pattern = matcher.match(text, at);
        if (!pattern) {
            ++at;
            continue;
        }
        const Token& token = tokens_[pattern->token];
        std::size_t begin = at;
        std::size_t end = at + pattern->text.size();
        at = end;
        if (token.single_word && !stands_alone(text, begin, end)) continue;
        if (token.strip_left) begin = std::max(skip_whitespace_back(text, begin), covered);
        if (token.strip_right) end = skip_whitespace(text, end);
        if (covered < begin) parts.push_back({std::nullopt, covered, begin});
        parts.push_back({token.id, begin, end});
        covered = end;
    }
    if (covered < text.size()) parts.push_back({std::nullopt, covered, text.size()});
    return parts;
}

const std::string* AddedTokens::token_of(std::int32_t id) const {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &tokens_[found->second].spelling;
}

std::optional<std::int32_t> AddedTokens::id_of(std::string_view content) const {
    const auto found = by_content_.find(content);
    return found == by_content_.end() ? std::nullopt : std::optional(tokens_[found->second].id);
}

bool AddedTokens::is_special(std::int32_t id) const {
    const auto found = by_id_.find(id);
    return found != by_id_.end() && tokens_[found->second].special;
}

}  // namespace fedllm::client::data
