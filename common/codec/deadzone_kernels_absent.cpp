// deadzone_kernels.hpp without Highway.
#include "common/codec/deadzone_kernels.hpp"

namespace fedllm::codec::deadzone {

double sum_of_squares(std::span<const float> block) { return plain::sum_of_squares(block); }

void quantize(std::span<const float> values, float inverse_step, std::int8_t* levels,
              Statistics& statistics) {
    plain::quantize(values, inverse_step, levels, statistics);
}

std::uint16_t* encode_run(std::span<const std::int8_t> levels, const EncodeTable& table, States& states,
                          std::uint16_t* top) {
    return plain::encode_run(levels, table, states, top);
}

bool decode_run(const DecodeTable& table, States& states, const std::uint16_t*& at, const std::uint16_t* end,
                std::span<float> values) {
    return plain::decode_run(table, states, at, end, values);
}

}  // namespace fedllm::codec::deadzone
