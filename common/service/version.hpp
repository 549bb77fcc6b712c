// The version of this build, as in CMakeLists.txt.
#pragma once

#include <string_view>

namespace fedllm::service {

std::string_view version();  // "0.1.0"

}  // namespace fedllm::service
