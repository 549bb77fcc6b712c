// kernels/matmul/op_cuda.hpp's Blas on the CPU, by loops: the meaning of a Gemm, and a strict reader of what
// cuBLASLt asks of one (alignment, types, shapes met before a graph is recorded).
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "kernels/cuda/emulated_block.hpp"
#include "kernels/matmul/op_cuda.hpp"

namespace fedllm::kernels::cuda {
namespace {

std::size_t size_of(Element type) { return type == Element::E4M3 ? 1 : type == Element::BF16 ? 2 : 4; }

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

void demand(bool holds, const char* what) {
    if (!holds) throw GpuError(std::string("a product asks for ") + what);
}
void check_place(const void* data, std::size_t pitch, std::size_t width, Element type) {
    demand(data != nullptr, "memory that is not there");
    demand(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, "data that is not aligned to 16 bytes");
    demand(pitch * size_of(type) % 16 == 0, "rows that are not aligned to 16 bytes");
    demand(pitch >= width, "a pitch less than its columns");
}
void check(const Gemm& gemm) {
    const bool narrow_operands = gemm.a.type == Element::E4M3;
    demand(gemm.a.type == gemm.b.type, "operands of two types");
    demand(gemm.d_type != Element::E4M3, "a result of E4M3");
    check_place(gemm.a.data, gemm.a.pitch, gemm.a.turned ? gemm.m : gemm.k, gemm.a.type);
    check_place(gemm.b.data, gemm.b.pitch, gemm.b.turned ? gemm.k : gemm.n, gemm.b.type);
    check_place(gemm.d, gemm.d_pitch, gemm.n, gemm.d_type);
    if (gemm.beta != 0.0f) check_place(gemm.c, gemm.c_pitch, gemm.n, gemm.d_type);
    demand(gemm.c != gemm.d || gemm.beta == 0.0f || gemm.c_pitch == gemm.d_pitch,
           "a sum in place by two pitches");
    const bool scaled = gemm.a.scales != nullptr && gemm.b.scales != nullptr;
    const bool unscaled = gemm.a.scales == nullptr && gemm.b.scales == nullptr;
    demand(narrow_operands ? scaled : unscaled, "scales of E4M3 alone, of both operands");
    demand(!narrow_operands || (!gemm.a.turned && gemm.b.turned && gemm.k % 16 == 0),
           "E4M3 whose depth does not run along memory by 16");
    demand(gemm.a.type != Element::F32 || gemm.d_type == Element::F32, "BF16 of F32 operands");
}

using Shape = std::tuple<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, std::size_t,
                         std::size_t, bool, bool, Element, Element>;
Shape shape_of(const Gemm& gemm) {
    return {gemm.m,       gemm.n,        gemm.k,
            gemm.a.pitch, gemm.b.pitch,  gemm.beta != 0 ? gemm.c_pitch : 0,
            gemm.d_pitch, gemm.a.turned, gemm.b.turned,
            gemm.a.type,  gemm.d_type};
}

}  // namespace

struct Blas::Implementation {
    std::map<Shape, bool> met;
};
Blas::Blas() : implementation_(std::make_unique<Implementation>()) {}
Blas::~Blas() = default;
Blas::Blas(Blas&&) noexcept = default;
Blas& Blas::operator=(Blas&&) noexcept = default;

void Blas::gemm(const Stream& stream, const Gemm& gemm) {
    if (gemm.m == 0 || gemm.n == 0) return;
    check(gemm);
    bool& met = implementation_->met[shape_of(gemm)];
    if (!met && emulation::records(stream))
        throw GpuError("a product met for the first time while a graph is recorded");
    met = true;
    emulation::enqueue(stream, [=] { multiply(gemm); });
}

void Blas::prepare(const Stream& stream, const Gemm& gemm) {
    if (gemm.m == 0 || gemm.n == 0) return;
    check(gemm);
    if (emulation::records(stream)) throw GpuError("a product is prepared while a graph is recorded");
    implementation_->met[shape_of(gemm)] = true;
    for (std::size_t m = 0; m < gemm.m; ++m) {
        for (std::size_t n = 0; n < gemm.n; ++n) store(gemm.d, gemm.d_type, m * gemm.d_pitch + n, NAN);
    }
}

}  // namespace fedllm::kernels::cuda
