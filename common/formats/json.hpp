// Strict JSON from untrusted text: no exceptions, bounded depth, a repeated key is an error.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "common/base/result.hpp"

namespace fedllm::formats {

constexpr std::size_t kJsonDepthMax = 64;

// InvalidFile with `source`, line and column. The caller has bounded the size of the text.
Result<nlohmann::json> parse_json(std::string_view text, std::string_view source);

// JSON text of any string; fails with InvalidArgument for what is not UTF-8.
Result<std::string> quote_json(std::string_view text);

// 'text' for error messages: cut to a readable length, control characters shown as '?'.
std::string in_quotes(std::string_view text);

}  // namespace fedllm::formats
