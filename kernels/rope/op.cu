#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/vectors.cuh"
#include "kernels/rope/op_cuda.hpp"

namespace fedllm::kernels::cuda {
namespace {

constexpr unsigned kHeads = 4;  // that a thread turns by the same angles: cos and sin are loaded once

struct Table {
    std::size_t heads, half;  // D/2
    const std::int32_t* positions;
    const float *cosine, *sine;
    float direction;  // -1 turns back
};

// (a, b) becomes (a cos - b sin, b cos + a sin).
__device__ __forceinline__ void turn(float& a, float& b, float cosine, float sine) {
    const float first = a * cosine - b * sine;
    b = b * cosine + a * sine;
    a = first;
}

// A thread turns eight pairs of up to kHeads heads. D is a multiple of 16.
__global__ void turn_eights(MatrixView<BF16> x, Table table) {
    const std::size_t eights = table.half / kEight, groups = (table.heads + kHeads - 1) / kHeads;
    const std::size_t item = item_of_thread();
    if (item >= x.rows * groups * eights) return;
    const std::size_t j = item % eights * kEight, group = item / eights % groups, m = item / eights / groups;
    const std::size_t at = static_cast<std::size_t>(table.positions[m]) * table.half + j;
    const EightFloats cosine = load_eight(table.cosine + at);
    EightFloats sine = load_eight(table.sine + at);
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) sine.at[i] *= table.direction;
    const std::size_t end = group * kHeads + kHeads < table.heads ? group * kHeads + kHeads : table.heads;
    for (std::size_t h = group * kHeads; h < end; ++h) {
        BF16* first = x.data + m * x.pitch + h * 2 * table.half + j;
        BF16* second = first + table.half;
        EightFloats a = to_floats(load_eight(first)), b = to_floats(load_eight(second));
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) turn(a.at[i], b.at[i], cosine.at[i], sine.at[i]);
        store_eight(first, to_eight(a));
        store_eight(second, to_eight(b));
    }
}

// A thread turns one pair: for heads that do not start on 16 bytes.
__global__ void turn_pairs(MatrixView<BF16> x, Table table) {
    const std::size_t item = item_of_thread(), pairs = table.heads * table.half;
    if (item >= x.rows * pairs) return;
    const std::size_t j = item % table.half, h = item % pairs / table.half, m = item / pairs;
    const std::size_t at = static_cast<std::size_t>(table.positions[m]) * table.half + j;
    BF16* first = x.data + m * x.pitch + h * 2 * table.half + j;
    BF16* second = first + table.half;
    float a = to_float(*first), b = to_float(*second);
    turn(a, b, table.cosine[at], table.sine[at] * table.direction);
    *first = from_float<BF16>(a);
    *second = from_float<BF16>(b);
}

}  // namespace

void rope(const Stream& stream, DeviceMatrix x, std::size_t heads, std::size_t head_size,
          const std::int32_t* positions, const float* cosine, const float* sine, Turn direction) {
    const std::size_t half = head_size / 2;
    const Table table{heads, half, positions, cosine, sine, direction == Turn::Forward ? 1.0f : -1.0f};
    if (half % kEight == 0) {
        const std::size_t groups = (heads + kHeads - 1) / kHeads;
        launch(stream, for_items(x.rows * groups * (half / kEight)), turn_eights, x, table);
    } else {
        launch(stream, for_items(x.rows * heads * half), turn_pairs, x, table);
    }
}

}  // namespace fedllm::kernels::cuda
