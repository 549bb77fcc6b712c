// Rounds through a whole engine: what is summed while it arrives closes to the exact version, whoever is
// late, cut, refused or waiting, and also when the server dies before that version is on the disk.
#include <gtest/gtest.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <set>

#include "common/base/philox.hpp"
#include "tests/server/engine/engine_world.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::engine {
namespace {

using test::EngineWorld;
using test::Peer;

constexpr std::size_t kElements = 90'000;

class ClosingTest : public ::testing::TestWithParam<const char*> {  // the download codec
protected:
    static tensor::Manifest manifest() {
        return *tensor::Manifest::create({{"a.weight", {40, 1000}}, {"b.weight", {50, 1000}}});
    }
    static tensor::ParamSet initial() {
        tensor::ParamSet params(manifest());
        Rng rng(1, "initial");
        for (float& value : params.values()) value = rng.normal();
        return params;
    }
    std::string yaml(int rounds, int clients, int minimum) const {
        return "name: closing\nbase_model: base\nmethod: full\nrounds: " + std::to_string(rounds) +
               "\nclients_per_round: " + std::to_string(clients) +
               "\nclients_minimum: " + std::to_string(minimum) +
               "\nsamples_max: 100\nupdate:\n  codec: none\ndownload:\n  codec: " + GetParam() + "\n";
    }
    EngineWorld::Sending& sending(std::uint64_t seed) {
        auto& values = values_.emplace_back(kElements);
        Rng rng(seed, "update");
        for (float& value : values) value = 1e-2f * rng.normal();
        auto& made = sendings_.emplace_back();
        made.bytes = std::as_bytes(std::span(values));
        made.digest = crypto::to_hex(crypto::sha256(made.bytes));
        made.codec = "none";
        made.samples = 1 + seed % 50;
        return made;
    }
    // The version that follows from `base` by these updates, computed by the plain rule with a sum of its
    // own.
    struct Weighted {
        const EngineWorld::Sending* sending;
        std::uint64_t factor = 1;  // of its samples
    };
    std::string expected(EngineWorld& world, const std::string& base, const std::string& text,
                         const std::vector<Weighted>& parts) {
        const SharedVersion version = world.version(base);
        const auto from = *formats::param_set_values(version->bytes(), manifest());
        const auto job = *job::parse_job(text, "job");
        aggregate::Accumulator sum(kElements, *job::sum_scale(job));
        std::uint64_t weight = 0;
        for (const auto& [part, factor] : parts) {
            const std::span values(reinterpret_cast<const float*>(part->bytes.data()), kElements);
            sum.add(0, values, part->samples * factor);
            weight += part->samples * factor;
        }
        tensor::ParamSet next(manifest());
        std::vector<float> mean(kElements);
        sum.mean(mean, weight);
        for (std::size_t i = 0; i < kElements; ++i) {
            next.values()[i] =
                static_cast<float>(static_cast<double>(from[i]) + static_cast<double>(mean[i]));
        }
        const Path file = dir_.path() / "expected";
        EXPECT_TRUE(formats::write_param_set(file, next));
        return crypto::to_hex(crypto::sha256(MappedFile::open(file)->bytes()));
    }
    bool whole() const { return std::string(GetParam()) == "none"; }
    std::size_t spooled() const {
        std::size_t files = 0;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_.path() / "state/spool")) {
            files += entry.is_regular_file() ? 1 : 0;
        }
        return files;
    }

    fedllm::test::TempDir dir_;
    std::deque<std::vector<float>> values_;
    std::deque<EngineWorld::Sending> sendings_;
};

// Asked: three. One is cut, one is refused, one is still sending when the round closes with the other two.
TEST_P(ClosingTest, OnlyWhatTheLedgerCountsIsInTheVersion) {
    EngineWorld world(dir_.path() / "state", 2);
    world.submit(yaml(2, 4, 2), initial());
    std::vector<Peer*> peers;
    for (const char* name : {"a", "b", "c", "d"}) peers.push_back(&world.join(name));
    ASSERT_TRUE(world.run_until([&] { return !peers[3]->tasks.empty(); }));
    const std::string base = peers[0]->tasks[0].model_digest();
    auto &first = sending(1), &second = sending(2), &slow = sending(3), &bad = sending(4);
    first.stop_at = 100'000;
    first.cut = true;
    slow.stop_at = 200'000;
    values_[3][80'000] = 1000.0f;  // beyond the clip norm, after most of it was added
    bad.digest = crypto::to_hex(crypto::sha256(bad.bytes));
    world.upload(*peers[0], first);
    world.upload(*peers[2], slow);
    world.upload(*peers[3], bad);
    ASSERT_TRUE(world.run_until([&] { return first.done && bad.done; }));
    ASSERT_EQ(peers[3]->verdicts.back().reason(), "out_of_bounds");
    first.cut = false;
    first.go_on = true;
    first.done = false;
    world.upload(*peers[0], first);  // resumed
    world.upload(*peers[1], second);
    ASSERT_TRUE(world.run_until([&] { return peers[0]->tasks.size() == 2; })) << world.fatal;
    const std::string made = peers[0]->tasks[1].model_digest();
    if (whole()) {
        EXPECT_EQ(made, expected(world, base, yaml(2, 4, 2), {{&first}, {&second}}));
    }
    slow.go_on = true;
    ASSERT_TRUE(world.run_until([&] { return slow.done; }));
    EXPECT_EQ(peers[2]->verdicts.back().reason(), "stale") << "too late";
    ASSERT_TRUE(world.run_until([&] { return spooled() == 0; }))
        << "the round's updates go once it is durable";
    world.stop();
}

// The server dies when the next round's task is out and its version's file is not on the disk; the file is
// then missing, cut or damaged.
TEST_P(ClosingTest, AVersionThatWasSentAndLostIsComputedAgainBitForBit) {
    for (int damage = 0; damage < 3; ++damage) {
        const Path state = dir_.path() / "state";
        std::filesystem::remove_all(state);
        std::string made;
        {
            EngineWorld world(state, 0);
            world.submit(yaml(3, 2, 2), initial());
            Peer &a = world.join("a"), &b = world.join("b");
            ASSERT_TRUE(world.run_until([&] { return !a.tasks.empty() && !b.tasks.empty(); }));
            auto &first = sending(5), &second = sending(6);
            world.upload(a, first);
            world.upload(b, second);
            ASSERT_TRUE(world.run_until([&] { return a.tasks.size() == 2; }));
            made = a.tasks[1].model_digest();
            EXPECT_EQ(spooled(), 2u) << "kept until the version is durable";
        }
        const Path file = state / "versions" / (made + ".safetensors");
        if (damage == 0) std::filesystem::remove(file);
        if (damage == 1) std::filesystem::resize_file(file, 1000);
        if (damage == 2) std::fstream(file, std::ios::in | std::ios::out).seekp(5000) << "other bytes";
        EngineWorld world(state, 2);
        Peer &a = world.join("a"), &b = world.join("b");
        ASSERT_TRUE(world.run_until([&] { return !a.tasks.empty() && !b.tasks.empty(); }));
        EXPECT_EQ(a.tasks[0].round(), 1u);
        EXPECT_EQ(a.tasks[0].model_digest(), made) << "damage " << damage;
        ASSERT_TRUE(world.version(made));
        ASSERT_TRUE(world.run_until([&] { return spooled() == 0; }));
        auto &third = sending(7), &fourth = sending(8);
        world.upload(a, third);
        world.upload(b, fourth);
        ASSERT_TRUE(world.run_until([&] { return a.tasks.size() == 2; }));
        if (whole()) {
            EXPECT_EQ(a.tasks[1].model_digest(), expected(world, made, yaml(3, 2, 2), {{&third}, {&fourth}}));
        }
        world.stop();
    }
}

// Killed in the middle of a round: what was accepted is summed again from the spool.
TEST_P(ClosingTest, ARestartSumsTheAcceptedUpdatesAgain) {
    const Path state = dir_.path() / "state";
    auto &first = sending(9), &second = sending(10);
    std::string base;
    {
        EngineWorld world(state, 0);
        world.submit(yaml(2, 2, 2), initial());
        Peer &a = world.join("a"), &b = world.join("b");
        ASSERT_TRUE(world.run_until([&] { return !a.tasks.empty() && !b.tasks.empty(); }));
        base = a.tasks[0].model_digest();
        world.upload(a, first);
        second.stop_at = 100'000;
        world.upload(b, second);
        ASSERT_TRUE(world.run_until([&] { return first.done; }));
    }
    second = sending(10);
    EngineWorld world(state, 2);
    Peer& b = world.join("b");
    ASSERT_TRUE(world.run_until([&] { return !b.tasks.empty(); }));
    world.upload(b, second);
    Peer& a = world.join("a");
    ASSERT_TRUE(world.run_until([&] { return !a.tasks.empty() && a.tasks.back().round() == 1; }));
    if (whole()) {
        EXPECT_EQ(a.tasks.back().model_digest(), expected(world, base, yaml(2, 2, 2), {{&first}, {&second}}));
    }
    world.stop();
}

// FedBuff, two updates a version: the third is under way when the first version is made. It is taken out of
// that sum and counts in the next one, for less, being a version old.
TEST_P(ClosingTest, AnUploadThatOutlivesItsVersionCountsInTheNextOneForLess) {
    const std::string text = yaml(2, 3, 2) + "aggregation:\n  mode: async\n  buffer: 2\n";
    EngineWorld world(dir_.path() / "state", 2);
    world.submit(text, initial());
    Peer &a = world.join("a"), &b = world.join("b"), &c = world.join("c");
    ASSERT_TRUE(world.run_until([&] { return !a.tasks.empty() && !b.tasks.empty() && !c.tasks.empty(); }));
    const std::string base = a.tasks[0].model_digest();
    auto &first = sending(31), &second = sending(32), &slow = sending(33), &fresh = sending(34);
    slow.stop_at = 200'000;
    world.upload(c, slow);
    world.upload(a, first);
    world.upload(b, second);
    ASSERT_TRUE(world.run_until([&] { return a.tasks.size() == 2 && a.tasks[1].model_digest() != base; }));
    const std::string middle = a.tasks[1].model_digest();
    if (whole()) {
        EXPECT_EQ(middle, expected(world, base, text, {{&first, 1024}, {&second, 1024}}));
    }
    slow.go_on = true;
    world.upload(a, fresh);
    ASSERT_TRUE(world.run_until([&] {
        return !c.verdicts.empty() && a.tasks.back().kind() == protocol::TASK_KIND_EVALUATE;
    })) << world.fatal;
    EXPECT_EQ(c.verdicts[0].outcome(), protocol::OUTCOME_ACCEPTED);
    if (whole()) {
        EXPECT_EQ(a.tasks.back().model_digest(),
                  expected(world, middle, text, {{&slow, 724}, {&fresh, 1024}}));
    }
    world.stop();
}

// FedBuff, two updates a version, of six that are settled at about the same time and counted together: no
// version has a third, and none is lost.
TEST_P(ClosingTest, WhatIsCountedTogetherClosesNoRoundTwice) {
    for (const unsigned threads : {0u, 2u}) {
        const Path state = dir_.path() / "state";
        std::filesystem::remove_all(state);
        EngineWorld world(state, threads);
        const JobId job =
            world.submit(yaml(3, 6, 2) + "aggregation:\n  mode: async\n  buffer: 2\n", initial());
        std::vector<Peer*> peers;
        for (const char* name : {"a", "b", "c", "d", "e", "f"}) peers.push_back(&world.join(name));
        ASSERT_TRUE(world.run_until([&] { return !peers[5]->tasks.empty(); }));
        for (unsigned i = 0; i < 6; ++i) world.upload(*peers[i], sending(40 + i));
        ASSERT_TRUE(world.run_until([&] {
            return std::ranges::all_of(peers, [](const Peer* peer) { return !peer->verdicts.empty(); });
        })) << world.fatal;
        for (const Peer* peer : peers) EXPECT_EQ(peer->verdicts[0].outcome(), protocol::OUTCOME_ACCEPTED);
        std::set<ClientId> counted;
        for (std::uint32_t round = 0; round < 3; ++round) {
            const auto parts = *world.engine().ledger().contributions(job, RoundId(round));
            EXPECT_EQ(parts.size(), 2u) << "round " << round << ", threads " << threads;
            for (const auto& part : parts) counted.insert(part.client);
        }
        EXPECT_EQ(counted.size(), 6u);
        world.stop();
    }
}

// With memory for one upload at a time, eight come one after another, and none is lost.
TEST_P(ClosingTest, UploadsWaitForMemoryInOrder) {
    EngineWorld world(dir_.path() / "state", 2, std::uint64_t{3} << 19);
    world.submit(yaml(1, 8, 8), initial());
    std::vector<Peer*> peers;
    for (int i = 0; i < 8; ++i) peers.push_back(&world.join("client-" + std::to_string(i)));
    ASSERT_TRUE(world.run_until([&] { return !peers[7]->tasks.empty(); }));
    for (int i = 0; i < 8; ++i)
        world.upload(*peers[static_cast<std::size_t>(i)], sending(20 + static_cast<unsigned>(i)));
    double most = 0, waiting = 0;
    ASSERT_TRUE(world.run_until([&] {
        const std::string text = world.metrics().render();
        const auto value = [&](const std::string& name) {
            return std::stod(text.substr(text.find("\n" + name + " ") + name.size() + 2));
        };
        most = std::max(most, value("fedllm_upload_memory_bytes"));
        waiting = std::max(waiting, value("fedllm_uploads_waiting"));
        return std::ranges::all_of(peers, [](const Peer* peer) { return peer->verdicts.size() == 1; });
    }));
    EXPECT_LE(most, 3 << 19);
    EXPECT_GE(waiting, 6);
    for (const Peer* peer : peers) EXPECT_EQ(peer->verdicts[0].outcome(), protocol::OUTCOME_ACCEPTED);
    world.stop();
}

INSTANTIATE_TEST_SUITE_P(DownloadCodecs, ClosingTest, ::testing::Values("none", "deadzone"),
                         [](const auto& codec) { return std::string(codec.param); });

}  // namespace
}  // namespace fedllm::server::engine
