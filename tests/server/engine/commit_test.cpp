// The next version from updates: exact with whole versions; with a download codec published and left-out
// parts add up, round after round, and the encoded step leads a client to the very same bytes.
#include "server/engine/commit.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "common/base/philox.hpp"
#include "common/crypto/sha256.hpp"
#include "common/tensor/fixed_point.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::engine {
namespace {

constexpr double kHalfUlp = 0x1p-24;  // of f32, relative

tensor::Manifest manifest() {
    return *tensor::Manifest::create({{"layers.0.q_proj.lora_A.weight", {2, 300}},
                                      {"layers.0.q_proj.lora_B.weight", {200, 2}},
                                      {"layers.1.q_proj.lora_A.weight", {2, 300}},
                                      {"layers.1.q_proj.lora_B.weight", {200, 2}}});
}

std::vector<float> some_values(std::uint64_t seed, float size) {
    Rng rng(seed, "values");
    std::vector<float> values(manifest().elements());
    for (float& value : values) value = size * rng.normal();
    return values;
}

// Every codec that leaves something out.
std::vector<codec::CodecId> lossy_codecs() {
    std::vector<codec::CodecId> ids;
    for (const auto& [id, name] : config::EnumNames<codec::CodecId>::rows) {
        if (id != codec::CodecId::None) ids.push_back(id);
    }
    return ids;
}

class CommitTest : public ::testing::Test {
protected:
    CommitTest() {
        job_.name = "test";
        job_.base_model = "none";
        job_.server_learning_rate = 0.7;
        job_.samples_max = 100;
        job_.update.codec = job_.download.codec = {};
        tensor::ParamSet initial(manifest());
        const auto values = some_values(1, 0.1f);
        std::copy(values.begin(), values.end(), initial.values().begin());
        base_.digest = versions().write(initial)->digest;
    }

    store::Versions versions() const { return *store::Versions::open(dir_.path()); }
    ingest::Spool spool() const { return *ingest::Spool::open(dir_.path()); }
    std::vector<float> values_of(const std::string& digest) const {
        const auto params = *versions().read(digest);
        return {params.values().begin(), params.values().end()};
    }
    std::vector<float> residual_of(const std::string& digest) const {
        std::vector<float> values(manifest().elements());
        if (digest.empty()) return values;
        const auto file = *versions().map(store::Attachment::Residual, digest);
        const auto out = std::as_writable_bytes(std::span(values));
        EXPECT_EQ(file.bytes().size(), out.size());
        std::copy(file.bytes().begin(), file.bytes().end(), out.begin());
        return values;
    }

    // Two accepted updates of the base's round, in either order.
    std::vector<Contribution> contributions() {
        std::vector<Contribution> parts;
        for (const char* client : {"a", "b"}) {
            const TaskId task("j1/" + std::to_string(base_.round.get()) + "/" + client);
            const auto bytes = *codec::encode({}, codec::layout_of(manifest()), update_of(client), 0);
            const std::string digest = crypto::to_hex(crypto::sha256(bytes));
            parts.push_back({task, digest, bytes.size(), *client == 'a' ? 10u : 30u});
            if (spool().open_update(task, digest, bytes.size())) continue;
            auto upload = *spool().begin(task, digest, bytes.size(),
                                         [](std::span<const std::byte>) -> Result<void> { return {}; });
            EXPECT_TRUE(upload.append(bytes));
            EXPECT_TRUE(upload.commit());
        }
        return parts;
    }
    std::vector<float> update_of(const std::string& client) const {
        return some_values(stream_of(client) + base_.round.get(), 0.01f);
    }
    // The round's version from these contributions, read from the spool: here, now and by nobody else.
    Result<NewVersion> compute(const std::vector<Contribution>& parts) {
        const auto shape = std::make_shared<const JobShape>(manifest());
        RoundSum sum(shape, *job::sum_scale(job_), job_.aggregation.sum_bits);
        const auto spooled = spool();
        const auto missing = sum.missing(parts);
        for (const Contribution& one : *missing) FEDLLM_TRY_VOID(sum.add(one, spooled));
        FEDLLM_TRY(const RoundBase base, open_base(base_, versions(), shape->manifest));
        return compute_version(job_, base, sum, versions(), {elsewhere_, 4});
    }
    double mean_at(std::size_t i) const { return 0.25 * update_of("a")[i] + 0.75 * update_of("b")[i]; }

    // |mean - the server's mean|: the fixed-point sum's resolution, then one rounding to f32.
    double mean_error(double mean) const {
        const auto scale = *tensor::FixedPoint::choose(tensor::bound_with_slack(job_.update.clip_norm),
                                                       job::weight_total_max(job_));
        return std::ldexp(1.0, -scale.fraction_bits) + std::abs(mean) * 2 * kHalfUlp;
    }

    test::TempDir dir_;
    job::JobSpec job_;
    store::VersionRow base_;
    Helpers::Run elsewhere_ = [](const std::function<void()>&) {};  // no help
};

TEST_F(CommitTest, WholeVersionsAreTheBaseAndTheMean) {
    const auto before = values_of(base_.digest);
    auto parts = contributions();
    const auto next = *compute(parts);
    std::swap(parts[0], parts[1]);
    EXPECT_EQ(compute(parts)->file, next.file);
    EXPECT_EQ(next.step.bytes + next.residual.bytes, 0u);
    const auto after = values_of(next.file.digest);
    for (std::size_t i = 0; i < after.size(); ++i) {
        const double exact = before[i] + job_.server_learning_rate * mean_at(i);
        ASSERT_NEAR(after[i], exact, std::abs(exact) * kHalfUlp + mean_error(mean_at(i))) << i;
    }
}

TEST_F(CommitTest, WhatIsPublishedAndWhatIsLeftOutAddUp) {
    auto version = some_values(2, 1.0f);
    auto step = some_values(3, 0.01f);
    const auto base = version, exact_step = step;
    const codec::Layout layout = codec::layout_of(manifest());
    std::size_t done = 0;
    const auto encoded = *advance(
        {}, layout, 0, base, exact_step, [&](std::span<const float> some, std::span<const float> left) {
            std::copy(some.begin(), some.end(), version.begin() + static_cast<std::ptrdiff_t>(done));
            std::copy(left.begin(), left.end(), step.begin() + static_cast<std::ptrdiff_t>(done));
            done += some.size();
        });
    EXPECT_EQ(encoded, *codec::encode({}, layout, exact_step, 0));
    double left_out = 0;
    for (std::size_t i = 0; i < version.size(); ++i) {
        EXPECT_EQ(version[i], base[i] + exact_step[i]) << "what a client computes";
        ASSERT_EQ(double{version[i]} + step[i], double{base[i]} + exact_step[i])
            << "rounding's own error is f32";
        left_out += std::abs(step[i]);
    }
    EXPECT_GT(left_out, 0) << "the sum's last bits";
}

TEST_F(CommitTest, ADownloadCodecLosesNothingOverTheRounds) {
    for (const codec::CodecId id : lossy_codecs()) {
        SCOPED_TRACE(codec::name(id));
        job_.download.codec.id = id;
        store::VersionRow first = base_;
        auto exact = std::vector<double>(manifest().elements());
        const auto initial = values_of(base_.digest);
        std::copy(initial.begin(), initial.end(), exact.begin());
        double error = 0;
        for (std::uint32_t round = 0; round < 2; ++round) {
            base_.round = RoundId(round);
            const auto parts = contributions();
            const auto before = values_of(base_.digest), held_back = residual_of(base_.residual_digest);
            const auto next = *compute(parts);
            if (round == 1) {
                const auto again = *compute({parts[1], parts[0]});
                EXPECT_EQ(again.file, next.file) << "after a crash before the commit";
                EXPECT_EQ(again.step, next.step);
                EXPECT_EQ(again.residual, next.residual);
            }

            auto made = before;  // by a client
            const auto encoded = *versions().map(store::Attachment::Step, next.step.digest);
            ASSERT_TRUE(codec::decode(id, codec::layout_of(manifest()), encoded.bytes(),
                                      [&](std::uint64_t at, std::span<const float> values) {
                                          for (const float value : values) made[at++] += value;
                                      }));
            const auto after = values_of(next.file.digest), left_out = residual_of(next.residual.digest);
            EXPECT_EQ(made, after);
            EXPECT_LT(encoded.bytes().size(), next.file.bytes);
            for (std::size_t i = 0; i < after.size(); ++i) {
                const double step = job_.server_learning_rate * mean_at(i);
                exact[i] += step;
                error += mean_error(mean_at(i)) +
                         kHalfUlp * (std::abs(step) + std::abs(held_back[i]) + std::abs(left_out[i]));
                ASSERT_NEAR(double{after[i]} + left_out[i], exact[i], error)
                    << "round " << round << ", " << i;
            }
            base_.digest = next.file.digest;
            base_.residual_digest = next.residual.digest;
        }
        base_ = first;
    }
}

// The digest does not depend on who hashes: nobody, a thread that comes at once, or one that comes too late.
TEST_F(CommitTest, HelpersChangeNothing) {
    for (const codec::CodecId id : {codec::CodecId::None, codec::CodecId::Deadzone}) {
        job_.download.codec.id = id;
        elsewhere_ = [](const std::function<void()>&) {};
        const auto alone = *compute(contributions());
        std::vector<std::thread> threads;
        std::vector<std::function<void()>> late;
        elsewhere_ = [&](std::function<void()> work) { threads.emplace_back(std::move(work)); };
        for (int i = 0; i < 20; ++i) {
            const auto helped = *compute(contributions());
            EXPECT_EQ(helped.file, alone.file);
            EXPECT_EQ(helped.residual, alone.residual);
        }
        elsewhere_ = [&](std::function<void()> work) { late.push_back(std::move(work)); };
        EXPECT_EQ(compute(contributions())->file, alone.file);
        for (const auto& work : late) work();
        for (std::thread& thread : threads) thread.join();
        EXPECT_EQ(crypto::to_hex(crypto::sha256(alone.version_bytes->bytes())), alone.file.digest);
        EXPECT_TRUE(versions().sync(alone.paths));
    }
}

TEST_F(CommitTest, AResidualThatIsDamagedOrGoneIsNotZero) {
    for (const codec::CodecId id : lossy_codecs()) {
        job_.download.codec.id = id;
        base_.residual_digest = std::string(64, '0');
        EXPECT_EQ(compute(contributions()).error().code, Errc::NotFound);
        const std::vector<std::byte> few(4);
        base_.residual_digest = versions().write(store::Attachment::Residual, few)->digest;
        EXPECT_EQ(compute(contributions()).error().code, Errc::ManifestMismatch);
    }
}

}  // namespace
}  // namespace fedllm::server::engine
