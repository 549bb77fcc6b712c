// What building an update computes on all of its values, wherever they lie: on the CPU (cpu_arithmetic) or
// on a GPU (client/cuda_update). Both give the same bits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/base/result.hpp"
#include "common/codec/codec.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::update {

struct Measure {
    double squares = 0;  // their sum, in the order that common/codec/deadzone.hpp fixes
    std::uint64_t zeros = 0;
    std::optional<std::uint64_t> not_finite;  // the first element that is not

    double norm() const { return std::sqrt(squares); }
};

struct Difference {
    Measure delta;  // trained - start
    Measure x;      // with the residual
};

struct Encoded {
    std::vector<std::byte> bytes;
    double decoded_squares = 0;  // |decoded|^2
    double lost_squares = 0;     // |sent - decoded|^2
};

// Lifecycle: for one update, by calls in the order below; scale() and scale_sent() as often as it takes, and
// encode() once more after the latter or with another Spec. Exceptions of a GPU pass through the builder, to
// whoever made the object.
class Arithmetic {
public:
    virtual ~Arithmetic() = default;

    // x = trained - start, plus the residual where there is one.
    virtual Difference difference(std::span<const float> start, std::span<const float> trained,
                                  std::span<const float> residual) = 0;
    // x = f32(x * factor), the product in double.
    virtual Measure scale(double factor) = 0;
    // What will be encoded: x of the groups whose entry in `sent_groups` is not 0, and zeros elsewhere; all
    // of x where `sent_groups` is empty.
    virtual Measure send(std::span<const std::uint8_t> sent_groups) = 0;
    virtual Measure scale_sent(double factor) = 0;
    virtual Result<Encoded> encode(const codec::Spec& spec, std::uint64_t key) = 0;
    // x -= what `bytes`, the last that encode() made, decode to.
    virtual Result<Measure> subtract_decoded(std::span<const std::byte> bytes) = 0;
    // The end: x leaves.
    virtual tensor::ParamSet take_x() = 0;
};

}  // namespace fedllm::client::update
