// Against bitsandbytes to the byte: vectors of tests/golden/make_quantize_golden.py, and those of the shared
// assets.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>

#include "common/base/philox.hpp"
#include "common/formats/safetensors.hpp"
#include "kernels/quantize/code_books.hpp"
#include "kernels/quantize/op.hpp"

namespace fedllm::kernels {
namespace {

using formats::SafetensorsFile;
using formats::TensorInfo;

const Path kGolden = "tests/golden/quantize/vectors.safetensors";

const SafetensorsFile& golden() {
    static const auto file = SafetensorsFile::open(kGolden).value();
    return file;
}

template <class T>
std::vector<T> values_of(const TensorInfo& tensor) {
    std::vector<T> values(tensor.bytes.size() / sizeof(T));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
}

const TensorInfo& tensor_of(const SafetensorsFile& file, const std::string& name) {
    const TensorInfo* tensor = file.find(name);
    EXPECT_NE(tensor, nullptr) << file.path() << " lacks " << name;
    static const TensorInfo kNone;
    return tensor == nullptr ? kNone : *tensor;
}

WeightView view_of(const TensorInfo& tensor) {
    const auto type = tensor.dtype == tensor::DType::BF16 ? WeightType::BF16 : WeightType::F32;
    return {tensor.bytes.data(), type, tensor.shape.at(0), tensor.shape.at(1)};
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// Encodes `input` with one and three threads, decodes, and compares both with what bitsandbytes made.
void expect_four_bit(const TensorInfo& input, WeightType type, std::size_t block,
                     const std::vector<std::uint8_t>& codes, const std::vector<float>& scales,
                     const std::vector<float>& values) {
    const WeightView from = view_of(input);
    const std::size_t elements = from.rows * from.cols;
    for (const unsigned threads : {1u, 3u}) {
        ThreadPool pool(threads);
        std::vector<std::uint8_t> ours(four_bit_bytes(elements));
        std::vector<float> scales_ours(blocks_of(elements, block)), values_ours(elements);
        quantize_four_bit(pool, from, type, block, ours, scales_ours);
        EXPECT_EQ(ours, codes);
        EXPECT_TRUE(same_bits(scales_ours, scales));
        dequantize(pool, {codes.data(), type, from.rows, from.cols, scales.data(), block}, values_ours);
        EXPECT_TRUE(same_bits(values_ours, values));
    }
}

void expect_nested(const std::vector<float>& scales, const std::vector<std::uint8_t>& codes,
                   const std::vector<float>& nested, float offset, std::span<const float, 256> map) {
    std::vector<std::uint8_t> ours(scales.size());
    std::vector<float> nested_ours(blocks_of(scales.size(), kNestedBlock));
    encode_scales(scales, offset, map, ours, nested_ours);
    EXPECT_EQ(ours, codes);
    EXPECT_TRUE(same_bits(nested_ours, nested));
    // An f32 sum of n numbers in any order is within n roundings of the exact one (Higham 2002, 4.2).
    const double bound = static_cast<double>(scales.size()) * 0x1p-24 * std::abs(offset);
    EXPECT_NEAR(mean_scale(scales), offset, bound);
}

TEST(Quantize, FourBitsEqualBitsandbytes) {
    std::size_t cases = 0;
    for (const TensorInfo& tensor : golden().tensors()) {
        const std::string suffix = ".codes";
        const std::string& name = tensor.name;
        if (!name.ends_with(suffix) || name.find(".nested") != std::string::npos ||
            name.find(".int8") != std::string::npos)
            continue;
        SCOPED_TRACE(name);
        const std::string key = name.substr(0, name.size() - suffix.size());
        const std::size_t block = std::stoul(key.substr(key.rfind('.') + 1));
        const auto type = key.find(".nf4.") != std::string::npos ? WeightType::NF4 : WeightType::FP4;
        const auto scales = values_of<float>(tensor_of(golden(), key + ".absmax"));
        expect_four_bit(tensor_of(golden(), name.substr(0, name.find('.')) + ".input"), type, block,
                        values_of<std::uint8_t>(tensor), scales,
                        values_of<float>(tensor_of(golden(), key + ".values")));
        if (golden().find(key + ".nested.codes") != nullptr) {
            const auto codes = values_of<std::uint8_t>(tensor_of(golden(), key + ".nested.codes"));
            const auto nested = values_of<float>(tensor_of(golden(), key + ".nested.absmax"));
            const float offset = values_of<float>(tensor_of(golden(), key + ".nested.offset")).at(0);
            expect_nested(scales, codes, nested, offset, dynamic_map());
            std::vector<float> decoded(scales.size());
            decode_scales(codes, nested, dynamic_map(), offset, decoded);
            EXPECT_TRUE(same_bits(decoded, values_of<float>(tensor_of(golden(), key + ".nested.values"))));
        }
        ++cases;
    }
    EXPECT_EQ(cases, 20u);
}

TEST(Quantize, RowsOfInt8EqualBitsandbytes) {
    std::size_t cases = 0;
    for (const TensorInfo& input : golden().tensors()) {
        if (!input.name.ends_with(".input")) continue;
        SCOPED_TRACE(input.name);
        const std::string key = input.name.substr(0, input.name.find('.')) + ".int8";
        const WeightView from = view_of(input);
        ThreadPool pool(2);
        std::vector<std::int8_t> codes(from.rows * from.cols);
        std::vector<float> absmax(from.rows), values(codes.size());
        quantize_int8(pool, from, codes, absmax);
        EXPECT_EQ(codes, values_of<std::int8_t>(tensor_of(golden(), key + ".codes")));
        EXPECT_TRUE(same_bits(absmax, values_of<float>(tensor_of(golden(), key + ".absmax"))));
        dequantize_int8(codes, absmax, values);
        EXPECT_TRUE(same_bits(values, values_of<float>(tensor_of(golden(), key + ".values"))));
        ++cases;
    }
    EXPECT_EQ(cases, 7u);
}

TEST(Quantize, TheDynamicMapIsBitsandbytes) {
    EXPECT_TRUE(same_bits(dynamic_map(), values_of<float>(tensor_of(golden(), "dynamic_map"))));
}

TEST(Quantize, ThresholdsAreThoseOfTheCudaEncoder) {
    const std::array<double, 15> literals{-0.8480964004993439,   -0.6106329262256622,  -0.4599952697753906,
                                          -0.33967943489551544,  -0.23460740596055984, -0.13791173323988914,
                                          -0.045525018125772476, 0.03979014977812767,  0.1202552504837513,
                                          0.2035212516784668,    0.2920137718319893,   0.3893125355243683,
                                          0.5016634166240692,    0.6427869200706482,   0.8614784181118011};
    for (std::size_t i = 0; i < literals.size(); ++i) {
        EXPECT_NEAR(kNf4Thresholds[i], literals[i], 0x1p-24 * std::abs(literals[i]))
            << i;  // half an ulp, at most
    }
    EXPECT_TRUE(std::is_sorted(kNf4Thresholds.begin(), kNf4Thresholds.end()));
    EXPECT_TRUE(std::is_sorted(kFp4Thresholds.begin(), kFp4Thresholds.end()));
}

TEST(Quantize, AScaleTellsOfAValueThatIsNotFinite) {
    ThreadPool pool(1);
    for (const float bad :
         {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
          std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN()}) {
        std::vector<float> values(192, 1.0f);
        values[70] = bad;
        const WeightView from{values.data(), WeightType::F32, 3, 64};
        std::vector<std::uint8_t> codes(96);
        std::vector<std::int8_t> bytes(192);
        std::vector<float> scales(3);
        quantize_four_bit(pool, from, WeightType::NF4, 64, codes, scales);
        EXPECT_TRUE(std::isfinite(scales[0]) && !std::isfinite(scales[1]) && std::isfinite(scales[2]));
        quantize_int8(pool, from, bytes, scales);
        EXPECT_TRUE(std::isfinite(scales[0]) && !std::isfinite(scales[1]) && std::isfinite(scales[2]));
    }
}

// Larger than one unit of work, with a tail: every element within half a step of the code book, every thread
// count the same bytes.
TEST(Quantize, LargeMatricesAreCutWithoutSeams) {
    const std::size_t rows = 157, cols = 411;  // 64,527: odd, four units
    std::vector<float> values(rows * cols);
    Rng rng(3, "large");
    for (float& value : values) value = rng.normal();
    const WeightView from{values.data(), WeightType::F32, rows, cols};
    std::vector<std::uint8_t> codes(four_bit_bytes(values.size())), again(codes.size());
    std::vector<float> scales(blocks_of(values.size(), 64)), decoded(values.size());
    ThreadPool one(1), three(3);
    quantize_four_bit(one, from, WeightType::NF4, 64, codes, scales);
    quantize_four_bit(three, from, WeightType::NF4, 64, again, scales);
    EXPECT_EQ(codes, again);
    dequantize(three, {codes.data(), WeightType::NF4, rows, cols, scales.data(), 64}, decoded);
    const float widest = (kNf4Values[1] - kNf4Values[0]) / 2.0f;
    for (std::size_t i = 0; i < values.size(); ++i) {
        ASSERT_NEAR(decoded[i], values[i], widest * scales[i / 64] * 1.0001f) << i;
    }
}

TEST(Quantize, SharedAssetsAreEqual) {
    const char* set = std::getenv("FEDLLM_ASSETS");
    const Path path = Path(set != nullptr ? set : "../shared/assets") / "nf4/nf4_vectors.safetensors";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path << ": set FEDLLM_ASSETS";
    const auto file = SafetensorsFile::open(path).value();
    std::size_t cases = 0;
    for (const TensorInfo& input : file.tensors()) {
        if (!input.name.ends_with(".input")) continue;
        SCOPED_TRACE(input.name);
        const std::string key = input.name.substr(0, input.name.rfind('.'));
        const auto absmax = tensor_of(file, key + ".weight.absmax");
        const auto codes = values_of<std::uint8_t>(tensor_of(file, key + ".weight"));
        const auto dequant = values_of<float>(tensor_of(file, key + ".dequant"));
        if (absmax.dtype == tensor::DType::F32) {
            expect_four_bit(input, WeightType::NF4, 64, codes, values_of<float>(absmax), dequant);
        } else {
            // The offset is only in the JSON text; the decoded scales are checked through the values.
            const auto text = values_of<char>(tensor_of(file, key + ".weight.quant_state.bitsandbytes__nf4"));
            const std::string json(text.begin(), text.end());
            const float offset = std::stof(json.substr(json.find("nested_offset") + 16));
            const auto map = values_of<float>(tensor_of(file, key + ".weight.nested_quant_map"));
            const auto nested = values_of<float>(tensor_of(file, key + ".weight.nested_absmax"));
            const auto nested_codes = values_of<std::uint8_t>(absmax);
            std::vector<float> scales(nested_codes.size()), values(dequant.size());
            decode_scales(nested_codes, nested, std::span<const float, 256>(map), offset, scales);
            const WeightView from = view_of(input);
            ThreadPool pool(1);
            dequantize(pool, {codes.data(), WeightType::NF4, from.rows, from.cols, scales.data(), 64},
                       values);
            EXPECT_TRUE(same_bits(values, dequant));
            std::vector<std::uint8_t> ours(codes.size());
            quantize_four_bit(pool, from, WeightType::NF4, 64, ours, scales);
            EXPECT_EQ(ours, codes);
            expect_nested(scales, nested_codes, nested, offset, std::span<const float, 256>(map));
        }
        ++cases;
    }
    EXPECT_GE(cases, 10u);
}

}  // namespace
}  // namespace fedllm::kernels
