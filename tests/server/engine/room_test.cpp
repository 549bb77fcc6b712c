// A job whose sum does not fit into memory is refused before its first byte; one that fits no more after a
// restart is laid aside, keeps what it has, and goes on from there when there is memory.
#include <gtest/gtest.h>

#include <filesystem>

#include "common/base/philox.hpp"
#include "tests/server/engine/engine_world.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::engine {
namespace {

using test::EngineWorld;
using test::Peer;
using Sending = EngineWorld::Sending;

constexpr std::uint64_t kElements = 90'000;
constexpr std::uint64_t kUnlimited = 0;

std::string yaml(const std::string& name, int sum_bits = 64) {
    return "name: " + name +
           "\nbase_model: base\nmethod: full\nrounds: 1\nclients_per_round: 2\nclients_minimum: "
           "2\nweighting: uniform\n"
           "aggregation:\n  sum_bits: " +
           std::to_string(sum_bits) +
           "\nupdate:\n  codec: none\n  clip_norm: 0.5\ndownload:\n  codec: none\n";
}

tensor::ParamSet initial(std::uint64_t elements) {
    return tensor::ParamSet(*tensor::Manifest::create({{"a.weight", {elements}}}));
}

struct Update {
    Update(std::uint64_t elements, std::uint64_t seed) : values(elements) {
        Rng rng(seed, "update");
        for (float& value : values) value = 1e-4f * rng.normal();
        sending.bytes = std::as_bytes(std::span(values));
        sending.digest = crypto::to_hex(crypto::sha256(sending.bytes));
        sending.codec = "none";
    }
    std::vector<float> values;
    Sending sending;
};

class RoomTest : public ::testing::Test {
protected:
    std::unique_ptr<EngineWorld> world() {
        return std::make_unique<EngineWorld>(dir_.path() / "state", 0, std::uint64_t{256} << 20, [this] {
            return std::exchange(room_, room_later_.value_or(room_));
        });
    }
    // "" or what an operator is told who asks for one more job of kElements.
    static std::string refusal(EngineWorld& world, int sum_bits) {
        protocol::SubmitJob request;
        request.set_job(yaml("more", sum_bits));
        request.set_initial_digest(std::string(64, 'a'));
        request.set_initial_bytes(4 * kElements);
        const auto begun = world.engine().begin_submission("operator", request);
        return begun ? "" : begun.error().message;
    }
    // The error's message, or the job's state.
    static std::string control(EngineWorld& world, const JobId& id, protocol::JobAction action) {
        protocol::ControlJob request;
        request.set_job_id(id.get());
        request.set_action(action);
        std::string answer;
        test::asio::co_spawn(
            world.executor(),
            [](Engine& engine, protocol::ControlJob asked, std::string& told) -> net::awaitable<void> {
                const auto done = co_await engine.control("operator", std::move(asked));
                told = done ? done->state() : done.error().message;
            }(world.engine(), request, answer),
            test::asio::detached);
        EXPECT_TRUE(world.run_until([&] { return !answer.empty(); }));
        return answer;
    }
    static store::JobRow row(EngineWorld& world, const JobId& id) { return *world.engine().ledger().job(id); }

    // Both updates of the only round; the server dies when one of them counts, or when the round is closing.
    enum class Death { None, OneCounts, Closing };
    JobId begin(Death death) {
        const auto server = world();
        const JobId id = server->submit(yaml("large"), initial(kElements));
        const auto dies = [&] {
            if (death == Death::OneCounts)
                return server->engine().ledger().contributions(id, RoundId(0))->size() == 1;
            return server->engine().ledger().rounds(id)->back().status == store::RoundStatus::Closing;
        };
        Peer &a = server->join("a"), &b = server->join("b");
        EXPECT_TRUE(server->run_until([&] { return !a.tasks.empty() && !b.tasks.empty(); }));
        if (death != Death::None) server->upload(a, a_.sending);
        if (death == Death::Closing) server->upload(b, b_.sending);
        EXPECT_TRUE(death == Death::None ? finish(*server, id, a, b) : server->run_until(dies));
        last_version_ = row(*server, id).model_digest;
        return id;
    }
    // Answers what the job still asks for.
    bool finish(EngineWorld& server, const JobId& id, Peer& a, Peer& b) {
        std::map<std::string, std::string> answered;  // by client: its last task
        const auto answer = [&](Peer& peer, Update& update) {
            if (peer.tasks.empty() || peer.tasks.back().task_id() == answered[peer.name]) return;
            if (!peer.tasks.back().task_id().starts_with(id.get() + "/")) return;
            answered[peer.name] = peer.tasks.back().task_id();
            if (peer.tasks.back().kind() == protocol::TASK_KIND_EVALUATE) {
                server.evaluate(peer);
            } else {
                server.upload(peer, update.sending);
            }
        };
        return server.run_until([&] {
            answer(a, a_);
            answer(b, b_);
            return row(server, id).status == store::JobStatus::Finished;
        });
    }

    fedllm::test::TempDir dir_;
    std::uint64_t room_ = kUnlimited;
    std::optional<std::uint64_t> room_later_;  // once it was asked for
    Update a_{kElements, 1}, b_{kElements, 2};
    std::string last_version_;  // of begin()
};

TEST_F(RoomTest, AJobThatDoesNotFitBesideTheOthersIsRefusedBeforeItsFirstByte) {
    const auto server = world();
    room_ = 8 * kElements - 1;
    const std::string alone = refusal(*server, 64);
    for (const char* said :
         {"aggregation.sum_bits", "90000 values", "takes 1 MiB", "sum_bits: 32", "limits.sum_memory"}) {
        EXPECT_NE(alone.find(said), std::string::npos) << alone;
    }
    EXPECT_EQ(refusal(*server, 32), "");
    room_ = 8 * kElements + 4 * kElements - 1;
    server->submit(yaml("large"), initial(kElements));
    EXPECT_NE(refusal(*server, 64), "");
    EXPECT_NE(refusal(*server, 32), "") << "the other job's sum is there";
    EXPECT_EQ(refusal(*server, 32).find("sum_bits: 32"), std::string::npos);
    room_ += 1;
    EXPECT_EQ(refusal(*server, 32), "");
    room_ = kUnlimited;
    EXPECT_EQ(refusal(*server, 64), "");
}

// Two submissions may begin when there is room for one.
TEST_F(RoomTest, WhoseRoomIsTakenMeanwhileIsPausedAndCanBeStopped) {
    const auto server = world();
    room_later_ = 8 * kElements - 1;
    const JobId id = server->submit(yaml("late"), initial(kElements));
    EXPECT_EQ(row(*server, id).status, store::JobStatus::Paused);
    EXPECT_EQ(control(*server, id, protocol::JOB_ACTION_STOP), "stopped");
    EXPECT_NE(control(*server, id, protocol::JOB_ACTION_RESUME).find("is over"), std::string::npos);
    EXPECT_EQ(refusal(*server, 32), "");
}

TEST_F(RoomTest, WhatFitsNoMoreAfterARestartIsLaidAsideAndGoesOnWhenThereIsMemory) {
    begin(Death::None);
    const std::string undisturbed = last_version_;
    for (const Death death : {Death::OneCounts, Death::Closing}) {
        std::filesystem::remove_all(dir_.path() / "state");
        room_ = kUnlimited;
        const JobId id = begin(death);
        room_ = 8 * kElements - 1;
        const auto server = world();
        EXPECT_EQ(row(*server, id).status, store::JobStatus::Paused);
        EXPECT_NE(row(*server, id).detail.find("limits.sum_memory"), std::string::npos);
        EXPECT_EQ(server->engine().why(id.get())->reason(), "resume");
        EXPECT_EQ(control(*server, id, protocol::JOB_ACTION_PAUSE), "paused");

        Peer &a = server->join("a"), &b = server->join("b");
        if (death == Death::OneCounts) {
            b.tasks.emplace_back().set_task_id(id.get() + "/0/b");  // of before
            server->upload(b, b_.sending);
            ASSERT_TRUE(server->run_until([&] { return !b.verdicts.empty(); }));
            EXPECT_NE(b.verdicts.back().detail().find("the job is paused"), std::string::npos);
            b.tasks.clear();
        }
        const JobId small = server->submit(yaml("small"), initial(1000));
        ASSERT_TRUE(server->run_until([&] { return !a.tasks.empty() && !b.tasks.empty(); })) << "others run";
        EXPECT_EQ(control(*server, small, protocol::JOB_ACTION_STOP), "stopped");

        const std::string still = control(*server, id, protocol::JOB_ACTION_RESUME);
        EXPECT_NE(still.find("stays paused: aggregation.sum_bits"), std::string::npos) << still;
        room_ = kUnlimited;
        EXPECT_EQ(control(*server, id, protocol::JOB_ACTION_RESUME), "running");
        EXPECT_TRUE(finish(*server, id, a, b));
        EXPECT_EQ(row(*server, id).model_digest, undisturbed);
    }
}

}  // namespace
}  // namespace fedllm::server::engine
