#include "tests/bench/yardsticks.hpp"

namespace fedllm::bench {

std::optional<GemmNt> onednn() { return std::nullopt; }

}  // namespace fedllm::bench
