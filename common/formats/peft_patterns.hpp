// rank_pattern and alpha_pattern of adapter_config.json: numbers for the modules that a pattern fits.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.hpp"
#include "common/tensor/lora_spec.hpp"

namespace fedllm::formats {

// Patterns as PEFT reads them: Python regular expressions that fit a whole module path or its end at a dot;
// the first that fits counts, in the order of the file.
// Limits: 1,000 patterns of at most 512 bytes; matching takes polynomial time, whatever the pattern.
class ModulePatterns {
public:
    // Null or an object. InvalidFile for another form or a value outside [min, max]; Unsupported for an
    // expression that only Python knows.
    static Result<ModulePatterns> parse(const nlohmann::ordered_json& field, double min, double max);

    std::optional<double> find(std::string_view module) const;

private:
    struct Pattern {
        std::string text;
        std::optional<std::regex> expression;  // absent: letters, digits, '_' and dots alone
        double value = 0;
    };
    std::vector<Pattern> patterns_;
};

// The way back: for each module whose rank (or alpha) differs from the adapter's, a pattern and its number.
// Modules of one last part that agree share a pattern ("q_proj"); any other has its whole path.
// `all` are the paths of the adapter's modules.
struct PatternObjects {
    nlohmann::json rank = nlohmann::json::object();
    nlohmann::json alpha = nlohmann::json::object();
};
PatternObjects module_patterns(std::span<const std::string> all, const tensor::LoraSpec& spec);

// A whole number where it is one: PEFT writes 16, not 16.0.
nlohmann::json json_number(double value);

}  // namespace fedllm::formats
