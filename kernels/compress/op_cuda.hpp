// Updates encoded on the GPU: difference, error feedback, and every codec of common/codec. The bytes are
// those of codec::encode() for the same values, and the residual has the same bits as on a CPU.
//
// One update takes these calls, in this order:
//   difference()        x = after - before, plus the residual, in the residual's place
//   scale()             clips x; as often as it takes, or never
//   send()              x, or some of its groups, becomes what is encoded
//   encode()            bytes; once more after scale_sent(), where what they decode to is still too long
//   subtract_decoded()  x becomes the next residual
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/codec/codec.hpp"
#include "kernels/cuda/runtime.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels::cuda {

// What is known of all values of an update.
struct Measure {
    double squares = 0;  // their sum, in the order that common/codec/deadzone.hpp fixes
    float largest = 0;   // magnitude
    std::uint64_t zeros = 0;
    std::optional<std::uint64_t> not_finite;  // the first element that is not
};

struct Difference {
    Measure delta;  // after - before
    Measure x;      // with the residual
};

struct EncodedOnDevice {
    std::vector<std::byte> bytes;
    double decoded_squares = 0;  // |decoded|^2
    double lost_squares = 0;     // |sent - decoded|^2
};

// Lifecycle: move-only; all device memory is taken at construction (deadzone 11 bytes a value, topk 14, int8
// 9, int4 8.5, sign 8.2, bf16 10, none 8); pinned host memory grows with the bytes. Concurrency: one call at
// a time, all on one stream; each returns when its work is done. Limits: a layout below 2^38 values.
class DeviceEncoder {
public:
    DeviceEncoder(const codec::Layout& layout, codec::CodecId codec);
    ~DeviceEncoder();
    DeviceEncoder(DeviceEncoder&&) noexcept;
    DeviceEncoder& operator=(DeviceEncoder&&) noexcept;

    // residual (N) becomes after - before, or (Write::Accumulate) grows by it.
    Difference difference(const Stream& stream, const float* before, const float* after, float* residual,
                          Write write);
    // x = f32(x * factor), the product in double.
    Measure scale(const Stream& stream, float* x, double factor);

    // What will be encoded: x of the groups whose entry in `sent_groups` is not 0, and zeros elsewhere; all
    // of x where `sent_groups` is empty. x is not changed.
    Measure send(const Stream& stream, const float* x, std::span<const std::uint8_t> sent_groups = {});
    Measure scale_sent(const Stream& stream, double factor);

    // NotFinite where codec::encode() says so. `spec.id` is the constructor's codec.
    Result<EncodedOnDevice> encode(const Stream& stream, const codec::Spec& spec, std::uint64_t key);

    // x -= what the last encode() decodes to; measures what remains.
    Measure subtract_decoded(const Stream& stream, float* x);

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace fedllm::kernels::cuda
