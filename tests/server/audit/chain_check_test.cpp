// Whatever is changed in the ledger behind the server's back, the audit names the round.
#include <gtest/gtest.h>

#include "server/audit/audit.hpp"
#include "server/store/chain.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::audit {
namespace {

// Three rounds of two clients.
class ChainCheckTest : public ::testing::Test {
protected:
    ChainCheckTest() {
        store::Ledger ledger = *store::Ledger::open(dir_.path());
        job_ = *ledger.add_job("first", "name: first\n", "d0", 1000, Timestamp{});
        for (std::uint32_t round = 0; round < 3; ++round) commit(ledger, round);
        noted_ = report().rounds.at(1).chain;
    }

    void commit(store::Ledger& ledger, std::uint32_t number) {
        store::RoundRow round;
        round.job = job_;
        round.round = RoundId(number);
        round.model_digest = std::string("d").append(std::to_string(number));
        const std::vector<ClientId> asked{ClientId("ash"), ClientId("birch"), ClientId("cedar")};
        ASSERT_TRUE(ledger.open_round(round, asked));
        for (const char* client : {"ash", "birch"}) {
            store::PartRow part;
            part.job = job_;
            part.round = part.counted = round.round;
            part.client = ClientId(client);
            part.update_digest = std::string("u-").append(client).append(std::to_string(number));
            part.weight = 10 + number;
            part.bytes = 100;
            ASSERT_TRUE(ledger.accept(part));
        }
        const store::VersionRow next{std::string("d").append(std::to_string(number + 1)), job_,
                                     RoundId(number + 1), 1000, Timestamp{}};
        ASSERT_TRUE(ledger.commit_round(job_, round.round, {Timestamp{}, 1, 1}, next));
    }

    void change(const std::string& sql) const {
        const auto database = *store::Database::open(dir_.path() / "ledger.db");
        const auto done = database->execute("PRAGMA foreign_keys=OFF; " + sql);
        ASSERT_TRUE(done) << done.error().message;
    }
    // Writes the link of the round at `index` anew, over what the ledger says now: its value.
    std::string chain_anew(std::size_t index) const {
        const auto link = [&] {
            const store::Ledger ledger = *store::Ledger::open_to_read(dir_.path());
            const auto rounds = *ledger.rounds(job_);
            return std::pair(store::chain_of_round(rounds[index - 1].chain, rounds[index],
                                                   *ledger.contributions(job_, rounds[index].round)),
                             std::to_string(rounds[index].round.get()));
        }();
        change("UPDATE rounds SET chain = '" + link.first + "' WHERE round = " + link.second);
        return link.first;
    }
    Report report(const std::string& expected = "") const {
        const store::Ledger ledger = *store::Ledger::open_to_read(dir_.path());
        return check_chain(*read_history(ledger, job_), expected);
    }
    std::string problem() const { return report().first_problem().value_or(""); }

    test::TempDir dir_;
    JobId job_;
    std::string noted_;  // after round 1
};

TEST_F(ChainCheckTest, AnUntouchedLedgerFits) {
    const Report found = report(noted_);
    EXPECT_FALSE(found.first_problem()) << *found.first_problem();
    ASSERT_EQ(found.rounds.size(), 3u);
    for (const RoundFinding& round : found.rounds) EXPECT_EQ(round.link, Verdict::Fits);
    EXPECT_EQ(found.rounds[2].weight, 24u);
    EXPECT_EQ(found.rounds[2].contributions, 2u);
    EXPECT_EQ(found.chain, found.rounds[2].chain);
    EXPECT_EQ(found.rounds[0].version, Verdict::NotChecked);
}

struct Change {
    const char* what;
    const char* sql;
    const char* found;  // how the report begins
};

class EveryChange : public ChainCheckTest, public ::testing::WithParamInterface<Change> {};

INSTANTIATE_TEST_SUITE_P(
    Ledger, EveryChange,
    ::testing::Values(
        Change{"Weight", "UPDATE parts SET weight = 12 WHERE round = 1 AND client = 'ash'",
               "round 1: its inputs"},
        Change{"Digest", "UPDATE parts SET update_digest = 'x' WHERE round = 1 AND client = 'ash'",
               "round 1: its inputs"},
        Change{"Client", "UPDATE parts SET client = 'aspen' WHERE round = 1 AND client = 'ash'",
               "round 1: its inputs"},
        Change{"Bytes", "UPDATE parts SET bytes = 101 WHERE round = 2 AND client = 'ash'",
               "round 2: its inputs"},
        Change{"Codec", "UPDATE parts SET codec = 'none' WHERE round = 0 AND client = 'ash'",
               "round 0: its inputs"},
        Change{"RowOrder",
               "UPDATE parts SET update_digest = CASE client WHEN 'ash' THEN 'u-birch1' ELSE 'u-ash1' END "
               "WHERE round = 1",
               "round 1: its inputs"},
        Change{"RowGone", "DELETE FROM parts WHERE round = 0 AND client = 'birch'", "round 0: its inputs"},
        Change{"RowMoved", "UPDATE parts SET counted = 2 WHERE round = 1 AND client = 'ash'",
               "round 1: its inputs"},
        Change{"RowAdded",
               "UPDATE parts SET state = 'accepted', counted = 1 WHERE round = 1 AND client = 'cedar'",
               "round 1: its inputs"},
        Change{"Result", "UPDATE rounds SET next_digest = 'x' WHERE round = 1", "round 1: its inputs"},
        Change{"Base", "UPDATE rounds SET model_digest = 'x' WHERE round = 1", "round 1: its inputs"},
        Change{"Link", "UPDATE rounds SET chain = 'x' WHERE round = 1", "round 1: its inputs"},
        Change{"RoundGone", "DELETE FROM rounds WHERE round = 1", "the ledger says that 3 rounds"},
        Change{"JobFile", "UPDATE jobs SET yaml = 'name: other'", "its job file or initial version"},
        Change{"Latest", "UPDATE jobs SET model_digest = 'd2'", "its latest version"},
        Change{"Versions", "UPDATE versions SET digest = 'x' WHERE round = 2", "round 1: the ledger's list"}),
    [](const auto& change) { return std::string(change.param.what); });

TEST_P(EveryChange, IsFound) {
    change(GetParam().sql);
    EXPECT_TRUE(problem().starts_with(GetParam().found)) << problem();
}

TEST_F(ChainCheckTest, AnOpenRoundIsNoPartOfIt) {
    {
        store::Ledger ledger = *store::Ledger::open(dir_.path());
        store::RoundRow round;
        round.job = job_;
        round.round = RoundId(3);
        round.model_digest = "d3";
        ASSERT_TRUE(ledger.open_round(round, std::vector<ClientId>{ClientId("ash")}));
    }
    EXPECT_EQ(problem(), "");
    EXPECT_EQ(report().rounds.size(), 3u);
}

// Who changes a link as well breaks the next one; who writes the chain anew to its end meets what was noted.
TEST_F(ChainCheckTest, ARewrittenChainIsFoundByWhatWasNoted) {
    change("UPDATE parts SET weight = 99 WHERE round = 1 AND client = 'ash'");
    chain_anew(1);
    EXPECT_TRUE(problem().starts_with("round 2: its inputs")) << problem();
    const std::string last = chain_anew(2);
    EXPECT_EQ(problem(), "");
    EXPECT_TRUE(report(last).first_problem().value_or("").empty());
    EXPECT_NE(report(noted_).first_problem().value_or("").find("does not occur"), std::string::npos);
}

// Each round starts from what the one before it made, whatever the chain says.
TEST_F(ChainCheckTest, RoundsAreOneLine) {
    change("UPDATE rounds SET model_digest = 'x' WHERE round = 1");
    chain_anew(1);
    chain_anew(2);
    EXPECT_TRUE(problem().starts_with("round 1: it starts from another version")) << problem();
    change("DELETE FROM rounds WHERE round = 1; UPDATE jobs SET round = 2");
    chain_anew(1);
    EXPECT_TRUE(problem().starts_with("round 2: the ledger has no round 1")) << problem();
}

TEST_F(ChainCheckTest, ALastRoundThatWasTakenAwayIsFoundByWhatWasNoted) {
    const std::string last = report().chain;
    change(
        "DELETE FROM rounds WHERE round = 2; DELETE FROM versions WHERE round = 3; "
        "UPDATE jobs SET round = 2, model_digest = 'd2'");
    EXPECT_EQ(problem(), "");
    EXPECT_NE(report(last).first_problem().value_or("").find("does not occur"), std::string::npos);
}

}  // namespace
}  // namespace fedllm::server::audit
