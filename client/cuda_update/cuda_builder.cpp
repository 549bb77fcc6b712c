#include "client/cuda_update/cuda_builder.hpp"

#include <memory>

#include "client/cuda_engine/guarded.hpp"
#include "client/cuda_engine/transfer.hpp"
#include "client/update/arithmetic.hpp"
#include "kernels/compress/op_cuda.hpp"

namespace fedllm::client::cuda_update {
namespace {

using cuda_engine::guarded;
using kernels::cuda::DeviceBuffer;
using update::Difference;
using update::Encoded;
using update::Measure;

Measure measure_of(const kernels::cuda::Measure& found) {
    return {found.squares, found.zeros, found.not_finite};
}

// Throws GpuError. Lifecycle: all memory is taken at construction; that of start and trained goes back as
// soon as their difference is there.
class CudaArithmetic final : public update::Arithmetic {
public:
    CudaArithmetic(const tensor::Manifest& manifest, codec::CodecId codec)
        : manifest_(manifest),
          transfer_(stream_),
          start_(manifest.elements()),
          trained_(manifest.elements()),
          x_(manifest.elements()),
          encoder_(codec::layout_of(manifest), codec) {}

    Difference difference(std::span<const float> start, std::span<const float> trained,
                          std::span<const float> residual) override {
        upload(start_, start);
        upload(trained_, trained);
        if (!residual.empty()) upload(x_, residual);
        const auto write = residual.empty() ? kernels::Write::Overwrite : kernels::Write::Accumulate;
        const auto found = encoder_.difference(stream_, start_.data(), trained_.data(), x_.data(), write);
        start_ = {};
        trained_ = {};
        return {measure_of(found.delta), measure_of(found.x)};
    }
    Measure scale(double factor) override { return measure_of(encoder_.scale(stream_, x_.data(), factor)); }
    Measure send(std::span<const std::uint8_t> sent_groups) override {
        return measure_of(encoder_.send(stream_, x_.data(), sent_groups));
    }
    Measure scale_sent(double factor) override { return measure_of(encoder_.scale_sent(stream_, factor)); }
    Result<Encoded> encode(const codec::Spec& spec, std::uint64_t key) override {
        FEDLLM_TRY(auto made, encoder_.encode(stream_, spec, key));
        return Encoded{std::move(made.bytes), made.decoded_squares, made.lost_squares};
    }
    // The encoder still has what they decode to.
    Result<Measure> subtract_decoded(std::span<const std::byte>) override {
        return measure_of(encoder_.subtract_decoded(stream_, x_.data()));
    }
    tensor::ParamSet take_x() override {
        tensor::ParamSet x(manifest_);
        transfer_.to_host(x.values().data(), x_.data(), x_.bytes());
        return x;
    }

private:
    void upload(const DeviceBuffer<float>& to, std::span<const float> from) {
        transfer_.to_device(to.data(), from.data(), from.size_bytes());
    }

    const tensor::Manifest& manifest_;
    kernels::cuda::Stream stream_;
    cuda_engine::Transfer transfer_;
    DeviceBuffer<float> start_, trained_, x_;
    kernels::cuda::DeviceEncoder encoder_;
};

}  // namespace

Result<update::EncodedUpdate> build(unsigned device, const tensor::ParamSet& start,
                                    const tensor::ParamSet& trained, const update::BuildRequest& request) {
    FEDLLM_TRY_VOID(guarded(device, []() -> Result<void> {
        (void)kernels::cuda::free_memory_bytes();  // a GPU that is gone does not lack room
        return {};
    }));
    auto arithmetic = guarded(device, [&]() -> Result<std::unique_ptr<CudaArithmetic>> {
        return std::make_unique<CudaArithmetic>(start.manifest(), request.spec.codec.id);
    });
    if (!arithmetic) return make_error(Errc::TooLarge, arithmetic.error().message);
    return guarded(device, [&] { return update::build(start, trained, request, **arithmetic); });
}

}  // namespace fedllm::client::cuda_update
