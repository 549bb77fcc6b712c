// Dequantisation on the GPU must give the CPU's bits, FP8 the nearest codes.
#include <cstdint>
#include <limits>

#include "kernels/quantize/op_cuda.hpp"
#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/reference.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

// A stored weight with its values in bf16.
struct TestWeight {
    WeightView view;  // of the two buffers
    DeviceBuffer<std::uint8_t> codes;
    DeviceBuffer<float> scales;
    std::vector<BF16> values;  // (N,K)
};

std::uint64_t next(std::uint64_t& state) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return state >> 33;
}

// Any bits are codes; scales go from 2^-20 to 2^19 and now and then to what makes products subnormal or
// infinite.
std::vector<float> random_scales(std::size_t count, std::uint64_t& state) {
    std::vector<float> scales(count);
    for (float& scale : scales) {
        const float fraction = 1.0f + static_cast<float>(next(state) & 0x7FFFFF) / 8388608.0f;
        scale = std::ldexp(fraction, static_cast<int>(next(state) % 40) - 20);
        if (next(state) % 64 == 0) scale = 3e-39f;
        if (next(state) % 64 == 0) scale = std::numeric_limits<float>::max();
    }
    return scales;
}

// f32 weights: every exponent, ties of the rounding, infinities; no NaN, whose payload CUDA does not keep.
std::uint32_t random_float_bits(std::uint64_t& state) {
    std::uint32_t bits = static_cast<std::uint32_t>(next(state) << 16 ^ next(state));
    if (next(state) % 4 == 0) bits = (bits & 0xFFFF0000) | 0x8000;
    if ((bits & 0x7F800000) == 0x7F800000) bits &= 0xFF800000;
    return bits;
}

TestWeight random_weight(const Stream& stream, WeightType type, std::size_t rows, std::size_t cols,
                         std::size_t block) {
    const std::size_t elements = rows * cols;
    std::uint64_t state = elements * 31 + block;
    const bool rowwise = type == WeightType::Int8,
               plain = type == WeightType::F32 || type == WeightType::BF16;
    const std::vector<float> scales = random_scales(plain     ? 0
                                                    : rowwise ? rows
                                                              : (elements + block - 1) / block,
                                                    state);
    std::vector<std::uint8_t> codes(bytes_of(type, rows, cols, block) - scales.size() * sizeof(float));
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(next(state));
    TestWeight made;
    for (std::size_t i = 0; i < elements; ++i) {
        if (type == WeightType::F32) {
            const std::uint32_t bits = random_float_bits(state);
            std::memcpy(codes.data() + 4 * i, &bits, sizeof bits);
            made.values.push_back(narrow(std::bit_cast<float>(bits)));
        } else if (type == WeightType::BF16) {
            BF16 value;
            std::memcpy(&value, codes.data() + 2 * i, sizeof value);
            made.values.push_back(value);
        } else {
            made.values.push_back(
                narrow(reference::dequantised(type, codes.data(), scales.data(), block, cols, i)));
        }
    }
    made.codes = to_device<std::uint8_t>(stream, codes);
    made.scales = to_device<float>(stream, scales);
    made.view = {made.codes.data(), type, rows, cols, made.scales.data(), block};
    return made;
}

void dequantize_case(Harness& harness, WeightType type, std::size_t rows, std::size_t cols, std::size_t block,
                     std::size_t gap) {
    const Stream stream;
    const TestWeight weight = random_weight(stream, type, rows, cols, block);
    for (const bool turned : {false, true}) {
        harness.begin("dequantize type " + std::to_string(static_cast<int>(type)) + ", " +
                      std::to_string(rows) + "x" + std::to_string(cols) + ", blocks of " +
                      std::to_string(block) + (turned ? ", turned" : ""));
        const TestMatrix to =
            turned ? empty_matrix(stream, cols, rows, gap) : empty_matrix(stream, rows, cols, gap);
        dequantize(stream, weight.view, to.view(), turned);
        const auto got = to_host(stream, to.device.data(), to.rows * to.pitch);
        std::size_t wrong = 0;
        bool untouched = true;
        for (std::size_t i = 0; i < got.size(); ++i) {
            const std::size_t r = i / to.pitch, c = i % to.pitch;
            if (c >= to.cols) {
                untouched = untouched && got[i].bits == kUntouched.bits;
            } else {
                wrong += got[i].bits != weight.values[turned ? c * cols + r : r * cols + c].bits ? 1 : 0;
            }
        }
        harness.check(wrong == 0, std::to_string(wrong) + " values have other bits than the CPU's");
        harness.check(untouched, "columns between cols and pitch were written");
    }
}

double value_of_e4m3(unsigned code) {
    const unsigned exponent = code >> 3 & 15, fraction = code & 7;
    const double size =
        exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, static_cast<int>(exponent) - 10);
    return code & 0x80 ? -size : size;
}

// By trying all: the nearest of the 127 sizes, of two the one with an even code.
unsigned nearest_e4m3(float value) {
    if (std::isnan(value)) return 0x7F;
    const double size = std::fabs(double{value});
    unsigned best = 0;
    for (unsigned code = 1; code < 0x7F; ++code) {
        const double nearer = std::fabs(value_of_e4m3(code) - size) - std::fabs(value_of_e4m3(best) - size);
        if (nearer < 0 || (nearer == 0 && code % 2 == 0)) best = code;
    }
    return best | (std::signbit(value) ? 0x80 : 0);
}

// Quantises the rows or the columns of a matrix with a NaN gap, and compares codes and scales.
void e4m3_case(Harness& harness, const std::string& name, bool columns, std::size_t rows, std::size_t cols,
               const std::vector<BF16>& values) {
    harness.begin("e4m3 " + name + (columns ? ", columns " : ", rows ") + std::to_string(rows) + "x" +
                  std::to_string(cols));
    const Stream stream;
    const std::size_t from_pitch = (cols + 7) / 8 * 8 + 8, count = columns ? cols : rows,
                      length = columns ? rows : cols, pitch = (length + 15) / 16 * 16 + 16;
    std::vector<BF16> padded(rows * from_pitch, kUntouched);
    for (std::size_t i = 0; i < rows * cols; ++i) padded[i / cols * from_pitch + i % cols] = values[i];
    const auto from = to_device<BF16>(stream, padded);
    const DeviceBuffer<std::uint8_t> codes(count * pitch);
    const DeviceBuffer<float> scales(count);
    const auto quantize = columns ? quantize_e4m3_columns : quantize_e4m3_rows;
    quantize(stream, {from.data(), rows, cols, from_pitch}, codes.data(), pitch, scales.data());
    const auto got = to_host(stream, codes.data(), codes.size());
    const auto got_scales = to_host(stream, scales.data(), count);
    std::size_t wrong = 0, wrong_scales = 0;
    for (std::size_t i = 0; i < count; ++i) {
        auto at = [&](std::size_t j) { return widen(values[columns ? j * cols + i : i * cols + j]); };
        float most = 0.0f;
        for (std::size_t j = 0; j < length; ++j) most = std::fmax(most, std::fabs(at(j)));
        const float scale = most == 0.0f ? 1.0f : most / 448.0f;
        wrong_scales += got_scales[i] == scale ? 0 : 1;
        for (std::size_t j = 0; j < pitch; ++j)
            wrong += got[i * pitch + j] == (j < length ? nearest_e4m3(at(j) / scale) : 0) ? 0 : 1;
    }
    harness.check(wrong == 0, std::to_string(wrong) + " codes are not the nearest");
    harness.check(wrong_scales == 0, std::to_string(wrong_scales) + " scales differ");
}

void e4m3_cases(Harness& harness, bool columns) {
    // All bf16 to 448 under a scale of 1: every code, every tie, subnormals.
    std::vector<BF16> all;
    for (std::uint16_t bits = 0; bits <= 0x43E0; ++bits) {
        all.push_back({bits});
        all.push_back({static_cast<std::uint16_t>(bits | 0x8000)});
    }
    columns ? e4m3_case(harness, "all", true, all.size(), 1, all)
            : e4m3_case(harness, "all", false, 1, all.size(), all);
    for (const auto& [rows, cols] :
         {std::pair<std::size_t, std::size_t>{1, 1}, {3, 7}, {70, 33}, {300, 40}, {40, 300}}) {
        std::uint64_t state = rows;
        std::vector<BF16> values(rows * cols);
        for (BF16& value : values) value = narrow(static_cast<float>(next(state) % 2001) * 0.01f - 10.0f);
        e4m3_case(harness, "some", columns, rows, cols, values);
        if (rows < 2) continue;
        for (std::size_t c = 0; c < cols; ++c) values[c] = {static_cast<std::uint16_t>(c % 3)};  // subnormal
        for (std::size_t r = 0; r < rows; ++r) values[r * cols + 1] = {};
        for (std::size_t c = 0; c < cols; ++c) values[cols + c] = {};
        values[2 * cols + 3] = {0x7FC0};
        e4m3_case(harness, "zeros, subnormals and a NaN", columns, rows, cols, values);
    }
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels;
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const auto type :
             {WeightType::F32, WeightType::BF16, WeightType::Int8, WeightType::NF4, WeightType::FP4}) {
            dequantize_case(harness, type, 1, 1, 64, 0);
            dequantize_case(harness, type, 3, 7, 64, 8);      // an odd number of elements
            dequantize_case(harness, type, 17, 33, 32, 0);    // rows begin in the middle of a byte
            dequantize_case(harness, type, 65, 72, 64, 16);   // blocks straddle rows, tiles end early
            dequantize_case(harness, type, 40, 512, 64, 64);  // more than a block of threads
            dequantize_case(harness, type, 9, 1024, 4096, 0);
        }
        e4m3_cases(harness, false);
        e4m3_cases(harness, true);
    });
}
