#include "client/update/residual_store.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/temp_dir.hpp"

namespace fedllm::client::update {
namespace {

const tensor::Manifest& manifest() {
    static const auto one = tensor::Manifest::create({{"a", {3}}}).value();
    return one;
}

tensor::ParamSet residual(float value) {
    tensor::ParamSet set(manifest());
    for (float& element : set.values()) element = value;
    return set;
}

class Residuals : public ::testing::Test {
protected:
    ResidualStore::Key key(std::uint32_t round) const { return {JobId("j1"), "name: a job", RoundId(round)}; }
    TaskId task(std::uint32_t round) const { return TaskId("j1/" + std::to_string(round) + "/site-a"); }
    void leave(std::uint32_t round, float value) {
        ASSERT_TRUE(store_.stage(task(round), key(round), residual(value)));
    }
    // The value of every element, or 0 when there is nothing.
    float loaded(const ResidualStore::Key& key) const {
        const auto found = store_.load(key, manifest());
        return found ? found->values()[0] : 0.0F;
    }

    test::TempDir folder_;
    ResidualStore store_ = ResidualStore::open(folder_.path() / "residuals").value();
};

TEST_F(Residuals, CountOnceTheUpdateIsCounted) {
    leave(0, 1.0F);
    EXPECT_EQ(loaded(key(1)), 0.0F) << "staged only";
    store_.keep(task(0));
    EXPECT_EQ(loaded(key(1)), 1.0F);
    leave(1, 2.0F);
    EXPECT_EQ(loaded(key(1)), 1.0F) << "the same task again starts from the same residual";
    store_.keep(task(1));
    EXPECT_EQ(loaded(key(2)), 2.0F);
}

TEST_F(Residuals, StayWhenALaterUpdateIsNotCounted) {
    leave(0, 1.0F);
    store_.keep(task(0));
    leave(1, 2.0F);
    store_.drop(task(1));
    EXPECT_EQ(loaded(key(2)), 1.0F);
    store_.keep(task(1));  // too late: it is gone
    EXPECT_EQ(loaded(key(2)), 1.0F);
}

TEST_F(Residuals, AreForgottenWhenNobodyKnowsWhatBecameOfALaterUpdate) {
    leave(0, 1.0F);
    store_.keep(task(0));
    leave(1, 2.0F);
    store_.forget(task(1));
    EXPECT_EQ(loaded(key(2)), 0.0F);
}

TEST_F(Residuals, OfTasksBeforeACrashAreSettledByTheNextTask) {
    leave(2, 3.0F);
    store_.keep(task(2));
    leave(3, 4.0F);
    store_.settle_others(task(3), JobId("j1"), task(2));
    EXPECT_EQ(loaded(key(3)), 3.0F) << "its own task goes on";
    store_.settle_others(task(4), JobId("j1"), task(3));
    EXPECT_EQ(loaded(key(4)), 4.0F) << "counted, though nobody here heard so";

    leave(4, 5.0F);
    store_.settle_others(task(5), JobId("j1"), task(3));
    EXPECT_EQ(loaded(key(5)), 4.0F) << "not counted";
    store_.keep(task(4));
    EXPECT_EQ(loaded(key(5)), 4.0F) << "too late: it is gone";

    leave(5, 6.0F);
    store_.settle_others(TaskId("j2/0/site-a"), JobId("j2"), TaskId(""));
    EXPECT_EQ(loaded(key(6)), 0.0F) << "another job's task says nothing of it";
}

TEST_F(Residuals, OfAnotherJobARoundToComeOrLongAgoAreNotUsed) {
    leave(5, 1.0F);
    store_.keep(task(5));
    EXPECT_EQ(loaded({JobId("j2"), "name: a job", RoundId(6)}), 0.0F);
    EXPECT_EQ(loaded({JobId("j1"), "name: another", RoundId(6)}), 0.0F);
    EXPECT_EQ(loaded(key(5 + ResidualStore::kRoundsMax)), 1.0F);
    EXPECT_EQ(loaded(key(6 + ResidualStore::kRoundsMax)), 0.0F);
    EXPECT_EQ(loaded(key(6)), 0.0F) << "removed when it was found stale";

    leave(9, 1.0F);
    store_.keep(task(9));
    EXPECT_EQ(loaded(key(9)), 0.0F) << "the server began anew";
}

TEST_F(Residuals, ThatAreDamagedOrDoNotFitAreNotUsed) {
    leave(0, 1.0F);
    store_.keep(task(0));
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path() / "residuals")) {
        std::ofstream(entry.path(), std::ios::in | std::ios::out) << "damaged!";
    }
    EXPECT_EQ(loaded(key(1)), 0.0F);
    leave(0, 1.0F);
    store_.keep(task(0));
    EXPECT_FALSE(store_.load(key(1), tensor::Manifest::create({{"b", {3}}}).value()));
}

TEST_F(Residuals, OfFourJobsStayOnDisk) {
    for (int job = 0; job < 6; ++job) {
        const TaskId id("j" + std::to_string(job) + "/0/site-a");
        const ResidualStore::Key of_job{JobId("j" + std::to_string(job)), "text", RoundId(0)};
        ASSERT_TRUE(store_.stage(id, of_job, residual(1)));
        store_.keep(id);
    }
    std::size_t files = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(folder_.path() / "residuals")) {
        ++files;
    }
    EXPECT_EQ(files, 4u);
}

}  // namespace
}  // namespace fedllm::client::update
