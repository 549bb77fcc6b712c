#include "common/codec/deadzone.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include <hwy/targets.h>

#include "common/codec/container.hpp"
#include "common/codec/crc32c.hpp"
#include "common/codec/deadzone_codec.hpp"
#include "common/codec/deadzone_kernels.hpp"
#include "tests/common/codec/support.hpp"

namespace fedllm::codec::deadzone {
namespace {

using namespace test;

Spec spec_of(double step, double bits = 0) { return {.id = CodecId::Deadzone, .step = step, .bits = bits}; }

double bits_per_value(std::size_t bytes, const Layout& layout) {
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(layout.elements);
}

TEST(DeadzoneFormat, WorkedExample) {
    const std::vector<float> values{0, 3, 0, -3};
    const auto bytes = *encode(spec_of(1), flat(4), values, 0);
    std::string rest = "00000200000C0400";  // the states of lanes 2 and 3; the other 28 are 2^16
    for (int lane = 4; lane < 32; ++lane) rest += "00000100";
    EXPECT_EQ(
        hex(bytes),
        "464C435501060100040000000000000009000000B6C3074001000C401D4F25788980000000076882F10000020000080400" +
            rest);
    const auto back = *decoded(CodecId::Deadzone, flat(4), bytes);
    EXPECT_EQ(back[0], 0.0f);
    EXPECT_NEAR(back[1], 3.0, 2.1213 / 512);
    EXPECT_EQ(back[3], -back[1]);
}

// The level of every value, by the words of deadzone.hpp in double; a level off only within rounding of an
// edge.
TEST(Deadzone, LevelsAndReconstructionAreThoseOfTheQuantiser) {
    const Layout layout = mixed(200'000);
    const auto values = deltas(layout);
    for (const double factor : {0.1, 0.5, 2.0, 4.0}) {
        const float step = *choose_step(spec_of(factor), layout, values);
        EXPECT_NEAR(step, factor * std::sqrt(squares(values) / 200'000.0), 1e-6 * step);
        const auto back = *decoded(CodecId::Deadzone, layout, *encode(spec_of(factor), layout, values, 0));
        for (std::size_t i = 0; i < values.size(); ++i) {
            const double t = std::abs(static_cast<double>(values[i])) / step;
            const double magnitude = t < 0.55 ? 0 : std::min(127.0, std::floor(t + 0.5));
            const double found = std::abs(static_cast<double>(back[i])) / step;
            const bool at_edge = std::abs(t - 0.55) < 1e-5 || std::abs(t + 0.5 - std::round(t + 0.5)) < 1e-4;
            if (at_edge) continue;
            ASSERT_LE(std::abs(found - magnitude), 0.5) << values[i] << " " << back[i];
            ASSERT_EQ(found == 0, magnitude == 0) << values[i];
            ASSERT_FALSE(back[i] * values[i] < 0);
        }
    }
}

// Within 2 % of the entropy of its levels: headers, tables and states included, from 100,000 values on.
TEST(Deadzone, CostsLittleMoreThanTheEntropy) {
    for (const std::uint64_t elements : {100'000u, 1'000'000u}) {
        const Layout layout = mixed(elements);
        const auto values = deltas(layout);
        for (const double factor : {0.5, 2.0}) {
            const float step = *choose_step(spec_of(factor), layout, values);
            std::vector<Statistics> groups(layout.groups);
            std::vector<std::int8_t> levels(values.size());
            std::uint64_t at = 0;
            for (const auto& run : layout.runs) {
                plain::quantize(std::span(values).subspan(at, run.elements), 1.0f / step, levels.data() + at,
                                groups[run.group]);
                at += run.elements;
            }
            double entropy = 0;
            for (const Statistics& group : groups) {
                double total = 0;
                for (const auto count : group.counts) total += static_cast<double>(count);
                for (std::size_t m = 0; m < group.counts.size(); ++m) {
                    const auto count = static_cast<double>(group.counts[m]);
                    if (count > 0) entropy += count * (std::log2(total / count) + (m > 0));
                }
            }
            const auto bytes = encode(spec_of(factor), layout, values, 0)->size();
            EXPECT_LE(8.0 * static_cast<double>(bytes), entropy * (elements < 200'000 ? 1.035 : 1.02))
                << elements << " " << factor << ": " << bits_per_value(bytes, layout);
        }
    }
}

TEST(Deadzone, BitsTakeThePlaceOfTheStep) {
    const Layout layout = mixed(600'000);
    const auto values = deltas(layout);
    for (const double bits : {0.1, 0.5, 1.0, 2.0}) {
        const auto bytes = encode(spec_of(20, bits), layout, values, 0)->size();
        EXPECT_LE(bits_per_value(bytes, layout), bits * 1.02) << bits;
        EXPECT_GE(bits_per_value(bytes, layout), bits * 0.9) << bits;
    }
}

// What never is sent is never repaid by error feedback.
TEST(Deadzone, SomethingIsAlwaysSent) {
    const Layout layout = mixed(50'000);
    std::vector<float> equal = deltas(layout);
    for (float& value : equal) value = value < 0 ? -3e-3f : 3e-3f;
    std::vector<float> one(50'000);
    one[777] = 1e-6f;
    for (const auto& values : {equal, one}) {
        for (const Spec& spec : {spec_of(64), spec_of(2.5, 0.01), spec_of(2.5, 0.75)}) {
            const auto back = *decoded(CodecId::Deadzone, layout, *codec::encode(spec, layout, values, 0));
            EXPECT_GT(squares(back), 1e-3 * squares(values)) << spec.step << " " << spec.bits;
        }
    }
}

TEST(Codec, ZerosThatStandForNothingDoNotCount) {
    const Layout layout = mixed(600'000);
    std::vector<float> values = deltas(layout);
    const auto whole = encode(spec_of(2.5, 1), layout, values, 0)->size();
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (i % 2 == 0) values[i] = 0;
    }
    const auto zeros = static_cast<double>(std::count(values.begin(), values.end(), 0.0f));
    const double share = 1 - zeros / static_cast<double>(values.size());
    const Spec half = without_zeros(spec_of(2.5, 1), values);
    EXPECT_DOUBLE_EQ(half.bits, share);
    EXPECT_DOUBLE_EQ(half.step, 2.5 / std::sqrt(share));
    EXPECT_LT(encode(half, layout, values, 0)->size(), whole * 0.52);
}

// Clipped updates must stay within the bound, also where nothing averages out: one step of Adam.
TEST(Deadzone, DecodedUpdatesAreNotLongerThanTheOriginal) {
    const Layout layout = mixed(50'000);
    std::vector<float> equal = deltas(layout);
    for (float& value : equal) value = value < 0 ? -3e-3f : 3e-3f;
    for (const auto& values : {equal, deltas(layout)}) {
        for (double factor = 0.3; factor < 3; factor *= 1.07) {
            const auto back =
                *decoded(CodecId::Deadzone, layout, *encode(spec_of(factor), layout, values, 0));
            EXPECT_LE(squares(back), squares(values) * (1 + 1e-6)) << factor;
        }
    }
}

TEST(Deadzone, GroupsOfZerosTakeNoPayload) {
    const Layout part{{{131'072, 0}, {131'072, 1}}, 262'144, 2};
    const Layout whole{{{524'288, 2}, {131'072, 0}, {131'072, 1}}, 786'432, 3};
    Rng rng(5, "frozen");
    std::vector<float> values(262'144);
    for (float& value : values) value = rng.normal();
    const auto bytes = encode(spec_of(2), part, values, 0)->size();
    values.insert(values.begin(), 524'288,
                  0.0f);  // makes the rms less by sqrt(3), so the factor must be more
    const auto frozen = encode(spec_of(2 * std::sqrt(3.0)), whole, values, 0)->size();
    EXPECT_EQ(frozen, bytes + 1);  // its table
}

TEST(DeadzoneTables, FrequenciesAddUpAndNoSymbolIsLost) {
    Rng rng(3, "tables");
    for (int i = 0; i < 2000; ++i) {
        Statistics statistics;
        const auto levels = 1 + rng.below(127);
        for (std::uint64_t m = 0; m <= levels; ++m) {
            statistics.counts[m] = rng.below(3) == 0 ? 0 : rng.below(std::uint64_t{1} << rng.below(40));
        }
        const Table table = make_table(statistics);
        std::uint32_t total = table.frequency[0];
        for (std::size_t m = 1; m < 128; ++m) total += 2u * table.frequency[m];
        EXPECT_EQ(total, rans::kTotal);
        for (std::size_t m = 0; m < 128; ++m) {
            EXPECT_EQ(statistics.counts[m] > 0, table.frequency[m] > 0 && (m > 0 || statistics.counts[0] > 0))
                << m;
        }
        const auto written = write_parameters(1.0f, std::vector{table});
        EXPECT_LE(written.size(), parameter_bytes_most(1));
        const auto read = read_parameters(written, 1);
        ASSERT_TRUE(read) << read.error().message;
        EXPECT_EQ(read->tables[0], table);
    }
}

TEST(DeadzoneTables, InconsistentOnesAreRefused) {
    const auto message = [](float step, const std::vector<std::pair<std::uint32_t, unsigned>>& fields,
                            const std::vector<std::uint32_t>& gammas) {
        BitWriter bits;
        for (const auto& [value, count] : fields) bits.put(value, count);
        for (const std::uint32_t gamma : gammas) bits.put_gamma(gamma);
        bits.put(0, 8 * static_cast<unsigned>(std::min<std::size_t>(4, gammas.size())));
        std::vector<std::byte> bytes;
        append_number(bytes, step);
        const auto tables = std::move(bits).finish();
        bytes.insert(bytes.end(), tables.begin(), tables.end());
        const auto read = read_parameters(bytes, 1);
        return read ? std::string("accepted") : read.error().message;
    };
    const auto has = [](const std::string& text, const char* part) {
        return text.find(part) != std::string::npos;
    };
    EXPECT_EQ(message(1, {{2, 8}}, {100, 1}), "accepted");
    EXPECT_TRUE(has(message(1, {{2, 8}}, {100, 0}), "inconsistent"));   // the highest level does not occur
    EXPECT_TRUE(has(message(1, {{2, 8}}, {2047, 2}), "inconsistent"));  // more than 4096
    EXPECT_TRUE(has(message(1, {{1, 8}}, {5000}), "inconsistent"));
    EXPECT_TRUE(has(message(1, {{3, 8}}, {1}), "inconsistent"));  // bytes are missing
    EXPECT_TRUE(has(message(1, {{128, 8}}, {}), "127 is the highest"));
    EXPECT_TRUE(has(message(1, {{0, 8}, {0, 8}}, {}), "followed by"));
    EXPECT_TRUE(has(message(1, {{0, 8}, {0, 8}}, {}), "followed by"));
    EXPECT_TRUE(has(message(0, {{0, 8}}, {}), "has no tables"));
    for (const float step :
         {-1.0f, -0.0f, std::nanf(""), std::numeric_limits<float>::infinity(), 0x1p121f, 0x1p-101f}) {
        EXPECT_TRUE(has(message(step, {{0, 8}}, {}), "step")) << step;
    }
}

TEST(Rans, DivisionByReciprocalIsExact) {
    Rng rng(4, "rans");
    for (std::uint32_t frequency = 1; frequency < rans::kTotal; ++frequency) {
        const rans::Symbol symbol = rans::symbol(frequency, 0);
        for (int i = 0; i < 200; ++i) {
            const auto limit = std::uint64_t{frequency} << 20;
            const auto state = static_cast<std::uint32_t>(i == 0   ? limit - 1
                                                          : i == 1 ? 65536
                                                                   : rng.below(limit));
            EXPECT_EQ(rans::put(state, symbol), (state / frequency << 12) + state % frequency);
        }
    }
}

// The same bytes, values and statistics from the plain loops and from every instruction set of this machine.
class EveryTarget : public ::testing::TestWithParam<std::int64_t> {
protected:
    void SetUp() override { use(GetParam()); }
    void TearDown() override { use(0); }

private:
    static void use(std::int64_t target) {  // 0: what the machine has
        hwy::SetSupportedTargetsForTest(target);
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    }
};
std::vector<std::int64_t> targets() {
    std::vector<std::int64_t> all;
    for (std::int64_t left = hwy::SupportedTargets(); left != 0; left &= left - 1)
        all.push_back(left & -left);
    return all;
}
INSTANTIATE_TEST_SUITE_P(Simd, EveryTarget, ::testing::ValuesIn(targets()),
                         [](const auto& tested) { return std::string(hwy::TargetName(tested.param)); });

TEST_P(EveryTarget, GivesTheBytesOfThePlainLoops) {
    const Layout layout = mixed(300'000);
    const auto values = deltas(layout);
    for (const std::size_t count : {1u, 31u, 32u, 100u, 4095u, 4096u}) {
        const auto block = std::span(values).subspan(1000, count);
        EXPECT_EQ(sum_of_squares(block), plain::sum_of_squares(block));
    }
    for (const double factor : {0.02, 0.3, 2.0}) {
        const float step = *choose_step(spec_of(factor), layout, values);
        Statistics ours, theirs;
        std::vector<std::int8_t> levels(values.size()), expected(values.size());
        quantize(values, 1.0f / step, levels.data(), ours);
        plain::quantize(values, 1.0f / step, expected.data(), theirs);
        EXPECT_EQ(levels, expected);
        EXPECT_EQ(ours.counts, theirs.counts);
        EXPECT_EQ(ours.offset_sums, theirs.offset_sums);

        EncodeTable encode_table;
        auto decode_table = std::make_unique<DecodeTable>();
        expand(make_table(ours), encode_table);
        expand(make_table(ours), step, *decode_table);
        for (const std::size_t count : {5u, 32u, 6400u, 131'071u}) {
            States states, plain_states;
            states.fill(rans::kStateMin);
            plain_states = states;
            std::vector<std::uint16_t> words(count + 8), plain_words(count + 8);
            const auto run = std::span<const std::int8_t>(levels).first(count);
            std::uint16_t* const end = words.data() + words.size();
            std::uint16_t* const top = encode_run(run, encode_table, states, end);
            std::uint16_t* const plain_end = plain_words.data() + plain_words.size();
            std::uint16_t* const plain_top = plain::encode_run(run, encode_table, plain_states, plain_end);
            ASSERT_TRUE(std::equal(top, end, plain_top, plain_end));
            ASSERT_EQ(states, plain_states);
            std::vector<float> back(count), plain_back(count);
            const std::uint16_t *at = top, *plain_at = plain_top;
            ASSERT_TRUE(decode_run(*decode_table, states, at, end, back));
            ASSERT_EQ(at, end);
            ASSERT_TRUE(plain::decode_run(*decode_table, plain_states, plain_at, plain_end, plain_back));
            ASSERT_EQ(plain_at, plain_end);
            EXPECT_EQ(back, plain_back);
            EXPECT_EQ(states, plain_states);
            EXPECT_EQ(states[0], rans::kStateMin);
        }
    }
}

TEST_P(EveryTarget, GivesTheGoldenUpdate) {
    const Layout layout = mixed(20'000);
    const auto bytes = *encode(spec_of(1.5), layout, deltas(layout), 0);
    // Header and tables, their CRC, and the length and CRC of the one segment: whatever differs, differs
    // here.
    EXPECT_EQ(hex(std::span(bytes).first(60)),
              "464C435501060300204E000000000000190000006F7F133C02C00406561580024032E0041B8DA14C9257DB9C1AA4"
              "0DBB122E070000EAE4C99BED8A43");
    EXPECT_EQ(bytes.size(), 1895u);
}

// Words that end too early are noticed, wherever they end, and never read past.
TEST_P(EveryTarget, DecodingStopsAtTheEndOfTheWords) {
    const Layout layout = flat(6400);
    const auto values = deltas(layout);
    const auto bytes = *encode(spec_of(0.5), layout, values, 0);
    const std::size_t payload =
        bytes.size() - kPreludeBytes - kCrcBytes - kSegmentHeadBytes - read_number<std::uint32_t>(bytes, 16);
    const auto decoder = *SegmentDecoder::create(
        std::span(bytes).subspan(kPreludeBytes, read_number<std::uint32_t>(bytes, 16)), 1);
    for (std::size_t size = 0; size < payload; size += size < 300 ? 1 : 14) {
        const std::vector<std::byte> cut(bytes.end() - static_cast<std::ptrdiff_t>(payload),
                                         bytes.end() - static_cast<std::ptrdiff_t>(payload - size));
        const auto result =
            decoder.decode({0, 6400, cut}, layout.runs, [](std::uint64_t, std::span<const float>) {});
        ASSERT_FALSE(result) << size;
        EXPECT_EQ(result.error().code, Errc::Malformed);
    }
}

// Golden: what the encoder wrote when it went through all values in order, on one thread.
TEST(Deadzone, TheBytesDoNotDependOnWhoWorks) {
    const Layout layout = mixed(70 * kSegmentValues + 12'345);  // more segments than parts
    const auto values = deltas(layout);
    for (const auto& [spec, golden] : {std::pair(Spec{.id = CodecId::Deadzone, .bits = 0.75}, 3174655809u),
                                       std::pair(Spec{.id = CodecId::Deadzone, .step = 0.4}, 1722398578u)}) {
        const auto alone = *codec::encode(spec, layout, values, 0);
        EXPECT_EQ(crc32c(alone), golden);
        const auto backwards = [](std::size_t count, const std::function<void(std::size_t)>& each) {
            while (count > 0) each(--count);
        };
        EXPECT_EQ(*codec::encode(spec, layout, values, 0, backwards), alone);
        for (unsigned threads = 2; threads <= 8; threads += 3) {
            const auto apart = [&](std::size_t count, const std::function<void(std::size_t)>& each) {
                std::atomic<std::size_t> next = 0;
                std::vector<std::jthread> crew;
                for (unsigned i = 0; i < threads; ++i) {
                    crew.emplace_back([&] {
                        for (std::size_t part; (part = next++) < count;) each(part);
                    });
                }
            };
            EXPECT_EQ(*codec::encode(spec, layout, values, 0, apart), alone) << threads << " threads";
        }
    }
}

}  // namespace
}  // namespace fedllm::codec::deadzone
