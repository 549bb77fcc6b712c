#include "common/formats/json.hpp"

#include <unordered_set>
#include <utility>
#include <vector>

namespace fedllm::formats {
namespace {

using Json = nlohmann::json;

// nlohmann's parser keeps the last of two equal keys and nests without limit, so a first pass looks for both.
class Checker final : public nlohmann::json_sax<Json> {
public:
    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool start_object(std::size_t) override { return enter(); }
    bool start_array(std::size_t) override { return enter(); }
    bool end_object() override { return leave(); }
    bool end_array() override { return leave(); }
    bool key(string_t& text) override {
        if (keys_.back().insert(text).second) return true;
        problem_ = "the key " + in_quotes(text) + " appears twice in one object";
        return false;
    }
    bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
        problem_ = error.what();
        if (const auto end = problem_.find("] "); problem_.starts_with('[') && end != std::string::npos) {
            problem_.erase(0, end + 2);  // nlohmann's "[json.exception.parse_error.101] "
        }
        constexpr std::size_t kMessageMax = 240;  // it quotes the last token, which may be megabytes long
        if (problem_.size() > kMessageMax) problem_ = problem_.substr(0, kMessageMax) + "...";
        return false;
    }

    std::string take_problem() { return std::move(problem_); }

private:
    bool enter() {
        keys_.emplace_back();
        if (keys_.size() <= kJsonDepthMax) return true;
        problem_ = "nested deeper than " + std::to_string(kJsonDepthMax) + " levels";
        return false;
    }
    bool leave() {
        keys_.pop_back();
        return true;
    }

    std::vector<std::unordered_set<std::string>> keys_;
    std::string problem_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view source) {
    // The parser takes a NUL for the end of the text and would not look at what follows.
    if (const auto nul = text.find('\0'); nul != text.npos) {
        return make_error(Errc::InvalidFile, std::string(source) + ": not the JSON we accept: a NUL after " +
                                                 std::to_string(nul) + " bytes");
    }
    Checker checker;
    if (!Json::sax_parse(text, &checker)) {
        return make_error(Errc::InvalidFile,
                          std::string(source) + ": not the JSON we accept: " + checker.take_problem());
    }
    Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    FEDLLM_CHECK(!value.is_discarded(), "JSON that passed the first pass");
    return value;
}

Result<std::string> quote_json(std::string_view text) {
    // The two handlers differ exactly where a byte is not UTF-8, and unlike the default one neither throws.
    const Json value = text;
    std::string replaced = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (replaced != value.dump(-1, ' ', false, Json::error_handler_t::ignore)) {
        return make_error(Errc::InvalidArgument, in_quotes(text) + " is not valid UTF-8");
    }
    return replaced;
}

std::string in_quotes(std::string_view text) {
    constexpr std::size_t kShownMax = 160;
    std::string shown = "'";
    for (const char c : text.substr(0, kShownMax)) {
        shown += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
    }
    return shown + (text.size() > kShownMax ? "...'" : "'");
}

}  // namespace fedllm::formats
