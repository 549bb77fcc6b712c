#include "kernels/layer_norm/op_cuda.hpp"

#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/rows.cuh"

namespace fedllm::kernels::cuda {
namespace {

// The row of a team; a team behind the last one has no columns.
struct TeamRow {
    std::size_t index;
    unsigned cols;

    __device__ TeamRow(unsigned row, std::size_t rows, std::size_t row_cols)
        : index(row < rows ? row : 0), cols(row < rows ? static_cast<unsigned>(row_cols) : 0) {}
};

// Variance from the centred values, in a second pass: no cancellation where the mean is large.
template <unsigned kLanes, unsigned kHeld>
__global__ void __launch_bounds__(Team<kLanes>::kThreadsMax)
    forward(MatrixView<const BF16> x, const float* weight, const float* bias, float epsilon,
            MatrixView<BF16> y, float* rstd, float* mean) {
    const TeamRow row(Team<kLanes>::row(), x.rows, x.cols);
    auto* scratch = shared_memory<float>();
    Share<kLanes, kHeld> share;
    share.take(row_of(x, row.index), row.cols);
    share.cut_tail(row.cols);
    float sum = 0;
    for_share<kLanes, kHeld>(row.cols, [&](unsigned k, unsigned c, unsigned left) {
        const EightFloats value = share.at(k, c, left);
        for (unsigned i = 0; i < kEight; ++i) sum += value.at[i];
    });
    const auto count = static_cast<float>(x.cols);
    const float middle = Team<kLanes>::sum(sum, scratch) / count;
    float squares = 0;
    for_share<kLanes, kHeld>(row.cols, [&](unsigned k, unsigned c, unsigned left) {
        const EightFloats value = share.at(k, c, left);
        for (unsigned i = 0; i < kEight; ++i) {
            const float centred = i < left ? value.at[i] - middle : 0.0f;
            squares = fmaf(centred, centred, squares);
        }
    });
    const float r = rsqrtf(Team<kLanes>::sum(squares, scratch + kWarp) / count + epsilon);
    if (row.cols == 0) return;
    if (Team<kLanes>::rank() == 0) {
        rstd[row.index] = r;
        mean[row.index] = middle;
    }
    for_share<kLanes, kHeld>(row.cols, [&](unsigned k, unsigned c, unsigned left) {
        EightFloats value = share.at(k, c, left);
        const EightFloats factor = load_eight(weight + c, left), summand = load_eight(bias + c, left);
        for (unsigned i = 0; i < kEight; ++i)
            value.at[i] = fmaf((value.at[i] - middle) * r, factor.at[i], summand.at[i]);
        share.replace(row_of(y, row.index), k, c, left, value);
    });
}

// With g = dy * weight and n = (x - mean) rstd: dx = rstd * (g - mean(g) - n mean(g n)).
template <unsigned kLanes, unsigned kHeld>
__global__ void __launch_bounds__(Team<kLanes>::kThreadsMax)
    backward(MatrixView<const BF16> dy, MatrixView<const BF16> x, const float* weight, const float* rstd,
             const float* mean, MatrixView<BF16> dx, bool accumulate) {
    const TeamRow row(Team<kLanes>::row(), x.rows, x.cols);
    auto* scratch = shared_memory<float>();
    BF16* to = row_of(dx, row.index);
    Share<kLanes, kHeld> outer, inner, before;
    outer.take(row_of(dy, row.index), row.cols);
    inner.take(row_of(x, row.index), row.cols);
    if (accumulate) before.take(to, row.cols);
    const float r = rstd[row.index], middle = mean[row.index];
    outer.cut_tail(row.cols);
    inner.cut_tail(row.cols);
    float sum = 0, products = 0;
    for_share<kLanes, kHeld>(row.cols, [&](unsigned k, unsigned c, unsigned left) {
        const EightFloats g = outer.at(k, c, left), value = inner.at(k, c, left);
        const EightFloats factor = load_eight(weight + c, left);
        for (unsigned i = 0; i < kEight; ++i) {
            const float weighted = g.at[i] * factor.at[i];
            sum += weighted;
            products = fmaf(weighted, value.at[i] - middle, products);
        }
    });
    const auto count = static_cast<float>(x.cols);
    const float shift = Team<kLanes>::sum(sum, scratch) / count;
    const float pull = Team<kLanes>::sum(products, scratch + kWarp) / count * r * r;
    for_share<kLanes, kHeld>(row.cols, [&](unsigned k, unsigned c, unsigned left) {
        EightFloats g = outer.at(k, c, left);
        const EightFloats value = inner.at(k, c, left);
        const EightFloats factor = load_eight(weight + c, left);
        EightFloats start = {};
        if (accumulate) start = before.at(k, c, left);
        for (unsigned i = 0; i < kEight; ++i) {
            const float gradient = fmaf(middle - value.at[i], pull, fmaf(g.at[i], factor.at[i], -shift));
            g.at[i] = fmaf(gradient, r, start.at[i]);
        }
        outer.replace(to, k, c, left, g);
    });
}

// dy (x - mean) rstd and dy, of which the gradients of weight and bias are the sums.
struct ParameterTerms {
    MatrixView<const BF16> dy, x;
    const float *rstd, *mean;

    __device__ void operator()(std::size_t row, unsigned column, unsigned, EightFloats (&sums)[2]) const {
        const EightFloats g = to_floats(load_eight(row_of(dy, row) + column));
        const EightFloats value = to_floats(load_eight(row_of(x, row) + column));
        const float r = rstd[row], middle = mean[row];
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) {
            sums[0].at[i] = fmaf(g.at[i], (value.at[i] - middle) * r, sums[0].at[i]);
            sums[1].at[i] += g.at[i];
        }
    }
};

}  // namespace

void layer_norm_forward(const Stream& stream, ConstDeviceMatrix x, const float* weight, const float* bias,
                        float epsilon, DeviceMatrix y, float* rstd, float* mean) {
    with_team<4>(x.rows, x.cols, /*aligned=*/true, [&]<unsigned kLanes, unsigned kHeld>(const Launch& how) {
        launch(stream, how, forward<kLanes, kHeld>, x, weight, bias, epsilon, y, rstd, mean);
    });
}

void layer_norm_backward(const Stream& stream, ConstDeviceMatrix dy, ConstDeviceMatrix x, const float* weight,
                         const float* rstd, const float* mean, DeviceMatrix dx, Write dx_write,
                         float* dweight, float* dbias, float* scratch) {
    if (dweight != nullptr || dbias != nullptr) {  // first, so that dx may be dy
        column_sums<2>(stream, ParameterTerms{dy, x, rstd, mean}, x.rows, x.cols, scratch);
        const std::size_t strips = Strips(x.rows).count;
        if (dweight != nullptr) add_partials(stream, scratch, strips, x.cols, dweight);
        if (dbias != nullptr) add_partials(stream, scratch + strips * x.cols, strips, x.cols, dbias);
    }
    with_team<2>(x.rows, x.cols, /*aligned=*/true, [&]<unsigned kLanes, unsigned kHeld>(const Launch& how) {
        launch(stream, how, backward<kLanes, kHeld>, dy, x, weight, rstd, mean, dx,
               dx_write == Write::Accumulate);
    });
}

std::size_t layer_norm_scratch(std::size_t rows, std::size_t cols) {
    return column_sums_scratch(rows, cols, 2);
}

}  // namespace fedllm::kernels::cuda
