// The chain's bytes are fixed, and every input changes them.
#include "server/store/chain.hpp"

#include <gtest/gtest.h>

#include <set>

#include "server/store/ledger.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::store {
namespace {

PartRow contribution(const char* client, const char* digest) {
    PartRow part;
    part.client = ClientId(client);
    part.update_digest = digest;
    part.bytes = 123;
    part.weight = 40;
    part.codec = "deadzone";
    return part;
}

RoundRow first_round() {
    RoundRow round;
    round.job = JobId("j1");
    round.model_digest = "d0";
    round.next_digest = "d1";
    return round;
}

std::string chain_of(const std::string& before, const RoundRow& round, const std::vector<PartRow>& counted) {
    return chain_of_round(before, round, counted);
}

// Computed apart from this program (Python's hashlib), from the words in chain.hpp.
constexpr const char* kJob = "74244799d147329fc3a32830405f51feb980cf282db781c248b62fb386f0ac10";
constexpr const char* kRound = "740a1ed5e768273d441a936fc2560a52849c2472fd86cd674665b59e0322836e";

TEST(Chain, GoldenValues) {
    EXPECT_EQ(chain_of_job(JobId("j1"), "name: first\n", "d0"), kJob);
    EXPECT_EQ(chain_of(kJob, first_round(), {contribution("site-a", "u1"), contribution("site-b", "u2")}),
              kRound);
}

TEST(Chain, EveryInputChangesIt) {
    const PartRow a = contribution("site-a", "u1"), b = contribution("site-b", "u2");
    std::set<std::string> values;
    std::size_t variants = 0;
    const auto add = [&](const std::string& before, const RoundRow& round,
                         const std::vector<PartRow>& counted) {
        values.insert(chain_of(before, round, counted));
        ++variants;
    };
    add(kJob, first_round(), {a, b});
    add(kRound, first_round(), {a, b});
    add(kJob, first_round(), {b, a});
    add(kJob, first_round(), {a});
    add(kJob, first_round(), {});
    const auto with_round = [&](auto change) {
        RoundRow round = first_round();
        change(round);
        add(kJob, round, {a, b});
    };
    with_round([](RoundRow& round) { round.job = JobId("j2"); });
    with_round([](RoundRow& round) { round.round = RoundId(1); });
    with_round([](RoundRow& round) { round.model_digest = "d9"; });
    with_round([](RoundRow& round) { round.next_digest = "d9"; });
    const auto with_part = [&](auto change) {
        PartRow part = b;
        change(part);
        add(kJob, first_round(), {a, part});
    };
    with_part([](PartRow& part) { part.client = ClientId("site-c"); });
    with_part([](PartRow& part) { part.round = RoundId(1); });
    with_part([](PartRow& part) { part.update_digest = "u9"; });
    with_part([](PartRow& part) { part.bytes = 124; });
    with_part([](PartRow& part) { part.weight = 41; });
    with_part([](PartRow& part) { part.codec = "none"; });
    EXPECT_EQ(values.size(), variants);
    EXPECT_NE(chain_of_job(JobId("j1"), "name: first\n", "d1"), kJob);
    EXPECT_NE(chain_of_job(JobId("j2"), "name: first\n", "d0"), kJob);
    EXPECT_NE(chain_of_job(JobId("j1"), "name: other\n", "d0"), kJob);
}

// A part that waited for a later round is in that round's record, and in no other.
TEST(Chain, IsWrittenWithTheCommit) {
    const test::TempDir dir;
    Ledger ledger = *Ledger::open(dir.path());
    const JobId job = *ledger.add_job("first", "name: first\n", "d0", 1000, Timestamp{});
    EXPECT_EQ(ledger.job(job)->chain, kJob);
    const std::vector<ClientId> asked{ClientId("site-a"), ClientId("site-b"), ClientId("site-c")};
    RoundRow round = first_round();
    ASSERT_TRUE(ledger.open_round(round, asked));
    for (PartRow part : {contribution("site-b", "u2"), contribution("site-a", "u1")}) {
        part.job = job;
        ASSERT_TRUE(ledger.accept(part));
    }
    EXPECT_EQ(ledger.rounds(job)->at(0).chain, "");
    EXPECT_EQ(*ledger.chain(job), kJob);
    const RoundResult result{Timestamp{}, 1, 1};
    ASSERT_TRUE(ledger.commit_round(job, RoundId(0), result, {"d1", job, RoundId(1), 1000, Timestamp{}}));
    EXPECT_EQ(ledger.rounds(job)->at(0).chain, kRound);
    EXPECT_EQ(*ledger.chain(job), kRound);

    round.round = RoundId(1);
    round.model_digest = "d1";
    ASSERT_TRUE(ledger.open_round(round, asked));
    PartRow late = contribution("site-a", "u3");
    late.job = job;
    late.round = late.counted = RoundId(1);
    ASSERT_TRUE(ledger.accept(late));
    ASSERT_TRUE(ledger.commit_round(job, RoundId(1), result, {"d2", job, RoundId(2), 1000, Timestamp{}}));
    round.next_digest = "d2";
    EXPECT_EQ(ledger.rounds(job)->at(1).chain, chain_of(kRound, round, {late}));
    EXPECT_EQ(ledger.contributions(job, RoundId(0))->size(), 2u);
}

}  // namespace
}  // namespace fedllm::server::store
