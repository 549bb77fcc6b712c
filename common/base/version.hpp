// The version of every program in this tree; CHANGELOG.md says what each one brought.
#pragma once

#include <string_view>

namespace fedllm {

inline constexpr std::string_view kVersion = "0.1.0";

}  // namespace fedllm
