#include "client/cuda_engine/fp8_weights.hpp"

#include "client/cuda_engine/guarded.hpp"
#include "kernels/quantize/op_cuda.hpp"

namespace fedllm::client::cuda_engine {

Fp8Matrix Fp8Matrix::lay_out(std::size_t rows, std::size_t cols, Carver& carver) {
    const std::size_t pitch = pitch_of(cols);
    return {carver.take<std::uint8_t>(rows * pitch), carver.take<float>(rows), rows, pitch};
}

Fp8Weight Fp8Weight::lay_out(std::size_t n, std::size_t k, Carver& carver) {
    return {Fp8Matrix::lay_out(n, k, carver), Fp8Matrix::lay_out(k, n, carver)};
}

void Fp8Weight::fill(const kernels::cuda::Stream& stream, ConstDeviceMatrix from) const {
    kernels::cuda::quantize_e4m3_rows(stream, from, forward.codes, forward.pitch, forward.scales);
    kernels::cuda::quantize_e4m3_columns(stream, from, backward.codes, backward.pitch, backward.scales);
}

Fp8Matrix to_fp8(const kernels::cuda::Stream& stream, ConstDeviceMatrix from, const Fp8Matrix& room) {
    const Fp8Matrix to{room.codes, room.scales, from.rows, Fp8Matrix::pitch_of(from.cols)};
    kernels::cuda::quantize_e4m3_rows(stream, from, to.codes, to.pitch, to.scales);
    return to;
}

bool multiplies_fp8(unsigned device) {
    const auto tried = guarded(device, []() -> Result<void> {
        constexpr std::size_t kSize = 128;
        const kernels::cuda::Stream stream;
        const kernels::cuda::DeviceBuffer<BF16> result(kSize * kSize);
        Carver measure;
        Fp8Matrix::lay_out(kSize, kSize, measure);
        const kernels::cuda::DeviceBuffer<unsigned char> memory(measure.used());
        Carver place(memory.data());
        const Fp8Matrix zeros = Fp8Matrix::lay_out(kSize, kSize, place);
        kernels::cuda::fill_bytes(stream, memory.data(), 0, memory.bytes());
        kernels::cuda::Gemm gemm;
        gemm.m = gemm.n = gemm.k = kSize;
        gemm.a = zeros.operand();
        gemm.b = zeros.operand(/*turned=*/true);
        gemm.c = gemm.d = result.data();  // as a layer adds the residual stream
        gemm.c_pitch = gemm.d_pitch = kSize;
        gemm.beta = 1.0F;
        kernels::cuda::Blas().prepare(stream, gemm);
        stream.synchronize();
        return {};
    });
    return static_cast<bool>(tried);
}

}  // namespace fedllm::client::cuda_engine
