// The workbench with a GPU, which here is the emulated one: its libraries stand before the client's own.
#include <gtest/gtest.h>

#include <cmath>

#include "client/agent/workbench.hpp"
#include "common/log/log.hpp"
#include "kernels/cuda/emulated_failures.hpp"
#include "tests/client/agent/site.hpp"

namespace fedllm::client::agent {
namespace {

class GpuWorkbench : public ::testing::Test {
protected:
    GpuWorkbench() {
        log::setup({.format = log::Format::Human,
                    .level = log::Level::Debug,
                    .sink = [this](std::string_view line) { log_ += std::string(line) + "\n"; }});
    }
    ~GpuWorkbench() override { log::setup({}); }

    std::unique_ptr<Workbench> open(train::Device device) {
        ClientConfig config = site_.config();
        config.device = device;
        config.data.eval_fraction = 0.5;
        const std::string name = "updates-" + std::to_string(++opened_);
        auto versions = VersionStore::open(site_.folder() / "versions").value();
        return Workbench::open(config, std::move(versions),
                               update::UpdateStore::open(site_.folder() / name).value())
            .value();
    }
    Event train(Workbench& bench, const job::JobSpec& job) {
        auto versions = VersionStore::open(site_.folder() / "versions").value();
        const Task task = site_.task(TaskKind::Train, job, versions);
        return bench.work(task, ClientId("c"), 0, [](const Progress&) {}, {});
    }
    static update::Claim claim_of(const Event& event) {
        const auto* trained = std::get_if<Trained>(&event);
        EXPECT_NE(trained, nullptr);
        return trained == nullptr ? update::Claim{} : trained->claim;
    }
    bool logged(const std::string& text) const { return log_.find(text) != std::string::npos; }

    Site site_;
    int opened_ = 0;
    std::string log_;
};

TEST_F(GpuWorkbench, TrainsAndEncodesAsTheCpuWithinBf16) {
    job::JobSpec job = site_.job();
    job.update.codec = {.id = codec::CodecId::Deadzone};
    const auto gpu = open(train::Device::Auto), cpu = open(train::Device::Cpu);
    EXPECT_EQ(cpu->device(), "cpu, 1 threads");
    EXPECT_NE(gpu->device(), cpu->device());
    const update::Claim there = claim_of(train(*gpu, job)), here = claim_of(train(*cpu, job));
    EXPECT_TRUE(logged("GPU planned")) << log_;
    EXPECT_FALSE(logged("the CPU does")) << log_;
    EXPECT_EQ(there.tokens, here.tokens);
    EXPECT_NEAR(there.train_loss, here.train_loss, 0.01 * here.train_loss);
    EXPECT_NE(there.train_loss, here.train_loss);  // another arithmetic was used
    EXPECT_NEAR(there.update_norm, here.update_norm, 0.1 * here.update_norm);
    EXPECT_GT(there.bytes, 0U);
}

// The server hears of it and gives the task to another; the next one finds a GPU again.
TEST_F(GpuWorkbench, AGpuThatFailsInTrainingFailsTheTask) {
    const auto bench = open(train::Device::Cuda);
    claim_of(train(*bench, site_.job()));
    kernels::cuda::emulation::fail_after(0);
    const Event event = train(*bench, site_.job());
    kernels::cuda::emulation::fail_after(kernels::cuda::emulation::kNever);
    const auto* failed = std::get_if<WorkFailed>(&event);
    ASSERT_NE(failed, nullptr);
    EXPECT_EQ(failed->error.code, Errc::DeviceFailed) << failed->error.message;
    claim_of(train(*bench, site_.job()));
}

// Heads of 12 columns are not the GPU's (client/cuda_engine).
TEST_F(GpuWorkbench, TheCpuTrainsWhatTheGpuCannot) {
    const auto base = model::BaseModel::load("tests/golden/llama/long_rope").value();
    job::JobSpec job = site_.job();
    job.train.sequence_length = 16;
    std::string told;
    const auto listen = [&](const std::string& why) {
        told = why;
        return Result<void>{};
    };
    const auto any = train::Devices::open(train::Device::Auto, 1).value();
    ASSERT_TRUE(any->has_gpu());
    EXPECT_TRUE(any->trainer(base, job, listen));
    EXPECT_NE(told.find("12"), std::string::npos) << told;
    const auto refuse = [](const std::string&) -> Result<void> {
        return make_error(Errc::PolicyRefused, "too large");
    };
    EXPECT_EQ(any->trainer(base, job, refuse).error().code, Errc::PolicyRefused);
    told.clear();
    const auto gpu = train::Devices::open(train::Device::Cuda, 1).value();
    EXPECT_EQ(gpu->trainer(base, job, listen).error().code, Errc::Unsupported);
    EXPECT_EQ(told, "");
    EXPECT_FALSE(train::Devices::open(train::Device::Auto, 1, {0, 7}));  // there is one
}

}  // namespace
}  // namespace fedllm::client::agent
