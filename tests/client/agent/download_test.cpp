// How a version comes to be here, decided from what is held; and steps followed, or refused.
#include "client/agent/download.hpp"

#include <gtest/gtest.h>

#include "common/codec/codec.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::client::agent {
namespace {

using Pieces = std::vector<DownloadPlan::Piece>;

// v0 -s1-> v1 -s2-> v2 -s3-> v3, the wanted one.
Task three_steps() {
    Task task;
    task.round = RoundId(3);
    task.model_digest = "v3";
    task.model_bytes = 100;
    task.steps = {{"v0", "v1", "s1", 20}, {"v1", "v2", "s2", 21}, {"v2", "v3", "s3", 22}};
    return task;
}

DownloadPlan plan(const Task& task, std::set<std::string> held) {
    return plan_download(task, [&](const std::string& digest) { return held.contains(digest); });
}

TEST(DownloadPlan, TheFewestStepsFromWhatIsHeld) {
    const Task task = three_steps();
    const Pieces whole{{"v3", 100}};
    EXPECT_EQ(plan(task, {}), (DownloadPlan{"", whole}));
    EXPECT_EQ(plan(task, {"something else"}), (DownloadPlan{"", whole}));
    EXPECT_EQ(plan(task, {"v0"}), (DownloadPlan{"v0", {{"s1", 20}, {"s2", 21}, {"s3", 22}}}));
    EXPECT_EQ(plan(task, {"v1"}), (DownloadPlan{"v1", {{"s2", 21}, {"s3", 22}}}));
    EXPECT_EQ(plan(task, {"v0", "v2"}), (DownloadPlan{"v2", {{"s3", 22}}}));
    EXPECT_EQ(plan(task, {"v0", "v3"}), DownloadPlan{});
    EXPECT_EQ(plan_whole(task).pieces, whole);
}

TEST(DownloadPlan, StepsThatAreNotLessThanTheVersionAreNotTaken) {
    Task task = three_steps();
    task.steps[0].encoded_bytes = 57;
    EXPECT_EQ(plan(task, {"v0"}).pieces, (Pieces{{"v3", 100}}));
    EXPECT_EQ(plan(task, {"v1"}).base, "v1");
    task.steps[0].encoded_bytes = 56;
    EXPECT_EQ(plan(task, {"v0"}).base, "v0");
    task.steps[2].encoded_bytes = ~std::uint64_t{0};
    task.steps[1].encoded_bytes = 1;
    EXPECT_EQ(plan(task, {"v0", "v1", "v2"}).pieces, (Pieces{{"v3", 100}})) << "sums do not wrap";
}

TEST(DownloadPlan, KnowsWhatMustStayAndWhichVersionTheSeedMayGive) {
    Task task = three_steps();
    EXPECT_EQ(needed_by(plan(task, {"v1"}), task), (std::set<std::string>{"v1", "s2", "s3", "v3"}));
    EXPECT_EQ(initial_digest(task), "v0");
    task.steps.erase(task.steps.begin());
    EXPECT_EQ(initial_digest(task), "") << "the steps do not reach back to it";
    task.steps.clear();
    EXPECT_EQ(initial_digest(task), "");
    task.round = RoundId(0);
    EXPECT_EQ(initial_digest(task), "v3");
}

// -------------------------------------------------------------------------------------------- on the worker

// Three versions with the steps between them; `none` is as good a codec as any.
class Steps : public testing::Test {
protected:
    Steps() {
        for (int i = 0; i < 3; ++i) {
            tensor::ParamSet params(*tensor::Manifest::create({{"a", {4, 5}}, {"b", {7}}}));
            for (float& value : params.values()) value = 0.1f * static_cast<float>(i * i) + next_++;
            if (i > 0) {
                std::vector<float> step(params.values().size());
                for (std::size_t k = 0; k < step.size(); ++k) {
                    step[k] = params.values()[k] - versions_.back().values()[k];
                    params.values()[k] = versions_.back().values()[k] + step[k];
                }
                steps_.push_back(*codec::encode({}, codec::layout_of(params.manifest()), step, 0));
            }
            versions_.push_back(params);
            const Path file = folder_.path() / "version";
            EXPECT_TRUE(formats::write_param_set(file, params));
            bytes_.push_back(*read_file(file));
            digests_.push_back(crypto::to_hex(crypto::sha256(bytes_.back())));
        }
        task_.job.download.codec = {};
        task_.model_digest = digests_[2];
        task_.model_bytes = bytes_[2].size();
        for (int i = 0; i < 2; ++i) {
            task_.steps.push_back(
                {digests_[i], digests_[i + 1], crypto::to_hex(crypto::sha256(steps_[i])), steps_[i].size()});
        }
        task_.model_bytes = 1000;  // more than both steps, which here are not small
    }
    VersionStore store() const { return *VersionStore::open(folder_.path() / "store"); }
    void receive(const std::string& digest, std::span<const std::byte> bytes) const {
        auto writer = store().resume(digest, bytes.size());
        ASSERT_TRUE(writer);
        ASSERT_TRUE(writer->complete() || writer->append(0, bytes));
    }
    void hold(std::size_t version) const {
        receive(digests_[version], std::as_bytes(std::span(bytes_[version])));
        ASSERT_TRUE(store().verify(digests_[version]));
    }
    void receive_steps() const {
        for (int i = 0; i < 2; ++i) receive(task_.steps[i].encoded_digest, steps_[i]);
    }

    test::TempDir folder_;
    float next_ = 0;
    std::vector<tensor::ParamSet> versions_;
    std::vector<std::vector<std::byte>> steps_;
    std::vector<std::string> bytes_, digests_;
    Task task_;
};

TEST_F(Steps, LeadToTheVeryVersion) {
    hold(0);
    receive_steps();
    const auto path = obtain_version(task_, store());
    ASSERT_TRUE(path) << path.error().message;
    EXPECT_EQ(*read_file(*path), bytes_[2]);
    EXPECT_TRUE(store().held(digests_[2]));
}

TEST_F(Steps, FromTheMiddleNeedNoEarlierOnes) {
    hold(1);
    receive(task_.steps[1].encoded_digest, steps_[1]);
    EXPECT_TRUE(obtain_version(task_, store()));
}

TEST_F(Steps, DamagedAnywhereAreADigestMismatch) {
    hold(0);
    for (const std::size_t which : {0u, 1u}) {
        receive_steps();
        steps_[which][9] ^= std::byte{4};
        store().prune(1, {digests_[0]});
        receive_steps();
        steps_[which][9] ^= std::byte{4};
        EXPECT_EQ(obtain_version(task_, store()).error().code, Errc::DigestMismatch);
        store().prune(1, {digests_[0]});
    }
}

// Every way in which a server can lie about a step ends in fetching the version whole.
TEST_F(Steps, ThatLeadElsewhereOrDecodeToNothingAreADigestMismatch) {
    hold(0);
    const auto lie = [&](const std::vector<std::byte>& bytes) {
        task_.steps[1].encoded_digest = crypto::to_hex(crypto::sha256(bytes));
        receive(task_.steps[0].encoded_digest, steps_[0]);
        receive(task_.steps[1].encoded_digest, bytes);
        const auto made = obtain_version(task_, store());
        EXPECT_FALSE(store().held(task_.model_digest));
        store().prune(1, {digests_[0]});
        return made ? Errc::Internal : made.error().code;
    };
    EXPECT_EQ(lie(steps_[0]), Errc::DigestMismatch);
    EXPECT_EQ(lie({}), Errc::DigestMismatch);
    EXPECT_EQ(lie(std::vector<std::byte>(steps_[1].size() + 4)), Errc::DigestMismatch);
    EXPECT_EQ(lie(std::vector<std::byte>(steps_[1].size() - 1)), Errc::DigestMismatch);
    EXPECT_EQ(lie(std::vector<std::byte>(steps_[1].size(), std::byte{0xFF})), Errc::DigestMismatch) << "NaN";
}

TEST_F(Steps, FromABaseThatTheDiskHasChangedAreADigestMismatch) {
    hold(0);
    receive_steps();
    bytes_[0].back() ^= 1;
    ASSERT_TRUE(write_file_atomically(*store().verify(digests_[0]), bytes_[0]));
    EXPECT_EQ(obtain_version(task_, store()).error().code, Errc::DigestMismatch);
}

TEST_F(Steps, AVersionThatCameWholeIsPreferred) {
    hold(0);
    task_.model_bytes = bytes_[2].size();
    receive(task_.model_digest, std::as_bytes(std::span(bytes_[2])));
    EXPECT_EQ(plan_download(task_, store()), DownloadPlan{});
    EXPECT_TRUE(obtain_version(task_, store()));
}

}  // namespace
}  // namespace fedllm::client::agent
