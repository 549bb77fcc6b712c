#include <algorithm>
#include <limits>

#include "kernels/adamw/op_cuda.hpp"
#include "tests/kernels/adamw_bits.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr AdamWConfig kConfig{
    .learning_rate = 3e-3, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1};
constexpr std::size_t kGuard = 8;  // elements before and behind, which belong to somebody else

// Uniform in [-1, 1), with a guard of NaNs on both sides.
std::vector<float> guarded(std::size_t count, unsigned seed, float scale = 1.0f) {
    std::vector<float> made(count + 2 * kGuard, std::numeric_limits<float>::quiet_NaN());
    std::uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
    for (std::size_t i = 0; i < count; ++i) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        made[kGuard + i] = scale * (static_cast<float>(state >> 40) / 8388608.0f - 1.0f);
    }
    return made;
}
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

DeviceBuffer<AdamWStep> on_device(const Stream& stream, const AdamWStep& step) {
    return to_device<AdamWStep>(stream, std::span(&step, 1));
}

// Bits of the CPU's body (tests/kernels/training_test.cpp), step by step. `first` elements after an aligned
// address.
void step_case(Harness& harness, std::size_t count, std::size_t first) {
    harness.begin("adamw " + std::to_string(count) + " from " + std::to_string(first));
    const Stream stream;
    std::vector<float> state[3] = {guarded(count, 1), guarded(count, 2, 0.0f), guarded(count, 3, 0.0f)};
    DeviceBuffer<float> device[3];
    for (int i = 0; i < 3; ++i) {
        std::vector<float> placed(first, 0.0f);  // kGuard is a multiple of 4
        placed.insert(placed.end(), state[i].begin(), state[i].end());
        device[i] = to_device<float>(stream, placed);
    }
    const auto at = [&](const DeviceBuffer<float>& buffer) { return buffer.data() + first + kGuard; };
    for (std::uint64_t number = 1; number <= 5; ++number) {
        std::vector<float> gradients = guarded(count, 10 + static_cast<unsigned>(number), 3.0f);
        gradients[kGuard] = 0.0f;
        std::vector<float> placed(first, 0.0f);
        placed.insert(placed.end(), gradients.begin(), gradients.end());
        const auto device_gradients = to_device<float>(stream, placed);
        const auto step = on_device(stream, make_adamw_step(kConfig, number, 0.7));
        DeviceBuffer<double> scratch(kNormBlocks);
        clip_gradients(stream, at(device_gradients), count, scratch.data(), step.data());
        adamw(stream, step.data(), count, at(device_gradients), at(device[0]), at(device[1]), at(device[2]));
        const float scale = to_host(stream, step.data(), 1)[0].scale;
        const auto part = [&](std::vector<float>& values) {
            return std::span<float>(values).subspan(kGuard, count);
        };
        adamw_bits(kConfig, number, scale, part(gradients), part(state[0]), part(state[1]), part(state[2]));
    }
    const char* names[3] = {"params", "first moment", "second moment"};
    for (int i = 0; i < 3; ++i) {
        harness.check(same_bits(to_host(stream, device[i].data() + first, count + 2 * kGuard), state[i]),
                      std::string(names[i]) + ": not the CPU's bits");
    }
}

// The norm, and the factor that torch.nn.utils.clip_grad_norm_ multiplies with.
void clip_case(Harness& harness, std::size_t count, std::size_t first, double clip) {
    harness.begin("clip_gradients " + std::to_string(count) + " at " + std::to_string(clip));
    const Stream stream;
    const std::vector<float> values = guarded(count, 5, 2.0f);
    double squares = 0;
    for (std::size_t i = first; i < count; ++i) squares += double{values[kGuard + i]} * values[kGuard + i];
    const double norm = std::sqrt(squares);
    const double scale = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
    const auto device = to_device<float>(stream, values);
    const auto step = on_device(stream, make_adamw_step(kConfig, 1, clip));
    DeviceBuffer<double> scratch(kNormBlocks);
    AdamWStep got[2];
    for (AdamWStep& each : got) {
        clip_gradients(stream, device.data() + kGuard + first, count - first, scratch.data(), step.data());
        each = to_host(stream, step.data(), 1)[0];
    }
    // A sum of n positive terms errs by at most n roundings, a square root by half of them and its own.
    const double bound = (static_cast<double>(count) + 2) * 0x1p-53 * norm;
    harness.check(std::fabs(got[0].norm - norm) <= bound, "norm is not the oracle's");
    harness.check(std::fabs(got[0].scale - scale) <= 0x1.01p-24 * scale, "scale is not torch's");
    harness.check(got[0].skip == 0, "a finite norm skips");
    harness.check(got[0].norm == got[1].norm, "norm changes from run to run");
}

// What is not finite changes nothing.
void skip_case(Harness& harness, float bad, double clip) {
    harness.begin("adamw skips " + std::to_string(bad));
    const Stream stream;
    constexpr std::size_t kCount = 2055;
    std::vector<float> gradients(kCount, 1.0f);
    gradients[1500] = bad;
    const std::vector<float> before(kCount, 0.5f);
    const auto device_gradients = to_device<float>(stream, gradients);
    const auto params = to_device<float>(stream, before);
    const auto first = to_device<float>(stream, before);
    const auto second = to_device<float>(stream, before);
    const auto step = on_device(stream, make_adamw_step(kConfig, 3, clip));
    DeviceBuffer<double> scratch(kNormBlocks);
    clip_gradients(stream, device_gradients.data(), kCount, scratch.data(), step.data());
    adamw(stream, step.data(), kCount, device_gradients.data(), params.data(), first.data(), second.data());
    const AdamWStep got = to_host(stream, step.data(), 1)[0];
    harness.check(got.skip == 1 && got.scale == 0 && !std::isfinite(got.norm),
                  "the norm is taken for finite");
    for (const auto* buffer : {&params, &first, &second})
        harness.check(same_bits(to_host(stream, buffer->data(), kCount), before), "the step changed a value");
}

// A loss that is not finite counts as much as a norm.
void loss_case(Harness& harness, double loss, unsigned skip) {
    harness.begin("adamw and a loss of " + std::to_string(loss));
    const Stream stream;
    const auto gradients = to_device<float>(stream, std::vector<float>(9, 1.0f));
    const auto device_loss = to_device<double>(stream, std::vector<double>{loss});
    const auto step = on_device(stream, make_adamw_step(kConfig, 3, 0.0));
    DeviceBuffer<double> scratch(kNormBlocks);
    clip_gradients(stream, gradients.data(), 9, scratch.data(), step.data(), device_loss.data());
    const AdamWStep got = to_host(stream, step.data(), 1)[0];
    harness.check(got.skip == skip && got.scale == (skip == 0 ? 1.0f : 0.0f), "what it makes of the step");
    harness.check(got.norm == 3.0, "the norm");
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const std::size_t count : {1, 3, 4, 7, 1023, 1024, 4099})
            for (const std::size_t first : {0, 1}) step_case(harness, count, first);
        for (const double clip : {0.0, 0.5, 1e6}) clip_case(harness, 5003, 0, clip);
        clip_case(harness, 2, 1, 0.5);
        clip_case(harness, 3001, 1, 0.5);
        loss_case(harness, 3.5, 0);
        loss_case(harness, std::numeric_limits<double>::infinity(), 1);
        loss_case(harness, std::numeric_limits<double>::quiet_NaN(), 1);
        // More runs than blocks.
        clip_case(harness, 1030 * 1024 + 5, 0, 2.0);
        for (const double clip : {0.0, 1.0}) {
            skip_case(harness, std::numeric_limits<float>::infinity(), clip);
            skip_case(harness, std::numeric_limits<float>::quiet_NaN(), clip);
        }
    });
}
