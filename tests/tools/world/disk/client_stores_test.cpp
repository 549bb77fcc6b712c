// A client's stores on a disk that fails at every operation in turn. What encoding left out of one update is
// added to at most one other, and only where the first was counted; a version that is held is whole.
#include <gtest/gtest.h>

#include <map>

#include "client/agent/version_store.hpp"
#include "client/update/update_store.hpp"
#include "common/crypto/sha256.hpp"
#include "tools/world/disk/simulated_disk.hpp"

namespace fedllm::client {
namespace {

using tools::world::Fault;
using tools::world::SimulatedDisk;

const Path kState = "/home/site";
constexpr std::uint32_t kRounds = 4;

std::string hash_of(std::span<const std::byte> bytes) { return crypto::to_hex(crypto::sha256(bytes)); }
std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string version_of(std::uint32_t round) {
    std::string text;
    Rng rng(round, "version");
    while (text.size() < 2'000) text += std::to_string(rng.next_u64());
    return text;
}

// The server remembers which residual each counted update held: 1 + the round that left it, 0 for none.
struct Server {
    std::map<std::uint32_t, std::uint32_t> counted;
    std::uint32_t round() const { return static_cast<std::uint32_t>(counted.size()); }
};

tensor::Manifest manifest() { return *tensor::Manifest::create({{"w", {200}}}); }

// One process, in the order of client/agent.
Result<void> live(Server& server, std::vector<std::string>& complaints) {
    FEDLLM_TRY(const auto versions, agent::VersionStore::open(kState / "versions"));
    FEDLLM_TRY(const auto updates, update::UpdateStore::open(kState / "updates"));
    while (server.round() < kRounds) {
        const std::uint32_t round = server.round();
        const TaskId task("j1/" + std::to_string(round) + "/site");
        const update::ResidualStore::Key key{JobId("j1"), "name: job", RoundId(round)};
        updates.drop_all_but(task);
        const TaskId counted(round == 0 ? "" : "j1/" + std::to_string(round - 1) + "/site");
        updates.residuals().settle_others(task, key.job, counted);
        auto claim = updates.find(task);
        if (!claim) {
            const std::string version = version_of(round);
            const std::string digest = hash_of(bytes_of(version));
            versions.prune(2, {digest});
            while (!versions.complete(digest, version.size())) {
                FEDLLM_TRY(auto writer, versions.resume(digest, version.size()));
                const auto rest = bytes_of(version).subspan(writer.held());
                FEDLLM_TRY_VOID(
                    writer.append(writer.held(), rest.first(std::min<std::size_t>(700, rest.size()))));
            }
            const auto verified = versions.verify(digest);
            if (!verified && verified.error().code == Errc::DigestMismatch) continue;  // fetched again
            if (!verified) return verified.error();
            FEDLLM_TRY(const MappedFile held, MappedFile::open(*verified));
            if (hash_of(held.bytes()) != digest) complaints.push_back("a version that is held is damaged");

            const auto residual = updates.residuals().load(key, manifest());
            const std::uint32_t from = residual ? static_cast<std::uint32_t>(residual->values()[0]) : 0;
            tensor::ParamSet left(manifest());
            for (float& value : left.values()) value = static_cast<float>(round + 1);
            FEDLLM_TRY_VOID(updates.residuals().stage(task, key, left));
            const std::string bytes = std::to_string(from) + std::string(1'500, 'u');
            claim = update::Claim{
                .digest = hash_of(bytes_of(bytes)), .bytes = bytes.size(), .samples = 1, .tokens = 1};
            FEDLLM_TRY_VOID(updates.save(task, *claim, bytes_of(bytes)));
        }
        FEDLLM_TRY(const MappedFile update, updates.map(task));
        if (hash_of(update.bytes()) != claim->digest) complaints.push_back("an offered update is damaged");
        server.counted[round] = static_cast<std::uint32_t>(static_cast<char>(update.bytes()[0]) - '0');
        updates.drop(task);
        updates.residuals().keep(task);
    }
    return {};
}

// Lives until all rounds are counted, each reboot after a crash.
void run(SimulatedDisk& disk, std::string& residuals_used) {
    const ScopedDisk scope(disk);
    Server server;
    std::vector<std::string> complaints;
    for (int lives = 0; server.round() < kRounds; ++lives) {
        ASSERT_LT(lives, 6) << "no end";
        const auto ended = live(server, complaints);
        ASSERT_TRUE(ended || ended.error().code == Errc::IoFailed) << to_string(ended.error());
        if (disk.crashed()) disk.reboot();
    }
    EXPECT_EQ(complaints, std::vector<std::string>{});
    std::map<std::uint32_t, int> used;
    for (const auto& [round, from] : server.counted) {
        if (from == 0) continue;
        EXPECT_LT(from, round + 1) << "a residual of a round that is not before";
        EXPECT_EQ(++used[from], 1) << "the residual of round " << from - 1 << " is counted twice";
    }
    residuals_used = std::to_string(used.size());
}

TEST(ClientStores, AResidualIsCountedAtMostOnceWhateverTheDiskDoes) {
    SimulatedDisk undisturbed(0);
    std::string used;
    run(undisturbed, used);
    EXPECT_EQ(used, "3") << "each but the last";
    std::map<std::string, int> seen;
    for (std::uint64_t operation = 1; operation <= undisturbed.operations(); ++operation) {
        for (const Fault fault : {Fault::Crash, Fault::Crash, Fault::Crash, Fault::IoError, Fault::NoSpace}) {
            const std::uint64_t seed = seen["runs"]++ + operation;
            SCOPED_TRACE("operation " + std::to_string(operation) + ", seed " + std::to_string(seed) +
                         ", fault " + std::to_string(static_cast<int>(fault)));
            SimulatedDisk disk(seed);
            disk.fail_at(operation, fault, fault == Fault::IoError ? 2 : 1);
            run(disk, used);
            if (HasFailure()) return;
            ++seen[used];
        }
    }
    EXPECT_GT(seen["3"], seen["runs"] / 2) << "most are not forgotten";
    EXPECT_GT(seen["2"], 0);
}

}  // namespace
}  // namespace fedllm::client
