#include "tests/bench/yardsticks.hpp"

namespace fedllm::bench {

std::optional<GemmNt> openblas(unsigned) { return std::nullopt; }

}  // namespace fedllm::bench
