#include "client/engine/rotation.hpp"

#include "client/engine/frequencies.hpp"

namespace fedllm::client::engine {

Rotation::Rotation(const model::ModelConfig& config, std::size_t positions) {
    if (config.family->positions != model::Positions::Rotary) return;
    head_size_ = config.head_size;
    cosine_.resize(positions * head_size_ / 2);
    sine_.resize(positions * head_size_ / 2);
    kernels::rope_table(positions, rope_frequencies(config), cosine_.data(), sine_.data());
}

void Rotation::turn(kernels::ThreadPool& pool, kernels::Matrix x, const std::int32_t* positions,
                    kernels::Turn direction) const {
    if (head_size_ == 0) return;
    kernels::rope(pool, x, x.cols / head_size_, head_size_, positions, cosine_.data(), sine_.data(),
                  direction);
}

}  // namespace fedllm::client::engine
