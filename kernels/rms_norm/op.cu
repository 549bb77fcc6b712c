#include "kernels/rms_norm/op_cuda.hpp"

#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/rows.cuh"

namespace fedllm::kernels::cuda {
namespace {

// The part of a row that a team norms. A team behind the last one has no columns.
struct Part {
    unsigned index;  // row * groups + group
    std::size_t row;
    unsigned first, cols;

    __device__ Part(unsigned i, std::size_t rows, std::size_t row_cols, std::size_t groups) : index(i) {
        const auto count = static_cast<unsigned>(groups);
        row = groups == 1 ? i : i / count;
        cols = static_cast<unsigned>(row_cols) / count;
        first = groups == 1 ? 0 : i % count * cols;
        if (row < rows) return;
        row = 0;
        cols = 0;
    }
};

template <unsigned kLanes, unsigned kHeld>
__global__ void __launch_bounds__(Team<kLanes>::kThreadsMax)
    forward(RmsNorm norm, MatrixView<BF16> x, MatrixView<const BF16> add, MatrixView<BF16> y, float* rstd) {
    const Part part(Team<kLanes>::row(), x.rows, x.cols, norm.groups);
    BF16* from = row_of(x, part.row) + part.first;
    Share<kLanes, kHeld> share, more;
    share.take(from, part.cols);
    if (add.data != nullptr) {
        more.take(row_of(add, part.row) + part.first, part.cols);
        for_share<kLanes, kHeld>(part.cols, [&](unsigned k, unsigned c, unsigned left) {
            EightFloats sum = share.at(k, c, left);
            const EightFloats summand = more.at(k, c, left);
            for (unsigned i = 0; i < kEight; ++i) sum.at[i] += summand.at[i];
            share.replace(from, k, c, left, sum);
        });
    }
    share.cut_tail(part.cols);
    float squares = 0;
    for_share<kLanes, kHeld>(part.cols, [&](unsigned k, unsigned c, unsigned left) {
        const EightFloats value = share.at(k, c, left);
        for (unsigned i = 0; i < kEight; ++i) squares = fmaf(value.at[i], value.at[i], squares);
    });
    squares = Team<kLanes>::sum(squares, shared_memory<float>());
    if (part.cols == 0) return;
    const float r = rsqrtf(squares / static_cast<float>(part.cols) + norm.epsilon);
    if (Team<kLanes>::rank() == 0) rstd[part.index] = r;
    BF16* to = row_of(y, part.row) + part.first;
    for_share<kLanes, kHeld>(part.cols, [&](unsigned k, unsigned c, unsigned left) {
        EightFloats value = share.at(k, c, left);
        const EightFloats weight = load_eight(norm.weight + c, left);
        for (unsigned i = 0; i < kEight; ++i) value.at[i] *= r * weight.at[i];
        share.replace(to, k, c, left, value);
    });
}

// With g = dy * weight: dx = rstd * (g - x * rstd^2 * mean(g x)).
template <unsigned kLanes, unsigned kHeld>
__global__ void __launch_bounds__(Team<kLanes>::kThreadsMax)
    backward(RmsNorm norm, MatrixView<const BF16> dy, MatrixView<const BF16> x, const float* rstd,
             MatrixView<BF16> dx, bool accumulate) {
    const Part part(Team<kLanes>::row(), x.rows, x.cols, norm.groups);
    BF16* to = row_of(dx, part.row) + part.first;
    Share<kLanes, kHeld> outer, inner, before;
    outer.take(row_of(dy, part.row) + part.first, part.cols);
    inner.take(row_of(x, part.row) + part.first, part.cols);
    if (accumulate) before.take(to, part.cols);
    const float r = part.cols == 0 ? 0.0f : rstd[part.index];
    outer.cut_tail(part.cols);
    inner.cut_tail(part.cols);
    float products = 0;
    for_share<kLanes, kHeld>(part.cols, [&](unsigned k, unsigned c, unsigned left) {
        const EightFloats g = outer.at(k, c, left), value = inner.at(k, c, left);
        const EightFloats weight = load_eight(norm.weight + c, left);
        for (unsigned i = 0; i < kEight; ++i) products = fmaf(g.at[i] * weight.at[i], value.at[i], products);
    });
    products = Team<kLanes>::sum(products, shared_memory<float>());
    if (part.cols == 0) return;
    const float pull = products / static_cast<float>(part.cols) * r * r;
    for_share<kLanes, kHeld>(part.cols, [&](unsigned k, unsigned c, unsigned left) {
        EightFloats g = outer.at(k, c, left);
        const EightFloats value = inner.at(k, c, left);
        const EightFloats weight = load_eight(norm.weight + c, left);
        EightFloats sum = {};
        if (accumulate) sum = before.at(k, c, left);
        for (unsigned i = 0; i < kEight; ++i)
            g.at[i] = fmaf(fmaf(-value.at[i], pull, g.at[i] * weight.at[i]), r, sum.at[i]);
        outer.replace(to, k, c, left, g);
    });
}

// dy x rstd, of which a weight's gradient is the sum.
struct WeightTerm {
    MatrixView<const BF16> dy, x;
    const float* rstd;
    unsigned groups, size;

    __device__ void operator()(std::size_t row, unsigned column, unsigned left,
                               EightFloats (&sums)[1]) const {
        const EightFloats g = to_floats(load_eight(row_of(dy, row) + column));
        const EightFloats value = to_floats(load_eight(row_of(x, row) + column));
        const float* r = rstd + row * groups;
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) {
            const unsigned group = groups == 1 || i >= left ? 0 : (column + i) / size;
            sums[0].at[i] = fmaf(g.at[i], value.at[i] * r[group], sums[0].at[i]);
        }
    }
};

bool parts_aligned(const RmsNorm& norm, std::size_t cols) {
    return norm.groups == 1 || cols / norm.groups % kEight == 0;
}

}  // namespace

void rms_norm_forward(const Stream& stream, const RmsNorm& norm, DeviceMatrix x, ConstDeviceMatrix add,
                      DeviceMatrix y, float* rstd) {
    with_team<4>(x.rows * norm.groups, x.cols / norm.groups, parts_aligned(norm, x.cols),
                 [&]<unsigned kLanes, unsigned kHeld>(const Launch& how) {
                     launch(stream, how, forward<kLanes, kHeld>, norm, x, add, y, rstd);
                 });
}

void rms_norm_backward(const Stream& stream, const RmsNorm& norm, ConstDeviceMatrix dy, ConstDeviceMatrix x,
                       const float* rstd, DeviceMatrix dx, Write dx_write, float* dweight, float* scratch) {
    const std::size_t size = x.cols / norm.groups;
    if (dweight != nullptr) {  // first, so that dx may be dy
        const WeightTerm term{dy, x, rstd, static_cast<unsigned>(norm.groups), static_cast<unsigned>(size)};
        column_sums<1>(stream, term, x.rows, x.cols, scratch);
        // Partials (strips, C) are (strips * groups, C / groups).
        add_partials(stream, scratch, Strips(x.rows).count * norm.groups, size, dweight);
    }
    with_team<2>(x.rows * norm.groups, size, parts_aligned(norm, x.cols),
                 [&]<unsigned kLanes, unsigned kHeld>(const Launch& how) {
                     launch(stream, how, backward<kLanes, kHeld>, norm, dy, x, rstd, dx,
                            dx_write == Write::Accumulate);
                 });
}

std::size_t rms_norm_scratch(std::size_t rows, std::size_t cols, std::size_t) {
    return column_sums_scratch(rows, cols, 1);
}

}  // namespace fedllm::kernels::cuda
