// Blas by cuBLASLt. The library's matrices are column-major: a row-major d = a b is its d' = b' a', so its
// first operand is our b, its second our a, and each lies in memory as it is.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "kernels/matmul/cublaslt.hpp"
#include "kernels/matmul/gemm_contract.hpp"

namespace fedllm::kernels::cuda {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{64} << 20;
constexpr int kCandidates = 8;
constexpr int kTimedRuns = 3;

std::string words(const Gemm& gemm) {
    return std::to_string(gemm.m) + " x " + std::to_string(gemm.n) + " x " + std::to_string(gemm.k) +
           (gemm.a.type == Element::E4M3 ? " of E4M3" : "");
}
void check(cublasStatus_t status, const char* doing) {
    if (status != CUBLAS_STATUS_SUCCESS)
        throw GpuError(std::string(doing) + ": " + cublaslt().status_string(status));
}
cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }
bool records(const Stream& stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(native(stream), &status) != cudaSuccess)
        throw GpuError("asking whether a stream records a graph");
    return status != cudaStreamCaptureStatusNone;
}

cudaDataType_t native(Element type) {
    return type == Element::E4M3 ? CUDA_R_8F_E4M3 : type == Element::BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

// How one shape is multiplied. Plain values: nothing in it is the library's to free.
struct Plan {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t first, second, addend, result;
    cublasLtMatmulAlgo_t algorithm;
};

template <class T>
void set(Plan& plan, cublasLtMatmulDescAttributes_t attribute, T value) {
    check(cublaslt().set_product(&plan.product, attribute, &value, sizeof value), "describing a product");
}
// (rows, cols) as they lie in memory, row-major.
void lay_out(cublasLtMatrixLayoutOpaque_t& layout, Element type, std::size_t rows, std::size_t cols,
             std::size_t pitch) {
    check(cublaslt().init_matrix(&layout, sizeof layout, native(type), cols, rows,
                                 static_cast<std::int64_t>(pitch)),
          "describing a matrix");
}
void point_at_scales(Plan& plan, const Gemm& gemm) {
    if (gemm.a.type != Element::E4M3) return;
    set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, gemm.b.scales);
    set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, gemm.a.scales);
}

// Hopper's E4M3 adds with 14 bits in `fast`, and in f32 every few steps without, where the library can do
// both.
Plan describe(const Gemm& gemm, bool fast) {
    Plan plan{};
    check(cublaslt().init_product(&plan.product, sizeof plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "describing a product");
    set(plan, CUBLASLT_MATMUL_DESC_TRANSA, gemm.b.turned ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan, CUBLASLT_MATMUL_DESC_TRANSB, gemm.a.turned ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (gemm.a.type == Element::E4M3) {
        set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
        set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
        set(plan, CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<std::int8_t>(fast));
        point_at_scales(plan, gemm);
    }
    const GemmOperand& a = gemm.a;
    const GemmOperand& b = gemm.b;
    lay_out(plan.first, b.type, b.turned ? gemm.n : gemm.k, b.turned ? gemm.k : gemm.n, b.pitch);
    lay_out(plan.second, a.type, a.turned ? gemm.k : gemm.m, a.turned ? gemm.m : gemm.k, a.pitch);
    lay_out(plan.addend, gemm.d_type, gemm.m, gemm.n, gemm.beta == 0.0f ? gemm.d_pitch : gemm.c_pitch);
    lay_out(plan.result, gemm.d_type, gemm.m, gemm.n, gemm.d_pitch);
    return plan;
}

// What stands in d is put back when this goes: sums in place are timed without adding to them.
class Kept {
public:
    Kept(const Stream& stream, const Gemm& gemm)
        : stream_(stream), d_(gemm.d), copy_(((gemm.m - 1) * gemm.d_pitch + gemm.n) * size_of(gemm.d_type)) {
        copy_on_device(stream_, copy_.data(), d_, copy_.bytes());
    }
    void put_back() {
        copy_on_device(stream_, d_, copy_.data(), copy_.bytes());
        stream_.synchronize();
    }

private:
    const Stream& stream_;
    void* d_;
    DeviceBuffer<unsigned char> copy_;
};

// The library's guesses, best first; none where it cannot multiply so.
std::vector<cublasLtMatmulAlgo_t> candidates(cublasLtHandle_t library, Plan& plan) {
    constexpr const char* kDoing = "choosing an algorithm";
    cublasLtMatmulPreferenceOpaque_t preference{};
    check(cublaslt().init_preference(&preference, sizeof preference), kDoing);
    auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
        check(cublaslt().set_preference(&preference, attribute, &value, sizeof value), kDoing);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kWorkspaceBytes});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::uint32_t{16});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, std::uint32_t{16});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, std::uint32_t{16});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, std::uint32_t{16});
    std::array<cublasLtMatmulHeuristicResult_t, kCandidates> found{};
    int count = 0;
    const cublasStatus_t status =
        cublaslt().heuristic(library, &plan.product, &plan.first, &plan.second, &plan.addend, &plan.result,
                             &preference, kCandidates, found.data(), &count);
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return algorithms;
    check(status, kDoing);
    for (int i = 0; i < count; ++i) {
        if (found[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(found[i].algo);
    }
    return algorithms;
}

}  // namespace

struct Blas::Implementation {
    Implementation() { check(cublaslt().create(&library), "starting cuBLASLt"); }
    ~Implementation() { cublaslt().destroy(library); }
    Implementation(const Implementation&) = delete;
    Implementation& operator=(const Implementation&) = delete;

    cublasStatus_t multiply(const Stream& stream, const Gemm& gemm, Plan& plan) const {
        const void* c = gemm.beta == 0.0f ? gemm.d : gemm.c;
        return cublaslt().matmul(library, &plan.product, &gemm.alpha, gemm.b.data, &plan.first, gemm.a.data,
                                 &plan.second, &gemm.beta, c, &plan.addend, gemm.d, &plan.result,
                                 &plan.algorithm, workspace.data(), workspace.bytes(), native(stream));
    }

    // Milliseconds of a few runs after one to warm up; infinite where the library then refuses.
    float time(const Stream& stream, const Gemm& gemm, Plan& plan) const {
        Event begin;
        Event end;
        cublasStatus_t status = multiply(stream, gemm, plan);
        begin.record(stream);
        for (int run = 0; run < kTimedRuns && status == CUBLAS_STATUS_SUCCESS; ++run)
            status = multiply(stream, gemm, plan);
        end.record(stream);
        end.synchronize();
        return status == CUBLAS_STATUS_SUCCESS ? end.milliseconds_since(begin)
                                               : std::numeric_limits<float>::infinity();
    }

    Plan& choose(const Stream& stream, const Gemm& gemm) {
        if (records(stream)) throw GpuError("a product is new while a graph is recorded: " + words(gemm));
        Plan plan = describe(gemm, /*fast=*/true);
        std::vector<cublasLtMatmulAlgo_t> algorithms = candidates(library, plan);
        if (algorithms.empty() && gemm.a.type == Element::E4M3) {
            plan = describe(gemm, /*fast=*/false);
            algorithms = candidates(library, plan);
        }
        float best = std::numeric_limits<float>::infinity();
        Plan chosen = plan;
        for (const cublasLtMatmulAlgo_t& algorithm : algorithms) {
            plan.algorithm = algorithm;
            const float taken = time(stream, gemm, plan);
            if (taken < best) chosen = plan;
            best = std::min(best, taken);
        }
        if (std::isinf(best)) {
            throw GpuError("cuBLASLt " + std::to_string(cublaslt().version()) + " cannot multiply " +
                           words(gemm) + " on " + device_properties().name);
        }
        return plans.insert_or_assign(shape_of(gemm), chosen).first->second;
    }

    cublasLtHandle_t library = nullptr;
    DeviceBuffer<unsigned char> workspace{kWorkspaceBytes};
    std::map<GemmShape, Plan> plans;
};

Blas::Blas() : implementation_(std::make_unique<Implementation>()) {}
Blas::~Blas() = default;
Blas::Blas(Blas&&) noexcept = default;
Blas& Blas::operator=(Blas&&) noexcept = default;

void Blas::gemm(const Stream& stream, const Gemm& gemm) {
    if (gemm.m == 0 || gemm.n == 0) return;
    cuda::check(gemm);
    const auto known = implementation_->plans.find(shape_of(gemm));
    Plan* plan = known == implementation_->plans.end() ? nullptr : &known->second;
    if (plan == nullptr && gemm.beta != 0.0f && gemm.c == gemm.d && !records(stream)) {
        Kept kept(stream, gemm);
        plan = &implementation_->choose(stream, gemm);
        kept.put_back();
    }
    if (plan == nullptr) plan = &implementation_->choose(stream, gemm);
    point_at_scales(*plan, gemm);
    check(implementation_->multiply(stream, gemm, *plan), "starting a product");
}

void Blas::prepare(const Stream& stream, const Gemm& gemm) {
    if (gemm.m == 0 || gemm.n == 0) return;
    cuda::check(gemm);
    if (records(stream)) throw GpuError("a product is prepared while a graph is recorded");
    if (!implementation_->plans.contains(shape_of(gemm))) implementation_->choose(stream, gemm);
}

}  // namespace fedllm::kernels::cuda
