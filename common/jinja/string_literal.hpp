// What a quoted string in a template stands for: Python's escapes.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.hpp"

namespace fedllm::jinja {

// `body`: what is between the quotes. Unknown escapes stay as they are written.
Result<std::string> unescape_string(std::string_view body);

void append_code_point(std::string& out, char32_t c);  // as UTF-8

}  // namespace fedllm::jinja
