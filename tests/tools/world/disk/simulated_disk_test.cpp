// The simulated disk does what it says: what was synced survives, anything else may not, and every outcome
// comes.
#include "tools/world/disk/simulated_disk.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "common/base/files.hpp"
#include "server/store/sqlite.hpp"
#include "server/store/state_directory.hpp"

namespace fedllm::tools::world {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string content(const Path& path) {
    const auto text = read_file(path);
    return text ? *text : std::string(name(text.error().code));
}

Result<void> write_unsynced(const Path& path, const std::string& text) {
    FEDLLM_TRY(const auto file, disk().open(path, Disk::Open::Replace));
    return file->write(0, bytes_of(text));
}

void cut_and_restart(SimulatedDisk& disk) {
    disk.crash();
    disk.reboot();
}

// What is left of what `prepare` does, over many seeds.
template <class Prepare, class Look>
std::set<std::string> outcomes(const Prepare& prepare, const Look& look) {
    std::set<std::string> seen;
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
        SimulatedDisk simulated(seed);
        const ScopedDisk scope(simulated);
        prepare();
        cut_and_restart(simulated);
        seen.insert(look());
    }
    return seen;
}

TEST(SimulatedDisk, WorksLikeADisk) {
    SimulatedDisk simulated(1);
    const ScopedDisk scope(simulated);
    ASSERT_TRUE(make_directories("/state/a/b"));
    ASSERT_TRUE(write_file_atomically("/state/a/f", "one"));
    ASSERT_TRUE(write_file_atomically("/state/a/f", "two"));
    EXPECT_EQ(content("/state/a/f"), "two");
    EXPECT_EQ(content("/state/a/g"), "not_found");
    EXPECT_EQ(disk().list("/state/a").value(), (std::vector<std::string>{"b", "f"})) << "no temporary files";
    ASSERT_TRUE(disk().link("a", "/state/latest"));
    EXPECT_EQ(content("/state/latest/f"), "two");
    EXPECT_EQ(disk().find("/state/latest").value()->kind, Disk::Status::Kind::Directory);
    EXPECT_FALSE(disk().find("/state/x/y").value());
    EXPECT_EQ(disk().open("/state/x/y", Disk::Open::Write).error().code, Errc::IoFailed);
    EXPECT_FALSE(disk().remove("/state/a")) << "it is not empty";
    ASSERT_TRUE(disk().remove("/state/a/f"));
    EXPECT_EQ(content("/state/a/f"), "not_found");
    EXPECT_NE(disk().create_unique("/state/u", ".part")->path,
              disk().create_unique("/state/u", ".part")->path);
    auto map = WritableMap::create("/state/m", 1'000);
    ASSERT_TRUE(map);
    map->bytes()[999] = std::byte{'x'};
    EXPECT_EQ(content("/state/m").back(), 'x');
}

TEST(SimulatedDisk, KeepsWhatWasSynced) {
    const auto seen =
        outcomes([] { ASSERT_TRUE(write_file_atomically("/f", "kept")); }, [] { return content("/f"); });
    EXPECT_EQ(seen, std::set<std::string>{"kept"});
}

TEST(SimulatedDisk, MapsAreSyncedWithTheirFile) {
    const auto seen = outcomes(
        [] {
            auto map = WritableMap::create("/t", 4);
            map->bytes()[0] = std::byte{'k'};
            ASSERT_TRUE(commit_file("/t", "/f"));
            map->bytes()[1] = std::byte{'x'};
        },
        [] { return content("/f").substr(0, 2); });
    EXPECT_EQ(seen, (std::set<std::string>{{'k', '\0'}, "kx"}));
    const auto later = outcomes(
        [] {
            auto map = WritableMap::create("/t", 4);
            ASSERT_TRUE(commit_file("/t", "/f"));
            map->bytes()[3] = std::byte{'k'};
            ASSERT_TRUE((*disk().open("/f", Disk::Open::Read))->sync());
        },
        [] { return content("/f").substr(3); });
    EXPECT_EQ(later, std::set<std::string>{"k"}) << "what is written through a map is known to no call";
}

TEST(SimulatedDisk, LosesKeepsAndTearsWhatWasNotSynced) {
    const std::string before(2'000, 'a'), after(3'000, 'b');
    std::set<std::string> seen = outcomes(
        [&] {
            ASSERT_TRUE(write_file_atomically("/f", before));
            const auto file = disk().open("/f", Disk::Open::Write);
            ASSERT_TRUE((*file)->write(0, bytes_of(after)));
        },
        [] { return content("/f"); });
    EXPECT_TRUE(seen.contains(before));
    EXPECT_TRUE(seen.contains(after));
    EXPECT_TRUE(seen.contains(std::string(512, 'b') + std::string(1'488, 'a'))) << "a prefix";
    EXPECT_TRUE(std::ranges::any_of(seen, [](const std::string& text) {
        return text.size() == 3'000 && text.back() == '\0';
    })) << "longer already, and zeros";
    EXPECT_TRUE(std::ranges::any_of(seen, [](const std::string& text) {
        return text.substr(0, 1'024) == std::string(512, 'a') + std::string(512, 'b');
    })) << "a later sector without an earlier one";
}

TEST(SimulatedDisk, WritesReachTheDiskInTheirOrderOrInNone) {
    constexpr std::size_t kSectors = 24;
    const auto seen = outcomes(
        [] {
            ASSERT_TRUE(write_file_atomically("/f", std::string(kSectors * 512, 'a')));
            const auto file = disk().open("/f", Disk::Open::Write);
            ASSERT_TRUE((*file)->write(0, bytes_of(std::string(kSectors * 512, 'b'))));
        },
        [] { return content("/f"); });
    const auto number = [](const std::string& text) { return std::ranges::count(text, 'b') / 512; };
    const auto is_prefix = [&](const std::string& text) {
        return static_cast<std::size_t>(number(text)) * 512 == std::min(text.find('a'), text.size());
    };
    const auto is_torn = [&](const std::string& text) { return number(text) > 3 && number(text) < 20; };
    EXPECT_TRUE(
        std::ranges::any_of(seen, [&](const auto& text) { return is_torn(text) && is_prefix(text); }));
    EXPECT_TRUE(
        std::ranges::any_of(seen, [&](const auto& text) { return is_torn(text) && !is_prefix(text); }));
}

TEST(SimulatedDisk, ANameWithoutASyncedFolderMayBeLost) {
    const auto seen = outcomes(
        [] {
            ASSERT_TRUE(write_file_atomically("/f", "old"));
            ASSERT_TRUE(write_unsynced("/t", "new"));
            ASSERT_TRUE((*disk().open("/t", Disk::Open::Read))->sync());
            ASSERT_TRUE(disk().rename("/t", "/f"));
        },
        [] { return content("/f") + " " + content("/t"); });
    EXPECT_EQ(seen, (std::set<std::string>{"old not_found", "old new", "new not_found"}));
}

TEST(SimulatedDisk, ARenameWithoutASyncedFileMayLeaveAnEmptyOne) {
    const auto seen = outcomes(
        [] {
            ASSERT_TRUE(write_unsynced("/t", "new"));
            ASSERT_TRUE(disk().rename("/t", "/f"));
            ASSERT_TRUE(disk().sync_directory("/"));
        },
        [] { return content("/f"); });
    EXPECT_TRUE(seen.contains(""));
    EXPECT_TRUE(seen.contains("new"));
}

TEST(SimulatedDisk, AFailedSyncMayLoseBytesThatReadAsWritten) {
    std::set<std::string> seen;
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
        SimulatedDisk simulated(seed);
        const ScopedDisk scope(simulated);
        ASSERT_TRUE(write_file_atomically("/f", "old"));
        const auto file = *disk().open("/f", Disk::Open::Write);
        ASSERT_TRUE(file->write(0, bytes_of("new")));
        simulated.fail_at(simulated.operations() + 1, Fault::IoError);
        EXPECT_EQ(file->sync().error().code, Errc::IoFailed);
        const std::string read = content("/f");
        ASSERT_TRUE(file->sync()) << "it says so";
        simulated.crash();
        simulated.reboot();
        seen.insert(read + " " + content("/f"));
    }
    EXPECT_EQ(seen, (std::set<std::string>{"new new", "new old", "old old"}));
}

TEST(SimulatedDisk, FaultsComeWhereTheyAreOrdered) {
    SimulatedDisk simulated(1);
    const ScopedDisk scope(simulated);
    ASSERT_TRUE(write_file_atomically("/f", "old"));
    const std::uint64_t before = simulated.operations();
    ASSERT_TRUE(write_file_atomically("/f", "old"));
    const std::uint64_t each = simulated.operations() - before;
    EXPECT_EQ(each, 5u) << "create, write, sync, rename, sync the folder";
    for (const Fault fault : {Fault::IoError, Fault::NoSpace}) {
        for (std::uint64_t k = 1; k <= each; ++k) {
            simulated.fail_at(simulated.operations() + k, fault);
            EXPECT_EQ(write_file_atomically("/f", "new").error().code, Errc::IoFailed) << k;
            EXPECT_EQ(content("/f"), k == each ? "new" : "old");
        }
        ASSERT_TRUE(write_file_atomically("/f", "old"));
        EXPECT_EQ(simulated.seen().io_errors, each);
        EXPECT_EQ(simulated.seen().full, fault == Fault::NoSpace ? each : 0u);
    }
    simulated.fail_at(simulated.operations() + 2, Fault::Crash);
    EXPECT_FALSE(write_file_atomically("/f", "new"));
    EXPECT_TRUE(simulated.crashed());
    EXPECT_FALSE(read_file("/f")) << "everything fails";
    simulated.reboot();
    EXPECT_EQ(content("/f"), "old");
}

TEST(SimulatedDisk, WhatWasOpenAtACrashIsDead) {
    SimulatedDisk simulated(1);
    const ScopedDisk scope(simulated);
    const Path state = "/state";
    auto held = server::store::StateDirectory::open(state);
    ASSERT_TRUE(held) << held.error().message;
    EXPECT_EQ(server::store::StateDirectory::open(state).error().code, Errc::AlreadyExists);
    const auto file = *disk().open("/state/f", Disk::Open::Write);
    auto map = WritableMap::create("/state/m", 3);
    ASSERT_TRUE(commit_file("/state/m", "/state/n"));
    ASSERT_TRUE(disk().sync_directory("/"));
    cut_and_restart(simulated);
    EXPECT_FALSE(file->write(0, bytes_of("x")));
    EXPECT_FALSE(file->sync());
    map->bytes()[0] = std::byte{'x'};
    EXPECT_EQ(content("/state/n"), std::string(3, '\0'));
    EXPECT_TRUE(server::store::StateDirectory::open(state)) << "a lock ends with its process";
}

TEST(SimulatedDisk, RatesAreDrawnFromTheSeed) {
    const auto run = [](std::uint64_t seed) {
        SimulatedDisk simulated(seed);
        simulated.set_rates({.io_error = 10, .no_space = 10, .crash = 100});
        const ScopedDisk scope(simulated);
        std::string story;
        for (int i = 0; i < 300; ++i) {
            story += write_file_atomically("/f", std::to_string(i)) ? '.' : 'x';
            if (!simulated.crashed()) continue;
            simulated.reboot();
            story += '!';
        }
        EXPECT_GT(simulated.seen().io_errors, 0u);
        EXPECT_GT(simulated.seen().full, 0u);
        EXPECT_GT(simulated.seen().crashes, 0u);
        return story;
    };
    EXPECT_EQ(run(1), run(1));
    EXPECT_NE(run(1), run(2));
}

TEST(SimulatedDisk, ReadsFailToo) {
    SimulatedDisk simulated(1);
    const ScopedDisk scope(simulated);
    ASSERT_TRUE(write_file_atomically("/f", "text"));
    const std::uint64_t before = simulated.operations();
    simulated.set_rates({.io_error = 10});
    int failed = 0;
    for (int i = 0; i < 300; ++i) failed += content("/f") != "text";
    EXPECT_GT(failed, 5);
    EXPECT_LT(failed, 150);
    EXPECT_EQ(simulated.operations(), before) << "they change nothing";
}

// SQLite promises that what was committed is there; it must keep that promise here too.
TEST(SimulatedDisk, ADatabaseOnItKeepsWhatWasCommitted) {
    using server::store::Database;
    std::uint64_t crashes = 0;
    for (std::uint64_t k = 1;; ++k) {
        SimulatedDisk simulated(k);
        const ScopedDisk scope(simulated);
        simulated.fail_at(k, Fault::Crash);
        std::int64_t committed = 0;
        const auto fill = [&]() -> Result<void> {
            FEDLLM_TRY(const auto database, Database::open("/ledger.db"));
            FEDLLM_TRY_VOID(database->execute("CREATE TABLE t(n INTEGER PRIMARY KEY, pad TEXT)"));
            for (int i = 1; i <= 10; ++i) {
                FEDLLM_TRY_VOID(database->execute("INSERT INTO t VALUES(" + std::to_string(i) +
                                                  ", hex(zeroblob(3000)))"));
                committed = i;
                if (i == 5) FEDLLM_TRY_VOID(database->execute("PRAGMA wal_checkpoint(TRUNCATE)"));
            }
            return {};
        };
        const auto filled = fill();
        // Closing checkpoints, and tells nobody when that fails.
        EXPECT_TRUE(filled || simulated.crashed()) << filled.error().message;
        if (!simulated.crashed()) break;
        ++crashes;
        simulated.reboot();
        auto database = Database::open("/ledger.db");
        ASSERT_TRUE(database) << k << ": " << database.error().message;
        auto check = (*database)->prepare("PRAGMA integrity_check");
        ASSERT_TRUE(check && check->step().value());
        EXPECT_EQ(check->text(0), "ok") << k;
        if (committed == 0) continue;
        auto count = (*database)->prepare("SELECT max(n) FROM t");
        ASSERT_TRUE(count && count->step()) << k;
        EXPECT_GE(count->integer(0), committed) << k;
        EXPECT_LE(count->integer(0), committed + 1) << k;
    }
    EXPECT_GT(crashes, 40u);
}

}  // namespace
}  // namespace fedllm::tools::world
