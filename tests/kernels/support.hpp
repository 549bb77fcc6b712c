// What the kernel tests share: views with guarded padding, random values, pools, bounds, finite differences.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "common/base/philox.hpp"
#include "common/tensor/dtype.hpp"
#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/reference.hpp"

namespace fedllm::kernels::testing {

using reference::Dense;

inline constexpr double kUnit = 0x1p-24;   // rounding unit of f32
inline constexpr double kTiny = 0x1p-120;  // below what the bounds speak about: room for subnormals

// The error of n roundings in a sum grows like sqrt(n) (Higham & Mary 2019); 8 makes a failure by chance
// negligible, and a single dropped term still stands out by orders of magnitude.
inline double bound_of(std::size_t roundings) {
    return 8.0 * std::sqrt(static_cast<double>(roundings) + 8.0) * kUnit;
}

// rows x cols floats in a buffer of greater pitch, whose padding must survive.
class Grid {
public:
    Grid(std::size_t rows, std::size_t cols, std::size_t padding = 3)
        : rows_(rows), cols_(cols), pitch_(cols + padding), values_(rows * pitch_, kGuard) {
        fill(0.0f);
    }
    static Grid random(std::size_t rows, std::size_t cols, std::string_view stream, std::size_t padding = 3) {
        Grid grid(rows, cols, padding);
        Rng rng(42, stream);
        for (std::size_t i = 0; i < rows; ++i) {
            for (std::size_t j = 0; j < cols; ++j) grid.at(i, j) = rng.normal();
        }
        return grid;
    }
    void fill(float value) {
        for (std::size_t i = 0; i < rows_; ++i) std::fill_n(values_.data() + i * pitch_, cols_, value);
    }
    float& at(std::size_t i, std::size_t j) { return values_[i * pitch_ + j]; }
    float at(std::size_t i, std::size_t j) const { return values_[i * pitch_ + j]; }
    Matrix view() { return {values_.data(), rows_, cols_, pitch_}; }
    ConstMatrix view() const { return {values_.data(), rows_, cols_, pitch_}; }
    WeightView weight() const {
        return {values_.data(), WeightType::F32, rows_, cols_};
    }  // padding must be 0
    Dense dense() const {
        Dense out(rows_, cols_);
        for (std::size_t i = 0; i < rows_; ++i) {
            for (std::size_t j = 0; j < cols_; ++j) out(i, j) = at(i, j);
        }
        return out;
    }
    bool guards_intact() const {
        for (std::size_t i = 0; i < values_.size(); ++i) {
            if (i % pitch_ >= cols_ && values_[i] != kGuard) return false;
        }
        return true;
    }
    std::vector<float>& storage() { return values_; }
    const std::vector<float>& storage() const { return values_; }
    std::size_t rows() const { return rows_; }
    std::size_t cols() const { return cols_; }

private:
    static constexpr float kGuard = -7777.0f;
    std::size_t rows_, cols_, pitch_;
    std::vector<float> values_;
};

// The values rounded to bf16: as stored bits, and as the floats they stand for.
struct Bf16 {
    std::vector<std::uint16_t> bits;
    Grid rounded;
    explicit Bf16(const Grid& from) : rounded(from) {
        for (float& value : rounded.storage()) {
            bits.push_back(tensor::f32_to_bf16(value));
            value = tensor::bf16_to_f32(bits.back());
        }
    }
    WeightView weight() const { return {bits.data(), WeightType::BF16, rounded.rows(), rounded.cols()}; }
};

// A quantised weight of random codes and scales, and the floats that they stand for (bitsandbytes' decoding:
// one product in f32). Blocks run over the flattened matrix.
struct Quantised {
    WeightType type;
    std::size_t block;
    std::vector<std::uint8_t> codes;
    std::vector<float> scales;
    Grid rounded;

    Quantised(WeightType t, std::size_t rows, std::size_t cols, std::size_t b = 64)
        : type(t), block(b), rounded(rows, cols, 0) {
        const std::size_t count = rows * cols;
        Rng rng(7, "codes");
        codes.resize(type == WeightType::Int8 ? count : (count + 1) / 2);
        for (auto& code : codes) code = static_cast<std::uint8_t>(rng.below(256));
        scales.resize(type == WeightType::Int8 ? rows : (count + block - 1) / block);
        for (float& scale : scales) scale = rng.uniform(0.01f, 0.1f);
        for (std::size_t i = 0; i < count; ++i) {
            rounded.storage()[i] = reference::dequantised(type, codes.data(), scales.data(), block, cols, i);
        }
    }
    WeightView weight() const {
        return {codes.data(), type, rounded.rows(), rounded.cols(), scales.data(), block};
    }
};
inline constexpr std::array kQuantisedTypes{WeightType::Int8, WeightType::NF4, WeightType::FP4};
inline const char* name_of(WeightType type) {
    switch (type) {
        case WeightType::F32: return "f32";
        case WeightType::BF16: return "bf16";
        case WeightType::Int8: return "int8";
        case WeightType::NF4: return "nf4";
        case WeightType::FP4: return "fp4";
    }
    return "";
}

// |got - want| <= bound * magnitude element by element, and the padding is untouched.
inline void expect_within(const Grid& got, const Dense& want, const Dense& magnitude, double bound,
                          const std::string& what) {
    ASSERT_EQ(got.rows(), want.rows) << what;
    ASSERT_EQ(got.cols(), want.cols) << what;
    EXPECT_TRUE(got.guards_intact()) << what << ": padding was written";
    double worst = 0.0;
    std::size_t row = 0, col = 0;
    for (std::size_t i = 0; i < want.rows; ++i) {
        for (std::size_t j = 0; j < want.cols; ++j) {
            const double error = std::abs(got.at(i, j) - want(i, j));
            const double ratio = error / (bound * std::abs(magnitude(i, j)) + kTiny);
            if (!(ratio <= worst)) worst = ratio, row = i, col = j;  // NaN counts as worst
        }
    }
    EXPECT_LE(worst, 1.0) << what << ": element (" << row << "," << col << ") is " << got.at(row, col)
                          << ", want " << want(row, col) << ", bound "
                          << bound * std::abs(magnitude(row, col));
}

inline std::string text(const cases::Matmul& c) {
    return std::to_string(c.m) + "x" + std::to_string(c.k) + "x" + std::to_string(c.n);
}

// a b^T against the oracle. Large products are checked on every s-th row and column, s a prime.
inline void expect_product(const Grid& got, const Dense& a, const Dense& b, const Dense& start,
                           const std::string& what) {
    const std::size_t step = a.rows * b.rows * a.cols > 20'000'000 ? 13 : 1;
    EXPECT_TRUE(got.guards_intact()) << what << ": padding was written";
    const double bound = bound_of(a.cols + 4);
    double worst = 0.0;
    for (std::size_t i = 0; i < a.rows; i += step) {
        for (std::size_t j = i % step; j < b.rows; j += step) {
            double want = start(i, j), magnitude = std::abs(want);
            for (std::size_t k = 0; k < a.cols; ++k) {
                want += a(i, k) * b(j, k);
                magnitude += std::abs(a(i, k) * b(j, k));
            }
            const double ratio = std::abs(got.at(i, j) - want) / (bound * magnitude + kTiny);
            if (!(ratio <= worst)) worst = ratio;
        }
    }
    EXPECT_LE(worst, 1.0) << what << ": error in units of the bound";
}

// Runs `outputs_of` with 1, 2 and 3 threads: each element of the list of outputs must have the same bits.
inline void expect_same_bits(const std::function<std::vector<Grid>(ThreadPool&)>& outputs_of,
                             const std::string& what) {
    std::vector<Grid> first;
    for (const unsigned threads : {1u, 2u, 3u}) {
        ThreadPool pool(threads);
        std::vector<Grid> outputs = outputs_of(pool);
        if (threads == 1) first = outputs;
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            const auto& a = first[i].storage();
            const auto& b = outputs[i].storage();
            EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0)
                << what << ": output " << i << " differs between 1 and " << threads << " threads";
        }
    }
}

// Central differences of a scalar function in double: error h^2 from the cut, 1e-16 / h from rounding.
inline void expect_gradient(const std::function<double(const Dense&)>& function, const Dense& at,
                            const Dense& gradient, const std::string& what) {
    constexpr double kStep = 1e-5;
    for (std::size_t i = 0; i < at.values.size(); ++i) {
        Dense moved = at;
        moved.values[i] = at.values[i] + kStep;
        const double up = function(moved);
        moved.values[i] = at.values[i] - kStep;
        const double slope = (up - function(moved)) / (2.0 * kStep);
        EXPECT_NEAR(slope, gradient.values[i], 1e-7 * (1.0 + std::abs(slope))) << what << ", element " << i;
    }
}

// The scalar whose gradient with respect to an operation's output is `weights`.
inline double weighted_sum(const Dense& values, const Dense& weights) {
    double total = 0.0;
    for (std::size_t i = 0; i < values.values.size(); ++i) total += values.values[i] * weights.values[i];
    return total;
}

inline Dense row_of(const std::vector<double>& values) {
    Dense out(1, values.size());
    out.values = values;
    return out;
}

}  // namespace fedllm::kernels::testing
