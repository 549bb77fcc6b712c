// What an engine says, writes and reads, and in which order.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "common/log/log.hpp"
#include "tests/server/engine/engine_world.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::engine {
namespace {

using test::EngineWorld;
using test::Peer;

class PromisesTest : public ::testing::Test {
protected:
    static tensor::Manifest manifest() { return *tensor::Manifest::create({{"a.weight", {10, 100}}}); }
    static std::string yaml(int rounds) {
        return "name: promises\nbase_model: base\nmethod: full\nrounds: " + std::to_string(rounds) +
               "\nclients_per_round: 1\nclients_minimum: 1\nsamples_max: 100\nupdate:\n  codec: "
               "none\ndownload:\n  "
               "codec: none\n";
    }
    Path state() const { return dir_.path() / "state"; }
    EngineWorld::Sending update() const {
        EngineWorld::Sending sending{
            .bytes = std::as_bytes(std::span(values_)), .digest = {}, .codec = "none"};
        sending.digest = crypto::to_hex(crypto::sha256(sending.bytes));
        return sending;
    }
    // Answers the peer's latest task; until the next one comes.
    void take_part(EngineWorld& world, Peer& peer) {
        ASSERT_TRUE(world.run_until([&] { return !peer.tasks.empty(); }));
        const std::size_t tasks = peer.tasks.size();
        auto sending = update();
        world.upload(peer, sending);
        ASSERT_TRUE(world.run_until([&] { return sending.done && peer.tasks.size() > tasks; }))
            << world.fatal;
    }

    fedllm::test::TempDir dir_;
    std::vector<float> values_ = std::vector<float>(manifest().elements(), 1e-3f);
};

// Another connection to the ledger sees what is committed, and nothing else.
TEST_F(PromisesTest, WhatIsLoggedIsCommitted) {
    int updates = 0, rounds = 0;
    log::setup(
        {.format = log::Format::Human, .level = log::Level::Info, .sink = [&](std::string_view line) {
             const bool update = line.find("update accepted") != std::string_view::npos;
             const bool round = line.find("round committed") != std::string_view::npos;
             if (!update && !round) return;
             const auto ledger = *store::Ledger::open_to_read(state());
             const RoundId now(static_cast<std::uint32_t>(rounds));
             if (update) {
                 const auto part = *ledger.part(JobId("j1"), now, ClientId("a"));
                 EXPECT_TRUE(part && part->status == store::PartStatus::Accepted) << line;
                 ++updates;
             } else {
                 EXPECT_EQ(ledger.rounds(JobId("j1"))->at(now.get()).status, store::RoundStatus::Committed)
                     << line;
                 ++rounds;
             }
         }});
    {
        EngineWorld world(state(), 0);
        world.submit(yaml(2), tensor::ParamSet(manifest()));
        Peer& peer = world.join("a");
        take_part(world, peer);
        take_part(world, peer);
        world.stop();
    }
    log::setup({});
    EXPECT_EQ(updates, 2);
    EXPECT_EQ(rounds, 2);
}

// Something of what the pool has to do about the second version, its adapter among others, takes so long that
// there is a third: never two adapters at once, and the older one not last.
TEST_F(PromisesTest, AJobsAdaptersAreWrittenOneAtATime) {
    int adapters_held = 0;
    // A loaded machine needs longer until it is seen to go on.
    for (int i = 0; i < 7 || (adapters_held == 0 && i < 21); ++i) {
        const int number = 8 + i % 7;
        const double patience = i < 7 ? 0.3 : 3;
        const Path adapters = state() / "adapters" / "j1";
        std::filesystem::remove_all(state());
        EngineWorld world(state(), 0);
        world.submit(yaml(5), tensor::ParamSet(manifest()));
        Peer& peer = world.join("a");
        take_part(world, peer);
        const auto latest = [&] {
            std::error_code none;
            return std::filesystem::read_symlink(adapters / "latest", none).string();
        };
        ASSERT_TRUE(world.run_until([&] { return latest() == "round-0001"; }));
        world.hold_back(number);
        take_part(world, peer);
        auto third = update();
        world.upload(peer, third);
        const auto is_third = [&] { return peer.tasks.size() == 4; };
        const bool went_on = world.run_until(is_third, patience);
        (void)world.run_until([] { return false; }, 0.1);
        adapters_held += went_on && world.holds() && latest() == "round-0001";
        if (world.holds()) world.let_go();
        ASSERT_TRUE(world.run_until(is_third)) << world.fatal;
        EXPECT_TRUE(world.run_until([&] { return latest() == "round-0003"; })) << latest() << world.fatal;
        world.stop();
        EXPECT_EQ(latest(), "round-0003") << "held back: " << number;
    }
    EXPECT_GT(adapters_held, 0);
}

// Something of what the pool has to do behind the last update takes long: the version is evaluated meanwhile,
// but nobody has a verdict on that before it is on the disk, and no job ends before its adapter is there.
TEST_F(PromisesTest, TheLastVersionIsEvaluatedBeforeItIsOnTheDisk) {
    int without_verdict = 0, without_adapter = 0;
    for (int number = 4; number < 14; ++number) {
        std::filesystem::remove_all(state());
        EngineWorld world(state(), 0);
        world.submit(yaml(1), tensor::ParamSet(manifest()));
        Peer& peer = world.join("a");
        ASSERT_TRUE(world.run_until([&] { return !peer.tasks.empty(); }));
        world.hold_back(number);
        auto sending = update();
        world.upload(peer, sending);
        const auto asked = [&] { return peer.tasks.size() == 2; };
        const auto judged = [&] { return peer.verdicts.size() == 2; };
        const auto finished = [&] {
            return store::Ledger::open_to_read(state())->job(JobId("j1"))->status ==
                   store::JobStatus::Finished;
        };
        const auto exported = [&] { return std::filesystem::exists(state() / "adapters" / "j1" / "latest"); };
        const bool asked_at_once = world.run_until(asked, 0.3);
        if (asked_at_once) {
            world.evaluate(peer);
            (void)world.run_until(finished, 0.3);
            EXPECT_TRUE(exported() || !finished()) << number;
            without_verdict += world.holds() && !judged();
            without_adapter += world.holds() && judged() && !exported();
        }
        if (world.holds()) world.let_go();
        ASSERT_TRUE(world.run_until(asked)) << world.fatal;
        if (!asked_at_once) world.evaluate(peer);
        ASSERT_TRUE(world.run_until(finished)) << number << world.fatal;
        EXPECT_TRUE(exported());
        world.stop();
    }
    EXPECT_GT(without_verdict, 0);
    EXPECT_GT(without_adapter, 0);
}

// What an earlier version still has to do is late, and writes the last one's adapter, too, before that one is
// on the disk. The verdict on an evaluation tells that it is.
TEST_F(PromisesTest, AnotherVersionsAdapterDeliversNothing) {
    bool seen = false;  // which of what goes to the pool is which, only a search tells
    for (int place = 0; place < 30 && !seen; ++place) {
        const int first = 8 + place / 6, gap = 5 + place % 6;
        std::filesystem::remove_all(state());
        EngineWorld world(state(), 0);
        world.submit(yaml(2), tensor::ParamSet(manifest()));
        Peer& peer = world.join("a");
        ASSERT_TRUE(world.run_until([&] { return !peer.tasks.empty(); }));
        const auto asked = [&](std::size_t tasks) {
            return world.run_until([&] { return peer.tasks.size() == tasks; }, 0.1);
        };
        const auto finished = [&] {
            return store::Ledger::open_to_read(state())->job(JobId("j1"))->status ==
                   store::JobStatus::Finished;
        };
        world.hold_back(first, {gap});
        auto one = update(), two = update();
        world.upload(peer, one);
        const bool second = asked(2);
        if (second) world.upload(peer, two);
        if (second && asked(3)) {
            world.evaluate(peer);
            world.decline(peer);
            if (world.holds()) world.let_go();
            (void)world.run_until(finished, 0.1);
            std::error_code none;
            const Path latest = std::filesystem::read_symlink(state() / "adapters" / "j1" / "latest", none);
            const bool durable = peer.verdicts.size() == 3;
            EXPECT_TRUE(durable || !finished()) << first << " " << gap;
            seen = !durable && latest == "round-0002";
            while (world.holds()) world.let_go();
            ASSERT_TRUE(world.run_until(finished)) << world.fatal;
        }
        while (world.holds()) world.let_go();
        world.stop();
    }
    EXPECT_TRUE(seen);
}

// The system's disk, but for a count of how often each file was opened.
class CountingDisk final : public Disk {
public:
    Result<std::unique_ptr<DiskFile>> open(const Path& path, Open how, FileMode mode) override {
        ++opened[path.filename()];
        return real_.open(path, how, mode);
    }
    Result<NewFile> create_unique(const Path& prefix, std::string_view suffix) override {
        return real_.create_unique(prefix, suffix);
    }
    Result<std::optional<Status>> find(const Path& path) override { return real_.find(path); }
    Result<std::vector<std::string>> list(const Path& folder) override { return real_.list(folder); }
    Result<void> make_directory(const Path& path) override { return real_.make_directory(path); }
    Result<void> link(const Path& target, const Path& path) override { return real_.link(target, path); }
    Result<void> rename(const Path& from, const Path& to) override { return real_.rename(from, to); }
    Result<void> remove(const Path& path) override { return real_.remove(path); }
    Result<void> sync_directory(const Path& folder) override { return real_.sync_directory(folder); }
    void release(std::span<const std::byte> mapped) override { real_.release(mapped); }

    std::map<std::string, int> opened;

private:
    Disk& real_ = disk();
};

TEST_F(PromisesTest, AStartHashesTheNewestVersionOnce) {
    std::string newest;
    {
        EngineWorld world(state(), 0);
        world.submit(yaml(3), tensor::ParamSet(manifest()));
        Peer& peer = world.join("a");
        take_part(world, peer);
        newest = peer.tasks.back().model_digest();
        world.stop();
    }
    CountingDisk counting;
    const ScopedDisk scope(counting);
    EngineWorld world(state(), 0);
    EXPECT_EQ(counting.opened[newest + ".safetensors"], 3)
        << "its bytes are hashed, its names read, it is synced";
    Peer& peer = world.join("a");
    ASSERT_TRUE(world.run_until([&] { return !peer.tasks.empty(); }));
    EXPECT_EQ(peer.tasks[0].model_digest(), newest);
    world.stop();
}

TEST_F(PromisesTest, WhyTellsWhoOffersAnotherBaseModel) {
    EngineWorld world(state(), 0);
    world.submit(yaml(1), tensor::ParamSet(manifest()));
    Peer peer("b");
    protocol::Hello hello;
    hello.add_base_models("another");
    world.engine().join(ClientId("b"), hello, peer);
    const auto why = world.engine().why("b");
    ASSERT_TRUE(why) << to_string(why.error());
    EXPECT_EQ(why->reason(), "idle");
    EXPECT_NE(why->sentence().find("j1 trains base model 'base', which it does not offer"), std::string::npos)
        << why->sentence();
    const auto job = world.engine().why("j1");
    EXPECT_NE(job->sentence().find("(nobody suitable is connected), connected without it: b; then"),
              std::string::npos)
        << job->sentence();
    EXPECT_TRUE(peer.tasks.empty());
    world.stop();
}

TEST_F(PromisesTest, WhyTellsWhatAClientDeclinedFor) {
    EngineWorld world(state(), 0);
    world.submit(yaml(1), tensor::ParamSet(manifest()));
    Peer& peer = world.join("a");
    ASSERT_TRUE(world.run_until([&] { return !peer.tasks.empty(); }));
    world.decline(peer, "the clip norm is above this site's policy");
    const auto why = world.engine().why("a");
    EXPECT_NE(why->sentence().find("it declined round 0 of j1: the clip norm is above this site's policy"),
              std::string::npos)
        << why->sentence();
    world.stop();
}

}  // namespace
}  // namespace fedllm::server::engine
