// What the codec tests share: values like those of adapters, and decoding into a vector.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "common/base/philox.hpp"
#include "common/codec/codec.hpp"

namespace fedllm::codec::test {

inline Layout flat(std::uint64_t elements) {
    if (elements == 0) return {};
    return {{{elements, 0}}, elements, 1};
}

// Runs of uneven lengths over three groups, in turn.
inline Layout mixed(std::uint64_t elements) {
    Layout layout{{}, 0, 3};
    std::uint32_t group = 0;
    for (std::uint64_t run = 1; layout.elements < elements; run = run * 3 + 5, group = (group + 1) % 3) {
        const std::uint64_t count = std::min(run % 70'001, elements - layout.elements);
        layout.runs.push_back({count, group});
        layout.elements += count;
    }
    return layout;
}

// Mostly small, some large, of a scale that differs by group; group 1 is zero throughout, as a frozen factor
// is. No function of the C library, so golden bytes hold everywhere.
inline std::vector<float> deltas(const Layout& layout, std::uint64_t seed = 7) {
    Rng rng(seed, "codec");
    std::vector<float> values;
    for (const auto& run : layout.runs) {
        const float scale = run.group == 1 ? 0.0f : run.group == 0 ? 1e-3f : 4e-3f;
        for (std::uint64_t i = 0; i < run.elements; ++i) {
            const float u = rng.uniform(), v = rng.uniform();
            const float size = u * u / (1.04f - v) * scale;
            values.push_back(rng.below(2) == 0 ? size : -size);
        }
    }
    return values;
}

// As one piece, or in pieces of a size.
inline Result<std::vector<float>> decoded(CodecId codec, const Layout& layout,
                                          std::span<const std::byte> bytes, std::size_t piece = 0) {
    std::vector<float> all;
    const Sink append = [&all](std::uint64_t first, std::span<const float> values) {
        EXPECT_EQ(first, all.size());
        EXPECT_LE(values.size(), kSliceValuesMax);
        all.insert(all.end(), values.begin(), values.end());
    };
    if (piece == 0) {
        FEDLLM_TRY_VOID(decode(codec, layout, bytes, append));
        return all;
    }
    Decoder decoder(codec, layout);
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
        FEDLLM_TRY_VOID(decoder.push(bytes.subspan(at, std::min(piece, bytes.size() - at)), append));
        EXPECT_EQ(decoder.decoded(), all.size());
    }
    if (!decoder.complete()) return make_error(Errc::ManifestMismatch, "not complete");
    return all;
}

inline double squares(std::span<const float> values) {
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * value;
    return sum;
}
// |x - y|^2 / |x|^2.
inline double relative_error(std::span<const float> x, std::span<const float> y) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(static_cast<double>(x[i]) - y[i], 2);
    return sum / squares(x);
}

inline std::string hex(std::span<const std::byte> bytes) {
    std::string text;
    char two[3];
    for (const std::byte byte : bytes) {
        std::snprintf(two, sizeof two, "%02X", static_cast<unsigned>(byte));
        text += two;
    }
    return text;
}

inline std::string test_name(CodecId codec) { return std::string(name(codec)); }

}  // namespace fedllm::codec::test
