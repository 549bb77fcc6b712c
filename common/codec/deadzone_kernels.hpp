// The loops of `deadzone`, each written twice: plainly, and for vectors of whatever the processor has (chosen
// at run time by Highway). Both give the same bytes; tests compare them for every instruction set the machine
// offers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/codec/deadzone.hpp"

namespace fedllm::codec::deadzone {

using States = std::array<std::uint32_t, rans::kLanes>;

// The sum of squares of at most kSquareBlock values, in the order that deadzone.hpp fixes. NaN or infinity
// in, NaN or infinity out, and never otherwise.
double sum_of_squares(std::span<const float> block);

// Levels of `values` (as many), counted into `statistics`.
void quantize(std::span<const float> values, float inverse_step, std::int8_t* levels, Statistics& statistics);

// Codes a run of levels, last row first, writing words downwards from `top`; returns where they begin. At
// most one word per level is written, and 16 bytes below it are overwritten.
std::uint16_t* encode_run(std::span<const std::int8_t> levels, const EncodeTable& table, States& states,
                          std::uint16_t* top);

// Decodes values.size() values, taking words from `at` on; false where the words end too early.
bool decode_run(const DecodeTable& table, States& states, const std::uint16_t*& at, const std::uint16_t* end,
                std::span<float> values);

// The plain loops, for short rows, for processors without the vectors, and as what the tests compare with.
namespace plain {
double sum_of_squares(std::span<const float> block);
void quantize(std::span<const float> values, float inverse_step, std::int8_t* levels, Statistics& statistics);
std::uint16_t* encode_run(std::span<const std::int8_t> levels, const EncodeTable& table, States& states,
                          std::uint16_t* top);
bool decode_run(const DecodeTable& table, States& states, const std::uint16_t*& at, const std::uint16_t* end,
                std::span<float> values);
}  // namespace plain

}  // namespace fedllm::codec::deadzone
