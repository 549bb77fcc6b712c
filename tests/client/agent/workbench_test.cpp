// The workbench holds a base as each job wants it.
#include "client/agent/workbench.hpp"

#include <gtest/gtest.h>

#include "tests/client/agent/site.hpp"

namespace fedllm::client::agent {
namespace {

using tensor::BaseCompute;
using tensor::BaseSpec;
using tensor::BaseStorage;

class WorkbenchTest : public ::testing::Test {
protected:
    // The loss of the job's first version over the site's held-out rows.
    double loss(const BaseSpec& base) {
        job::JobSpec job = site_.job();
        job.base = base;
        auto versions = VersionStore::open(site_.folder() / "versions").value();
        const Task task = site_.task(TaskKind::Evaluate, job, versions);
        if (!bench_) {
            config_.data.eval_fraction = 0.5;
            auto updates = update::UpdateStore::open(site_.folder() / "updates").value();
            bench_ = Workbench::open(config_, std::move(versions), std::move(updates)).value();
        }
        const Event event = bench_->work(task, ClientId("c"), 0, [](const Progress&) {}, {});
        const auto* evaluated = std::get_if<Evaluated>(&event);
        EXPECT_NE(evaluated, nullptr);
        if (evaluated == nullptr) return 0;
        return evaluated->evaluation.loss_sum / static_cast<double>(evaluated->evaluation.tokens);
    }

    Site site_;
    ClientConfig config_ = site_.config();
    std::unique_ptr<Workbench> bench_;
};

TEST_F(WorkbenchTest, HoldsTheBaseAsEachJobWants) {
    const double plain = loss({});
    const double four_bits = loss({BaseStorage::Nf4});
    const double integers = loss({BaseStorage::AsStored, BaseCompute::Int8});
    const double halves = loss({BaseStorage::AsStored, BaseCompute::Bf16});
    EXPECT_NE(plain, four_bits);
    EXPECT_NE(plain, halves);
    EXPECT_NE(integers, halves);
    EXPECT_NE(plain, integers);
    EXPECT_NEAR(plain, four_bits, 0.2);
    EXPECT_NEAR(plain, integers, 0.05);
    EXPECT_NEAR(plain, halves, 0.02);
    EXPECT_EQ(four_bits, loss({BaseStorage::Nf4}));
    EXPECT_EQ(plain, loss({}));
    EXPECT_EQ(halves, loss({BaseStorage::AsStored, BaseCompute::Fp8})) << "on CPUs";
}

}  // namespace
}  // namespace fedllm::client::agent
