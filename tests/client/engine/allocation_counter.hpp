// How many allocations the whole program has made, to see that a training step makes none.
#pragma once

#include <cstddef>

namespace fedllm::client::engine::testing {

std::size_t allocations();

}  // namespace fedllm::client::engine::testing
