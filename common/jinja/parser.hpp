// Tokens to a syntax tree. What Jinja has and we lack is refused here, with its name, its line and what is
// supported.
#pragma once

#include <cstddef>
#include <string_view>

#include "common/base/result.hpp"
#include "common/jinja/syntax.hpp"

namespace fedllm::jinja {

inline constexpr std::size_t kSourceBytesMax = std::size_t{1} << 20;
inline constexpr int kSyntaxDepthMax = 100;  // of what is nested in the text
inline constexpr int kTreeDepthMax = 300;    // and of expressions as trees

Result<Block> parse(std::string_view source);

}  // namespace fedllm::jinja
