#include "common/service/version.hpp"

namespace fedllm::service {

std::string_view version() { return FEDLLM_VERSION; }

}  // namespace fedllm::service
