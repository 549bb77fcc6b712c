// `bf16`, `int8`, `int4` and `sign` on the GPU: every block's place is known beforehand.
#include "common/codec/blocks.hpp"

#include "kernels/compress/block_levels.cuh"
#include "kernels/compress/coder.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"

namespace fedllm::kernels::cuda::compress {
namespace {

namespace blocks = codec::blocks;

constexpr unsigned kThreads = 256;

struct Data {
    const float* sent;
    float* decoded;
    std::uint64_t elements;
    std::uint8_t* payloads;
    std::size_t pitch;

    __device__ std::uint8_t* payload_of(std::uint64_t element) const {
        return payloads + element / codec::kSegmentValues * pitch;
    }
};

__global__ void encode_bf16(Data data) {
    const std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i >= data.elements) return;
    const std::uint16_t bits = blocks::bf16_nearest(data.sent[i]);
    data.decoded[i] = blocks::bf16_value(bits);
    put_u16(data.payload_of(i) + 2 * (i % codec::kSegmentValues), bits);
}

template <int kLevels>
__device__ __forceinline__ int level_of(float value, const BlockScale& scale, const blocks::Draw& draw,
                                        std::uint64_t element) {
    if (draw.rounding == codec::Rounding::Nearest)
        return blocks::level_nearest(value, scale.inverse, kLevels);
    return blocks::level_stochastic(value, scale.inverse, kLevels, blocks::uniform_of(draw.key, element));
}

// A warp a block of 64.
template <int kLevels>
__global__ void __launch_bounds__(kThreads) encode_levels(Data data, blocks::Draw draw) {
    constexpr bool kBytes = kLevels == blocks::kInt8Levels;
    constexpr unsigned kBlockBytes = 2 + (kBytes ? blocks::kBlockValues : blocks::kBlockValues / 2);
    const unsigned lane = threadIdx.x % kWarp;
    const std::uint64_t block = (std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
    const std::uint64_t first = block * blocks::kBlockValues;
    if (first >= data.elements) return;  // the whole warp
    const std::uint64_t i = first + 2 * lane;
    const bool has_low = i < data.elements, has_high = i + 1 < data.elements;
    const float low = has_low ? data.sent[i] : 0.0f, high = has_high ? data.sent[i + 1] : 0.0f;
    const BlockScale scale = block_scale(low, high, kLevels);
    std::uint8_t* const to =
        data.payload_of(first) + first % codec::kSegmentValues / blocks::kBlockValues * kBlockBytes;
    if (lane == 0) put_u16(to, scale.bits);
    if (!has_low) return;
    const int low_level = level_of<kLevels>(low, scale, draw, i);
    const int high_level = has_high ? level_of<kLevels>(high, scale, draw, i + 1) : 0;
    data.decoded[i] = static_cast<float>(low_level) * scale.value;
    if (has_high) data.decoded[i + 1] = static_cast<float>(high_level) * scale.value;
    if constexpr (kBytes) {
        to[2 + 2 * lane] = static_cast<std::uint8_t>(low_level & 0xFF);
        if (has_high) to[3 + 2 * lane] = static_cast<std::uint8_t>(high_level & 0xFF);
    } else {
        to[2 + lane] = int4_pair(low_level, high_level, has_high);
    }
}

// A thread a block, because the mean is a sum in order.
__global__ void encode_sign(Data data) {
    constexpr unsigned kBlockBytes = 2 + blocks::kBlockValues / 8;
    const std::uint64_t block = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    const std::uint64_t first = block * blocks::kBlockValues;
    if (first >= data.elements) return;
    const std::uint64_t left = data.elements - first;
    const auto count = static_cast<unsigned>(left < blocks::kBlockValues ? left : blocks::kBlockValues);
    const float* const values = data.sent + first;
    double sum = 0;
    std::uint64_t negative = 0;
    for (unsigned i = 0; i < count; ++i) {
        sum += fabs(static_cast<double>(values[i]));
        negative |= std::uint64_t{values[i] < 0} << i;
    }
    const std::uint16_t mean = blocks::bf16_nearest(static_cast<float>(sum / static_cast<double>(count)));
    const std::uint16_t bits = mean < blocks::kScaleMax ? mean : blocks::kScaleMax;
    const float scale = blocks::bf16_value(bits);
    std::uint8_t* const to =
        data.payload_of(first) + first % codec::kSegmentValues / blocks::kBlockValues * kBlockBytes;
    put_u16(to, bits);
    for (unsigned i = 0; i < count; i += 8) to[2 + i / 8] = static_cast<std::uint8_t>(negative >> i & 0xFF);
    for (unsigned i = 0; i < count; ++i) data.decoded[first + i] = (negative >> i & 1) != 0 ? -scale : scale;
}

class Blocks final : public Coder {
public:
    explicit Blocks(codec::CodecId codec) : codec_(codec) {}

    std::size_t payload_bytes_most(std::size_t values) const override {
        return blocks::payload_bytes(codec_, values);
    }
    std::vector<std::byte> encode(const Task& task) override;

private:
    codec::CodecId codec_;
};

std::vector<std::byte> Blocks::encode(const Task& task) {
    const std::uint64_t elements = task.layout.elements;
    const Data data{task.sent, task.decoded, elements, task.payloads->bytes.data(), task.payloads->pitch};
    const blocks::Draw draw{task.spec.rounding, task.key, 0};
    const auto launch_for = [&](std::uint64_t per_block) {
        return Launch{.grid = {blocks_for(elements, per_block)}, .threads = kThreads};
    };
    constexpr std::uint64_t kOfWarps = kThreads / kWarp * blocks::kBlockValues;
    switch (codec_) {
        case codec::CodecId::Int8:
            launch(task.stream, launch_for(kOfWarps), encode_levels<blocks::kInt8Levels>, data, draw);
            break;
        case codec::CodecId::Int4:
            launch(task.stream, launch_for(kOfWarps), encode_levels<blocks::kInt4Levels>, data, draw);
            break;
        case codec::CodecId::Sign:
            launch(task.stream, launch_for(kThreads * blocks::kBlockValues), encode_sign, data);
            break;
        default: launch(task.stream, launch_for(kThreads), encode_bf16, data);
    }
    for (std::size_t s = 0; s < task.payloads->places.size(); ++s) {
        const std::uint64_t values = std::min(codec::kSegmentValues, elements - s * codec::kSegmentValues);
        task.payloads->places[s] = {0, static_cast<std::uint32_t>(blocks::payload_bytes(codec_, values))};
    }
    return {};
}

}  // namespace

std::unique_ptr<Coder> make_blocks(codec::CodecId codec) { return std::make_unique<Blocks>(codec); }

}  // namespace fedllm::kernels::cuda::compress
