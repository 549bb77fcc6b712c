// Arithmetic in the host's memory: x, and what is sent of it.
#pragma once

#include <span>
#include <vector>

#include "client/update/arithmetic.hpp"

namespace fedllm::client::update {

class CpuArithmetic final : public Arithmetic {
public:
    explicit CpuArithmetic(const tensor::Manifest& manifest);

    Difference difference(std::span<const float> start, std::span<const float> trained,
                          std::span<const float> residual) override;
    Measure scale(double factor) override;
    Measure send(std::span<const std::uint8_t> sent_groups) override;
    Measure scale_sent(double factor) override;
    Result<Encoded> encode(const codec::Spec& spec, std::uint64_t key) override;
    Result<Measure> subtract_decoded(std::span<const std::byte> bytes) override;
    tensor::ParamSet take_x() override { return std::move(x_); }

private:
    codec::Layout layout_;
    codec::CodecId codec_ = codec::CodecId::None;  // of the last encode()
    tensor::ParamSet x_;
    std::vector<float> sent_;
};

}  // namespace fedllm::client::update
