// kernels/matmul/op_cuda.hpp's Blas on the CPU, by loops: the meaning of a Gemm, and a strict reader of what
// cuBLASLt asks of one (alignment, types, shapes met before a graph is recorded).
#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "kernels/cuda/emulated_block.hpp"
#include "kernels/matmul/gemm_contract.hpp"

namespace fedllm::kernels::cuda {
namespace {

// Sign, 4 bits of exponent biased by 7, 3 of fraction; no infinities, one NaN.
float widen_e4m3(std::uint8_t bits) {
    const int exponent = bits >> 3 & 15;
    const int fraction = bits & 7;
    if ((bits & 0x7F) == 0x7F) return NAN;
    const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                     : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
    return (bits & 0x80) != 0 ? -size : size;
}

float load(const void* data, Element type, std::size_t at) {
    const auto* from = static_cast<const unsigned char*>(data) + at * size_of(type);
    if (type == Element::E4M3) return widen_e4m3(*from);
    BF16 half;
    float value;
    if (type == Element::F32) std::memcpy(&value, from, sizeof value);
    if (type == Element::F32) return value;
    std::memcpy(&half, from, sizeof half);
    return widen(half);
}
void store(void* data, Element type, std::size_t at, float value) {
    auto* to = static_cast<unsigned char*>(data) + at * size_of(type);
    const BF16 half = narrow(value);
    if (type == Element::F32) std::memcpy(to, &value, sizeof value);
    if (type == Element::BF16) std::memcpy(to, &half, sizeof half);
}

// (rows, cols) of what the operand means, packed.
std::vector<float> unpack(const GemmOperand& from, std::size_t rows, std::size_t cols) {
    std::vector<float> values(rows * cols);
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < cols; ++c) {
            const std::size_t at = from.turned ? c * from.pitch + r : r * from.pitch + c;
            values[r * cols + c] = load(from.data, from.type, at);
        }
    }
    return values;
}

void multiply(const Gemm& gemm) {
    const std::vector<float> a = unpack(gemm.a, gemm.m, gemm.k);
    const std::vector<float> b = unpack(gemm.b, gemm.k, gemm.n);
    std::vector<float> sums(gemm.n);
    for (std::size_t m = 0; m < gemm.m; ++m) {
        sums.assign(gemm.n, 0.0f);
        for (std::size_t k = 0; k < gemm.k; ++k) {
            const float left = a[m * gemm.k + k];
            for (std::size_t n = 0; n < gemm.n; ++n) sums[n] += left * b[k * gemm.n + n];
        }
        for (std::size_t n = 0; n < gemm.n; ++n) {
            float value = gemm.alpha * sums[n];
            if (gemm.a.scales != nullptr) value *= gemm.a.scales[m];
            if (gemm.b.scales != nullptr) value *= gemm.b.scales[n];
            if (gemm.beta != 0.0f) value += gemm.beta * load(gemm.c, gemm.d_type, m * gemm.c_pitch + n);
            store(gemm.d, gemm.d_type, m * gemm.d_pitch + n, value);
        }
    }
}

}  // namespace

struct Blas::Implementation {
    std::set<GemmShape> met;
};
Blas::Blas() : implementation_(std::make_unique<Implementation>()) {}
Blas::~Blas() = default;
Blas::Blas(Blas&&) noexcept = default;
Blas& Blas::operator=(Blas&&) noexcept = default;

void Blas::gemm(const Stream& stream, const Gemm& gemm) {
    if (gemm.m == 0 || gemm.n == 0) return;
    check(gemm);
    if (emulation::records(stream) && !implementation_->met.contains(shape_of(gemm)))
        throw GpuError("a product is new while a graph is recorded");
    implementation_->met.insert(shape_of(gemm));
    emulation::enqueue(stream, [=] { multiply(gemm); });
}

void Blas::prepare(const Stream& stream, const Gemm& gemm) {
    if (gemm.m == 0 || gemm.n == 0) return;
    check(gemm);
    if (emulation::records(stream)) throw GpuError("a product is prepared while a graph is recorded");
    implementation_->met.insert(shape_of(gemm));
    for (std::size_t m = 0; m < gemm.m; ++m) {
        for (std::size_t n = 0; n < gemm.n; ++n) store(gemm.d, gemm.d_type, m * gemm.d_pitch + n, NAN);
    }
}

}  // namespace fedllm::kernels::cuda
