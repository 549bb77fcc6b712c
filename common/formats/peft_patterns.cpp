#include "common/formats/peft_patterns.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "common/formats/json.hpp"

namespace fedllm::formats {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kPatternsMax = 1000;
constexpr std::size_t kPatternBytesMax = 512;
constexpr std::size_t kDigitsMax = 9;  // of one number in an expression

bool is_plain(std::string_view pattern) {
    return std::all_of(pattern.begin(), pattern.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
    });
}

// The same as the expression "(.*\.)?pattern$": a dot of the pattern stands for any character.
bool plain_fits(std::string_view pattern, std::string_view module) {
    if (pattern.size() > module.size()) return false;
    const std::size_t start = module.size() - pattern.size();
    if (start != 0 && module[start - 1] != '.') return false;
    return std::equal(pattern.begin(), pattern.end(), module.begin() + static_cast<std::ptrdiff_t>(start),
                      [](char p, char m) { return p == '.' || p == m; });
}

// libstdc++ lets the number of a repetition or a reference overflow.
bool has_huge_number(std::string_view pattern) {
    std::size_t digits = 0;
    return std::any_of(pattern.begin(), pattern.end(), [&](char c) {
        digits = c >= '0' && c <= '9' ? digits + 1 : 0;
        return digits > kDigitsMax;
    });
}

// libstdc++'s breadth-first matcher takes time polynomial in the text, so that no pattern can hang a reader.
Result<std::regex> compile(const std::string& pattern) {
    const Error refused{Errc::Unsupported,
                        "has the pattern " + in_quotes(pattern) +
                            ", which is no regular expression that this version reads; list module paths"};
    if (has_huge_number(pattern)) return refused;
    try {
        return std::regex(R"((?:.*\.)?(?:)" + pattern + ")",
                          std::regex::ECMAScript | std::regex_constants::__polynomial);
    } catch (const std::regex_error& reason) {
        return refused;
    }
}

std::string_view last_part(std::string_view module) { return module.substr(module.rfind('.') + 1); }

// The numbers of the modules by a getter, as patterns; those equal to `usual` need none.
template <class Get>
Json patterns_of(std::span<const std::string> all, double usual, Get get) {
    std::map<std::string_view, std::vector<double>> by_part;
    for (const auto& path : all) by_part[last_part(path)].push_back(get(path));
    Json object = Json::object();
    for (const auto& path : all) {
        const auto& values = by_part[last_part(path)];
        const bool agree =
            std::all_of(values.begin(), values.end(), [&](double v) { return v == values[0]; });
        if (const double value = get(path); value != usual) {
            object[agree ? std::string(last_part(path)) : path] = json_number(value);
        }
    }
    return object;
}

}  // namespace

Result<ModulePatterns> ModulePatterns::parse(const nlohmann::ordered_json& field, double min, double max) {
    ModulePatterns made;
    if (field.is_null()) return made;
    if (!field.is_object() || field.size() > kPatternsMax) {
        return make_error(Errc::InvalidFile, "must be an object of at most " + std::to_string(kPatternsMax) +
                                                 " patterns with their numbers");
    }
    for (const auto& [text, value] : field.items()) {
        if (text.empty() || text.size() > kPatternBytesMax) {
            return make_error(Errc::InvalidFile, "has a pattern of " + std::to_string(text.size()) +
                                                     " bytes; 1 to " + std::to_string(kPatternBytesMax) +
                                                     " are read");
        }
        const double number = value.is_number() ? value.get<double>() : std::nan("");
        if (!(number >= min && number <= max)) {
            return make_error(Errc::InvalidFile, "gives " + in_quotes(text) + " the value " +
                                                     in_quotes(value.dump(-1, ' ', true)) +
                                                     ": a number of this range is expected");
        }
        Pattern pattern{text, std::nullopt, number};
        if (!is_plain(text)) {
            FEDLLM_TRY(pattern.expression, compile(text));
        }
        made.patterns_.push_back(std::move(pattern));
    }
    return made;
}

std::optional<double> ModulePatterns::find(std::string_view module) const {
    for (const Pattern& pattern : patterns_) {
        const bool fits = pattern.expression
                              ? std::regex_match(module.begin(), module.end(), *pattern.expression)
                              : plain_fits(pattern.text, module);
        if (fits) return pattern.value;
    }
    return std::nullopt;
}

PatternObjects module_patterns(std::span<const std::string> all, const tensor::LoraSpec& spec) {
    return {patterns_of(all, spec.rank, [&](std::string_view path) { return spec.module(path).rank; }),
            patterns_of(all, spec.alpha, [&](std::string_view path) { return spec.module(path).alpha; })};
}

Json json_number(double value) {
    const bool whole = value == std::floor(value) && std::abs(value) < 1e9;
    return whole ? Json(static_cast<std::int64_t>(value)) : Json(value);
}

}  // namespace fedllm::formats
