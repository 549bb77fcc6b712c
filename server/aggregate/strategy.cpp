#include "server/aggregate/strategy.hpp"

#include "common/base/result.hpp"

namespace fedllm::server::aggregate {

void fed_avg(std::span<float> global, std::span<const float> mean_update, double learning_rate) {
    FEDLLM_CHECK(global.size() == mean_update.size());
    for (std::size_t i = 0; i < global.size(); ++i) {
        global[i] = static_cast<float>(static_cast<double>(global[i]) + learning_rate * mean_update[i]);
    }
}

}  // namespace fedllm::server::aggregate
