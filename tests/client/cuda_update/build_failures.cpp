// A GPU that fails, at each of the calls that an update takes: an error that says so, and nothing is left
// behind. The emulation alone can fail on demand.
#include "client/cuda_update/cuda_builder.hpp"
#include "kernels/cuda/emulated_failures.hpp"
#include "tests/client/cuda_update/setting.hpp"

namespace fedllm::client::cuda_update::cases {
namespace {

void failing_case(Harness& harness, codec::CodecId codec) {
    harness.begin(std::string(codec::name(codec)));
    const tensor::Manifest manifest = manifest_of();
    const tensor::ParamSet start(manifest), trained = values_of(manifest, "trained"),
                                            residual = values_of(manifest, "residual");
    const update::BuildRequest request{.spec = {.clip_norm = 0.3, .codec = {.id = codec}, .segments = 2},
                                       .residual = residual.values()};
    const auto want = update::build(start, trained, request);
    std::uint64_t no_room = 0, failed = 0;
    for (std::uint64_t calls = 0;; ++calls) {
        kernels::cuda::emulation::fail_after(calls);
        const auto got = build(/*device=*/0, start, trained, request);
        kernels::cuda::emulation::fail_after(kernels::cuda::emulation::kNever);
        if (got || calls > 10'000) {
            check_same(harness, got, want);
            break;
        }
        const bool taking = got.error().code == Errc::TooLarge;
        harness.check(taking || got.error().code == Errc::DeviceFailed, got.error().message);
        harness.check(!taking || failed == 0, "memory is taken first");
        harness.check(got.error().message.find("on demand") != std::string::npos, got.error().message);
        (taking ? no_room : failed) += 1;
    }
    harness.check(no_room > 5 && failed > 20, "calls that can fail");
}

}  // namespace
}  // namespace fedllm::client::cuda_update::cases

int main() {
    using namespace fedllm;
    return kernels::cuda::cases::run([](kernels::cuda::cases::Harness& harness) {
        for (const auto codec :
             {codec::CodecId::None, codec::CodecId::Int8, codec::CodecId::TopK, codec::CodecId::Deadzone}) {
            client::cuda_update::cases::failing_case(harness, codec);
        }
    });
}
