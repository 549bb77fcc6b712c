#include "kernels/int8_matmul/op.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/result.hpp"
#include "kernels/int8_matmul/tile.hpp"
#include "kernels/quantize/op.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/int8_matmul/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

// The values of a row, times `factors` where there are any.
HWY_INLINE Vector Factored(Floats d, const float* values, const float* factors, std::size_t i,
                           std::size_t left) {
    const Vector v = load_n(d, values + i, left);
    return factors == nullptr ? v : hn::Mul(v, load_n(d, factors + i, left));
}

// Codes of one row, zeros behind them; returns its scale, and the sum of the codes times 128: what the offset
// of the weight's codes adds to every product.
float QuantizeRow(const float* values, const float* factors, std::size_t count, std::int8_t* codes,
                  std::int32_t* offset) {
    const Floats d;
    const hn::RebindToUnsigned<Floats> du;
    const hn::RebindToSigned<Floats> di;
    const hn::Rebind<std::int8_t, Floats> d8;
    const std::size_t lanes = hn::Lanes(d);
    auto most = hn::Zero(du);  // compared as integers, NaN is larger than infinity, and that than numbers
    for (std::size_t i = 0; i < count; i += lanes) {
        const auto bits = hn::BitCast(du, hn::Abs(Factored(d, values, factors, i, count - i)));
        most = hn::Max(most, bits);
    }
    HWY_ALIGN std::uint32_t each[HWY_MAX_BYTES / sizeof(std::uint32_t)];
    hn::Store(most, du, each);
    float absmax;
    std::memcpy(&absmax, std::max_element(each, each + lanes), sizeof absmax);
    const float inverse = 127.0f / absmax;
    if (!std::isfinite(absmax) ||
        !std::isfinite(inverse)) {  // a row of zeros, or one whose scale makes it NaN
        std::memset(codes, 0, count);
        *offset = 0;
        return absmax / 127.0f;
    }
    const Vector factor = hn::Set(d, inverse);
    auto sum = hn::Zero(di);
    HWY_ALIGN std::int8_t last[HWY_MAX_BYTES];
    for (std::size_t i = 0; i < count; i += lanes) {
        const auto code = hn::NearestInt(hn::Mul(Factored(d, values, factors, i, count - i), factor));
        sum = hn::Add(sum, code);
        if (i + lanes <= count) {
            hn::StoreU(hn::DemoteTo(d8, code), d8, codes + i);
        } else {
            hn::StoreU(hn::DemoteTo(d8, code), d8, last);
            std::memcpy(codes + i, last, count - i);
        }
    }
    *offset = 128 * hn::GetLane(hn::SumOfLanes(di, sum));
    return absmax / 127.0f;
}

// out[c] (+)= (sum[c] - offset) * scale * scales[c]
void Finish(const std::int32_t* sums, std::int32_t offset, float scale, const float* scales,
            std::size_t count, bool accumulate, float* out) {
    const Floats d;
    const hn::RebindToSigned<Floats> di;
    const std::size_t lanes = hn::Lanes(d);
    for (std::size_t c = 0; c < count; c += lanes) {
        const auto exact = hn::Sub(hn::LoadU(di, sums + c), hn::Set(di, offset));
        Vector factor = hn::Set(d, scale);
        if (scales != nullptr) factor = hn::Mul(factor, load_n(d, scales + c, count - c));
        Vector value = hn::Mul(hn::ConvertTo(d, exact), factor);
        if (accumulate) value = hn::Add(value, load_n(d, out + c, count - c));
        store_n(d, value, out + c, count - c);
    }
}

// The tile of tile.hpp in plain loops, which the compiler makes vectors of: exact, an order of magnitude
// slower.
void PlainTile(const std::int8_t* x, std::size_t x_stride, const std::uint8_t* panel, std::size_t fours,
               std::int32_t* sums) {
    std::fill_n(sums, kInt8TileRows * kInt8TileCols, 0);
    for (std::size_t i = 0; i < fours; ++i) {
        for (std::size_t r = 0; r < kInt8TileRows; ++r) {
            const std::int8_t* const four = x + r * x_stride + i * 4;
            for (std::size_t c = 0; c < kInt8TileCols; ++c) {
                const std::uint8_t* const code = panel + (i * kInt8TileCols + c) * 4;
                sums[r * kInt8TileCols + c] +=
                    four[0] * code[0] + four[1] * code[1] + four[2] * code[2] + four[3] * code[3];
            }
        }
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(QuantizeRow);
HWY_EXPORT(Finish);
HWY_EXPORT(PlainTile);

constexpr std::size_t kRowsPerItem = 16 * kInt8TileRows;

constexpr std::size_t round_up(std::size_t value, std::size_t step) {
    return (value + step - 1) / step * step;
}

std::size_t panel_bytes(std::size_t depth) { return round_up(depth, 4) * kInt8TileCols; }

constexpr std::size_t kRowsPerSlab = 1024;  // whole panels
static_assert(kRowsPerSlab % kInt8TileCols == 0);

std::size_t panels_bytes(std::size_t outputs, std::size_t depth) {
    return round_up(outputs, kInt8TileCols) / kInt8TileCols * panel_bytes(depth);
}

Int8Panels empty_panels(std::size_t outputs, std::size_t depth) {
    return {outputs, depth, std::vector<std::uint8_t>(panels_bytes(outputs, depth))};
}

std::uint8_t& code_at(Int8Panels& panels, std::size_t output, std::size_t k) {
    const std::size_t first = output / kInt8TileCols * panel_bytes(panels.depth);
    return panels.codes[first + (k / 4 * kInt8TileCols + output % kInt8TileCols) * 4 + k % 4];
}

// Rows of codes in the pool's shared scratch, with what their products need.
struct QuantizedRows {
    std::int8_t* codes = nullptr;  // whole tiles
    std::size_t stride = 0;        // bytes
    float* scales = nullptr;
    std::int32_t* offsets = nullptr;

    // Never a multiple of a page, or the rows of a tile would fall into one set of the cache.
    static std::size_t stride_for(std::size_t depth) { return round_up(depth, 64) + 64; }
    static std::size_t rows_that_fit(std::size_t depth) {
        const std::size_t row = stride_for(depth) + sizeof(float) + sizeof(std::int32_t);
        return ThreadPool::kSharedScratchFloats * sizeof(float) / row / kInt8TileRows * kInt8TileRows;
    }
    QuantizedRows(std::span<float> scratch, std::size_t rows, std::size_t depth) : stride(stride_for(depth)) {
        auto* bytes = reinterpret_cast<std::byte*>(scratch.data());
        codes = reinterpret_cast<std::int8_t*>(bytes);
        scales = reinterpret_cast<float*>(bytes + rows * stride);
        offsets = reinterpret_cast<std::int32_t*>(scales + rows);
    }
};

void quantize_rows(ThreadPool& pool, ConstMatrix x, const float* factors, QuantizedRows rows) {
    constexpr std::size_t kRows = 16;
    const std::size_t padded = round_up(x.rows, kInt8TileRows);
    pool.parallel_for(round_up(padded, kRows) / kRows, [&](std::size_t item) {
        for (std::size_t m = item * kRows; m < std::min(padded, (item + 1) * kRows); ++m) {
            std::int8_t* const codes = rows.codes + m * rows.stride;
            const std::size_t used = m < x.rows ? x.cols : 0;
            std::memset(codes + used, 0, round_up(x.cols, 4) - used);
            if (used == 0) continue;
            rows.scales[m] =
                HWY_DYNAMIC_DISPATCH(QuantizeRow)(x.row(m), factors, x.cols, codes, rows.offsets + m);
        }
    });
}

// out (+)= rows * panels, for the rows of one item and the columns of one panel.
void multiply(Int8Tile tile, const QuantizedRows& rows, std::size_t first, const Int8Panels& panels,
              std::size_t panel, const float* scales, Matrix out, bool accumulate) {
    const std::size_t col = panel * kInt8TileCols;
    const std::size_t cols = std::min(kInt8TileCols, panels.outputs - col);
    const std::uint8_t* const codes = panels.codes.data() + panel * panel_bytes(panels.depth);
    const std::size_t end = std::min(out.rows, first + kRowsPerItem);
    alignas(64) std::int32_t sums[kInt8TileRows * kInt8TileCols];
    for (std::size_t m = first; m < end; m += kInt8TileRows) {
        tile(rows.codes + m * rows.stride, rows.stride, codes, round_up(panels.depth, 4) / 4, sums);
        for (std::size_t r = 0; r < std::min(kInt8TileRows, end - m); ++r) {
            HWY_DYNAMIC_DISPATCH(Finish)
            (sums + r * kInt8TileCols, rows.offsets[m + r], rows.scales[m + r],
             scales == nullptr ? nullptr : scales + col, cols, accumulate, out.row(m + r) + col);
        }
    }
}

// `factors` multiply the columns of x before it is quantised, `scales` the columns of the result.
void product(ThreadPool& pool, ConstMatrix x, const float* factors, const Int8Panels& panels,
             const float* scales, Matrix out, Write write) {
    const Int8Tile vnni = vnni_tile();
    const Int8Tile tile = vnni != nullptr ? vnni : plain_int8_tile();
    const std::size_t rows_max = QuantizedRows::rows_that_fit(panels.depth);
    const std::size_t panel_count = round_up(panels.outputs, kInt8TileCols) / kInt8TileCols;
    for (std::size_t first = 0; first < x.rows; first += rows_max) {
        const std::size_t count = std::min(rows_max, x.rows - first);
        const QuantizedRows rows(pool.shared_scratch(), round_up(count, kInt8TileRows), panels.depth);
        quantize_rows(pool, x.slice(first, count), factors, rows);
        const Matrix part = out.slice(first, count);
        const std::size_t items = round_up(count, kRowsPerItem) / kRowsPerItem;
        pool.parallel_for(items * panel_count, [&](std::size_t item) {
            multiply(tile, rows, item / panel_count * kRowsPerItem, panels, item % panel_count, scales, part,
                     write == Write::Accumulate);
        });
    }
}

}  // namespace

Int8Tile plain_int8_tile() {
    return [](const std::int8_t* x, std::size_t x_stride, const std::uint8_t* panel, std::size_t fours,
              std::int32_t* sums) {
        HWY_DYNAMIC_DISPATCH(PlainTile)
        (x, x_stride, panel, fours, sums);
    };
}

std::size_t int8_weight_bytes(std::size_t rows, std::size_t cols, Int8Use use) {
    return panels_bytes(rows, cols) + (use == Int8Use::Both ? panels_bytes(cols, rows) : 0) +
           rows * sizeof(float);
}

Int8Weight pack_int8(ThreadPool& pool, WeightView from, Int8Use use) {
    FEDLLM_CHECK(fits_int8_matmul(from.rows, from.cols, use), "pack_int8: a weight that fits");
    Int8Weight weight{empty_panels(from.rows, from.cols), {}, std::vector<float>(from.rows)};
    const bool both = use == Int8Use::Both;
    if (both) weight.backward = empty_panels(from.cols, from.rows);
    // Slab by slab, where rows can be taken apart, so that little more memory is needed than for the codes.
    const bool plain = from.type == WeightType::F32 || from.type == WeightType::BF16;
    const std::size_t step = plain ? std::min(kRowsPerSlab, from.rows) : from.rows;
    std::vector<float> values(step * from.cols);
    std::vector<std::int8_t> codes(step * from.cols);
    for (std::size_t first = 0; first < from.rows; first += step) {
        const std::size_t rows = std::min(step, from.rows - first);
        const std::size_t elements = rows * from.cols;
        WeightView slab = from;
        slab.rows = rows;
        slab.data = static_cast<const std::byte*>(from.data) + bytes_of(from.type, first, from.cols);
        dequantize(pool, slab, std::span(values).first(elements));
        const std::span<float> scales = std::span(weight.scales).subspan(first, rows);
        quantize_int8(pool, {values.data(), WeightType::F32, rows, from.cols},
                      std::span(codes).first(elements), scales);
        for (float& scale : scales) scale /= 127.0f;
        pool.parallel_for(round_up(rows, kInt8TileCols) / kInt8TileCols, [&](std::size_t panel) {
            const std::size_t end = std::min(rows, (panel + 1) * kInt8TileCols);
            for (std::size_t n = panel * kInt8TileCols; n < end; ++n) {
                for (std::size_t k = 0; k < from.cols; ++k) {
                    const int code = codes[n * from.cols + k] + 128;
                    code_at(weight.forward, first + n, k) = static_cast<std::uint8_t>(code);
                    if (both) code_at(weight.backward, k, first + n) = static_cast<std::uint8_t>(code);
                }
            }
        });
    }
    return weight;
}

void int8_matmul_forward(ThreadPool& pool, ConstMatrix x, const Int8Weight& w, Matrix y, Write write) {
    FEDLLM_CHECK(x.cols == w.forward.depth && y.rows == x.rows && y.cols == w.forward.outputs,
                 "int8_matmul_forward: shapes differ");
    product(pool, x, nullptr, w.forward, w.scales.data(), y, write);
}

void int8_matmul_backward_input(ThreadPool& pool, ConstMatrix dy, const Int8Weight& w, Matrix dx,
                                Write write) {
    FEDLLM_CHECK(w.has_backward(), "int8_matmul_backward_input: a weight packed for it");
    FEDLLM_CHECK(dy.cols == w.backward.depth && dx.rows == dy.rows && dx.cols == w.backward.outputs,
                 "int8_matmul_backward_input: shapes differ");
    product(pool, dy, w.scales.data(), w.backward, nullptr, dx, write);
}

}  // namespace fedllm::kernels
#endif
