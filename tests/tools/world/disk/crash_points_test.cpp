// A job of three rounds on a disk that fails at every single operation in turn: by a power cut, an I/O error,
// no space. Whatever happens, the job ends with the model of the undisturbed run, everything that was
// acknowledged is counted once, and what the server says is on disk is there.
#include <set>

#include "common/log/log.hpp"
#include "tests/tools/world/disk/server_life.hpp"

namespace fedllm::tools::world::test {
namespace {

constexpr int kLivesMax = 6;
constexpr std::uint64_t kOutcomes = 4;  // power cuts at the same operation, each with other losses

struct Story {
    Memory memory;
    std::uint64_t operations = 0;
    std::string last_end;  // why the last process but the final one ended
};

// Lives until the job is over; what the ledger then says is compared with what the sites were told.
void run_to_the_end(SimulatedDisk& disk, Story& story) {
    const ScopedDisk scope(disk);
    while (story.memory.final_digest.empty()) {
        ASSERT_LT(story.memory.lives, kLivesMax) << "no end in sight: " << story.last_end;
        const auto ended = ServerLife(disk, story.memory).run();
        if (!ended) story.last_end = to_string(ended.error());
        if (disk.crashed()) disk.reboot();
    }
    story.operations = disk.operations();
    disk.stop_faults();
    disk.crash();  // nothing that was said may hang on luck
    disk.reboot();
}

void check_the_books(SimulatedDisk& disk, const Story& story) {
    const ScopedDisk scope(disk);
    EXPECT_EQ(story.memory.complaints, std::vector<std::string>{});
    const auto ledger = server::store::Ledger::open(kState);
    ASSERT_TRUE(ledger) << ledger.error().message;
    const auto versions = *server::store::Versions::open(kState);
    const auto jobs = *ledger->jobs();
    ASSERT_EQ(jobs.size(), 1u);
    EXPECT_EQ(jobs[0].status, server::store::JobStatus::Finished) << jobs[0].detail;
    EXPECT_EQ(jobs[0].model_digest, story.memory.final_digest);
    std::map<std::string, std::string> counted;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
        const auto parts = *ledger->parts(jobs[0].id, RoundId(round));
        for (const auto& part : parts) {
            EXPECT_EQ(part.status, server::store::PartStatus::Accepted) << part.task.get();
            EXPECT_TRUE(counted.emplace(part.task.get(), part.update_digest).second);
        }
    }
    EXPECT_EQ(counted.size(), kRounds * kSites.size());
    for (const auto& [task, digest] : story.memory.promised) EXPECT_EQ(counted[task], digest) << task;
    const auto rows = *ledger->versions(jobs[0].id);
    EXPECT_EQ(rows.size(), kRounds + 1);
    for (const auto& row : rows) EXPECT_TRUE(versions.map(row.digest)) << row.round.get();
    const Path latest = kState / "adapters/j1/latest";
    const auto adapter = formats::read_peft_adapter(latest);
    ASSERT_TRUE(adapter) << adapter.error().message;
    const auto weights = *MappedFile::open(latest / "adapter_model.safetensors");
    EXPECT_EQ(crypto::to_hex(crypto::sha256(weights.bytes())), story.memory.final_digest);
}

// Files of the versions folder that no row of the ledger names.
std::size_t unnamed_versions() {
    const auto ledger = *server::store::Ledger::open(kState);
    const auto versions = *server::store::Versions::open(kState);
    std::set<Path> named;
    const auto jobs = *ledger.jobs();
    for (const auto& job : jobs) {
        const auto rows = *ledger.versions(job.id);
        for (const auto& row : rows) {
            for (const Path& path : versions.paths_of(row)) named.insert(path);
        }
    }
    const auto names = *disk().list(kState / "versions");
    return static_cast<std::size_t>(std::ranges::count_if(
        names, [&](const std::string& name) { return !named.contains(kState / "versions" / name); }));
}

class CrashPoints : public ::testing::Test {
protected:
    CrashPoints() {
        log::setup({.level = log::Level::Error, .sink = [](std::string_view) {}});
        SimulatedDisk disk(0);
        run_to_the_end(disk, undisturbed_);
        check_the_books(disk, undisturbed_);
    }

    // The job with one disturbance. False when it came too late to disturb.
    void disturb(std::uint64_t seed, std::uint64_t operation, Fault fault, std::uint64_t times) {
        SCOPED_TRACE("operation " + std::to_string(operation) + ", seed " + std::to_string(seed) +
                     ", times " + std::to_string(times));
        SimulatedDisk disk(seed);
        disk.fail_at(operation, fault, times);
        Story story;
        run_to_the_end(disk, story);
        if (HasFatalFailure()) return;
        check_the_books(disk, story);
        EXPECT_EQ(story.memory.final_digest, undisturbed_.memory.final_digest);
        torn_ += disk.seen().files_torn;
        lost_ += disk.seen().files_lost;
        names_lost_ += disk.seen().names_lost;
        restarts_ += static_cast<std::uint64_t>(story.memory.lives - 1);
    }

    Story undisturbed_;
    std::uint64_t torn_ = 0, lost_ = 0, names_lost_ = 0, restarts_ = 0;
};

TEST_F(CrashPoints, EveryPowerCutLeadsToTheUndisturbedModel) {
    ASSERT_EQ(undisturbed_.memory.lives, 1);
    std::uint64_t points = 0;
    for (std::uint64_t operation = 1; operation <= undisturbed_.operations; ++operation) {
        for (std::uint64_t seed = 0; seed < kOutcomes; ++seed, ++points) {
            disturb(seed * 1'000'003 + operation, operation, Fault::Crash, 1);
            if (HasFailure()) return;
        }
    }
    EXPECT_GE(points, 1'000u);
    EXPECT_GE(restarts_, points * 9 / 10) << "the last operations are those of a process that ends anyway";
    EXPECT_GT(torn_, 0u);
    EXPECT_GT(lost_, 0u);
    EXPECT_GT(names_lost_, 0u);
    RecordProperty("points", static_cast<int>(points));
    std::printf("%llu crash points: %llu files lost, %llu torn, %llu names lost\n",
                static_cast<unsigned long long>(points), static_cast<unsigned long long>(lost_),
                static_cast<unsigned long long>(torn_), static_cast<unsigned long long>(names_lost_));
}

// No start computes again what a job that is over has lost.
TEST_F(CrashPoints, AStoppedJobKeepsItsVersionsOverEveryPowerCut) {
    Story undisturbed;
    undisturbed.memory.stop = Memory::Stop::AtAVersion;
    SimulatedDisk calm(0);
    run_to_the_end(calm, undisturbed);
    ASSERT_EQ(undisturbed.memory.lives, 1);
    const std::uint64_t committed = undisturbed.memory.stopped_at;
    ASSERT_GT(committed, 0u);
    for (std::uint64_t operation = committed; operation <= undisturbed.operations; ++operation) {
        for (std::uint64_t seed = 0; seed < kOutcomes; ++seed) {
            SCOPED_TRACE("operation " + std::to_string(operation) + ", seed " + std::to_string(seed));
            SimulatedDisk disk(seed * 1'000'003 + operation);
            disk.fail_at(operation, Fault::Crash);
            Story story;
            story.memory.stop = Memory::Stop::AtAVersion;
            run_to_the_end(disk, story);
            if (HasFatalFailure()) return;
            EXPECT_EQ(story.memory.complaints, std::vector<std::string>{});
            const ScopedDisk scope(disk);
            const auto ledger = server::store::Ledger::open(kState);
            const auto versions = *server::store::Versions::open(kState);
            const auto rows = *ledger->versions(JobId("j1"));
            EXPECT_GE(rows.size(), 2u);
            for (const auto& row : rows) {
                const auto version = versions.map(row.digest);
                EXPECT_TRUE(version) << row.round.get() << ": " << version.error().message;
            }
            EXPECT_EQ((*ledger->job(JobId("j1"))).status, server::store::JobStatus::Stopped);
            if (HasFailure()) return;
        }
    }
}

// Between a version's name and its row: where its job is then stopped, nobody makes it again.
TEST_F(CrashPoints, AVersionWithoutARowIsGoneAfterTheNextStart) {
    std::uint64_t left_behind = 0;
    for (std::uint64_t operation = 1; operation <= undisturbed_.operations; ++operation) {
        SCOPED_TRACE("operation " + std::to_string(operation));
        SimulatedDisk disk(operation);
        disk.fail_at(operation, Fault::Crash);
        Story story;
        story.memory.stop = Memory::Stop::AfterACrash;
        run_to_the_end(disk, story);
        if (HasFatalFailure()) return;
        const ScopedDisk scope(disk);
        left_behind += unnamed_versions() > 0;
        ASSERT_TRUE(ServerLife(disk, story.memory).run());
        ASSERT_EQ(unnamed_versions(), 0u);
    }
    EXPECT_GT(left_behind, 0u);
    std::printf("%llu crash points left a version without a row\n",
                static_cast<unsigned long long>(left_behind));
}

TEST_F(CrashPoints, EveryIoErrorLeadsToTheUndisturbedModel) {
    for (std::uint64_t operation = 1; operation <= undisturbed_.operations; ++operation) {
        for (const std::uint64_t times : {1, 3}) disturb(operation, operation, Fault::IoError, times);
        if (HasFailure()) return;
    }
}

TEST_F(CrashPoints, EveryFullDiskLeadsToTheUndisturbedModel) {
    for (std::uint64_t operation = 1; operation <= undisturbed_.operations; ++operation) {
        for (const std::uint64_t times : {1, 3}) disturb(operation, operation, Fault::NoSpace, times);
        if (HasFailure()) return;
    }
}

}  // namespace
}  // namespace fedllm::tools::world::test
