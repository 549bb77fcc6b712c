#include "server/store/ledger.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "server/store/state_directory.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::store {
namespace {

using test::TempDir;

Timestamp at(std::int64_t ms) { return Timestamp(Duration(ms)); }
ClientId client(const char* name) { return ClientId(name); }

// Every test runs on a ledger that is closed and opened again after each step, as after a crash: what a call
// that returned has promised must be there.
class LedgerTest : public ::testing::Test {
protected:
    Ledger ledger() const {
        auto opened = Ledger::open(dir_.path());
        EXPECT_TRUE(opened) << opened.error().message;
        return std::move(opened).value();
    }
    RoundRow round_row(std::uint32_t number, const std::string& digest) const {
        RoundRow row;
        row.job = job_;
        row.round = RoundId(number);
        row.model_digest = digest;
        row.opened = at(1000);
        return row;
    }
    PartRow part(std::uint32_t round, const char* name, const std::string& digest) const {
        PartRow row;
        row.job = job_;
        row.round = row.counted = RoundId(round);
        row.client = client(name);
        row.update_digest = digest;
        row.weight = 40;
        row.samples = 40;
        row.tokens = 4000;
        row.bytes = 123;
        row.train_loss = 2.5;
        row.train_seconds = 1.25;
        row.eval_loss_sum = 7.5;
        row.eval_tokens = 3;
        row.accepted = at(1500);
        row.elapsed = Duration(500);
        return row;
    }
    void submit() {
        auto id = ledger().add_job("first", "name: first\n", "d0", 1000, at(900));
        ASSERT_TRUE(id) << id.error().message;
        job_ = *id;
    }
    void open_first_round() {
        submit();
        const std::vector<ClientId> asked{client("site-a"), client("site-b")};
        ASSERT_TRUE(ledger().open_round(round_row(0, "d0"), asked));
    }
    VersionRow version(const char* digest, std::uint32_t round) const {
        return {digest, job_, RoundId(round), 1000, at(2000)};
    }

    TempDir dir_;
    JobId job_;
};

TEST_F(LedgerTest, JobsGetNumbersAndAreReadBackWhole) {
    submit();
    EXPECT_EQ(job_, JobId("j1"));
    EXPECT_EQ(*ledger().add_job("second", "name: second\n", "d0", 1000, at(950)), JobId("j2"));
    const auto jobs = *ledger().jobs();
    ASSERT_EQ(jobs.size(), 2u);
    EXPECT_EQ(jobs[0].name, "first");
    EXPECT_EQ(jobs[1].yaml, "name: second\n");
    EXPECT_EQ(jobs[0].created, at(900));
    EXPECT_EQ(jobs[0].model_digest, "d0");
    EXPECT_EQ(*ledger().job(job_), jobs[0]);
    EXPECT_EQ(ledger().job(JobId("j9")).error().code, Errc::NotFound);
    EXPECT_EQ(ledger().version("d0")->job, job_);
    EXPECT_EQ(ledger().version("d9").error().code, Errc::NotFound);
}

// What a process that died had begun together is not there, in no part; what it had committed is, all of it.
TEST_F(LedgerTest, WhatIsWrittenTogetherIsThereAllOrNothing) {
    open_first_round();
    {
        Ledger ours = ledger();
        const auto unfinished = ours.together();
        ASSERT_TRUE(unfinished);
        EXPECT_EQ(*ours.accept(part(0, "site-a", "u1")), Acceptance::Counted);
        ASSERT_TRUE(ours.close_round(job_, RoundId(0), {}));
    }
    EXPECT_EQ((*ledger().parts(job_, RoundId(0)))[0].status, PartStatus::Asked);
    EXPECT_EQ((*ledger().rounds(job_))[0].status, RoundStatus::Open);
    {
        Ledger ours = ledger();
        auto whole = ours.together();
        ASSERT_TRUE(whole);
        EXPECT_EQ(*ours.accept(part(0, "site-a", "u1")), Acceptance::Counted);
        EXPECT_EQ(ours.accept(part(0, "site-a", "u2")).error().code, Errc::Duplicate) << "and harms no other";
        EXPECT_EQ(*ours.accept(part(0, "site-b", "u3")), Acceptance::Counted);
        ASSERT_TRUE(ours.close_round(job_, RoundId(0), {}));
        EXPECT_TRUE(ledger().contributions(job_, RoundId(0))->empty()) << "not before its commit";
        ASSERT_TRUE(whole->commit());
        EXPECT_EQ(ledger().contributions(job_, RoundId(0))->size(), 2u);
    }
    EXPECT_EQ((*ledger().rounds(job_))[0].status, RoundStatus::Closing);
}

TEST_F(LedgerTest, ContributionIsCountedOnceAcrossRestarts) {
    open_first_round();
    EXPECT_EQ(*ledger().accept(part(0, "site-a", "u1")), Acceptance::Counted);
    EXPECT_EQ(*ledger().accept(part(0, "site-a", "u1")), Acceptance::AlreadyCounted);
    EXPECT_EQ(ledger().accept(part(0, "site-a", "u2")).error().code, Errc::Duplicate);
    EXPECT_EQ(ledger().accept(part(0, "site-c", "u3")).error().code, Errc::NotFound);
    EXPECT_EQ(ledger().accept(part(1, "site-a", "u4")).error().code, Errc::Stale);
    EXPECT_EQ(ledger().record_part(part(0, "site-a", "")).error().code, Errc::Duplicate);

    const auto parts = *ledger().parts(job_, RoundId(0));
    ASSERT_EQ(parts.size(), 2u);
    const PartRow& a = parts[0];
    EXPECT_EQ(a.status, PartStatus::Accepted);
    EXPECT_EQ(a.task, TaskId("j1/0/site-a"));
    EXPECT_EQ(a.update_digest, "u1");
    EXPECT_EQ(a.weight, 40u);
    EXPECT_EQ(a.tokens, 4000u);
    EXPECT_EQ(a.bytes, 123u);
    EXPECT_EQ(a.train_loss, 2.5);
    EXPECT_EQ(a.train_seconds, 1.25);
    EXPECT_EQ(a.eval_loss_sum, 7.5);
    EXPECT_EQ(a.eval_tokens, 3u);
    EXPECT_EQ(a.accepted, at(1500));
    EXPECT_EQ(a.elapsed, Duration(500));
    EXPECT_EQ(parts[1].status, PartStatus::Asked);
    EXPECT_TRUE(std::isnan(parts[1].train_loss));
    EXPECT_FALSE(parts[1].accepted);
}

TEST_F(LedgerTest, OpeningTwiceKeepsWhatWasCounted) {
    open_first_round();
    ASSERT_TRUE(ledger().accept(part(0, "site-a", "u1")));
    ASSERT_TRUE(
        ledger().open_round(round_row(0, "d0"), std::vector<ClientId>{client("site-a"), client("site-c")}));
    const auto parts = *ledger().parts(job_, RoundId(0));
    ASSERT_EQ(parts.size(), 3u);
    EXPECT_EQ(parts[0].status, PartStatus::Accepted);
    EXPECT_EQ(ledger().rounds(job_)->size(), 1u);
}

TEST_F(LedgerTest, ClosingFixesTheSetAndCommittingAdvancesTheJob) {
    open_first_round();
    ASSERT_TRUE(ledger().open_round(round_row(0, "d0"), std::vector<ClientId>{client("site-c")}));
    ASSERT_TRUE(ledger().accept(part(0, "site-a", "u1")));
    PartRow late = part(0, "site-b", "");
    late.reason = "late";
    ASSERT_TRUE(ledger().close_round(job_, RoundId(0), std::vector<PartRow>{late, part(0, "site-a", "")}));
    EXPECT_EQ(ledger().rounds(job_)->at(0).status, RoundStatus::Closing);
    EXPECT_EQ(ledger().accept(part(0, "site-b", "u2")).error().code, Errc::Stale);
    const auto unnamed = ledger().accept(part(0, "site-c", "u3"));
    ASSERT_FALSE(unnamed) << "nobody dropped it by name, but the set is fixed";
    EXPECT_EQ(unnamed.error().code, Errc::Stale);
    EXPECT_EQ(*ledger().accept(part(0, "site-a", "u1")), Acceptance::AlreadyCounted);
    EXPECT_EQ(ledger().parts(job_, RoundId(0))->at(0).status, PartStatus::Accepted) << "counted is counted";
    EXPECT_EQ(ledger().parts(job_, RoundId(0))->at(1).status, PartStatus::Dropped);
    EXPECT_EQ(ledger().parts(job_, RoundId(0))->at(1).reason, "late");

    ASSERT_TRUE(ledger().commit_round(job_, RoundId(0), {at(3000), 2.25, kNoLoss}, version("d1", 1)));
    const auto job = *ledger().job(job_);
    EXPECT_EQ(job.round, RoundId(1));
    EXPECT_EQ(job.model_digest, "d1");
    const auto row = ledger().rounds(job_)->at(0);
    EXPECT_EQ(row.status, RoundStatus::Committed);
    EXPECT_EQ(row.closed, at(3000));
    EXPECT_EQ(row.eval_loss, 2.25);
    EXPECT_TRUE(std::isnan(row.train_loss));
    EXPECT_EQ(row.next_digest, "d1");
    EXPECT_EQ(ledger().versions(job_)->size(), 2u);
}

// A commit either happens whole or not at all: each way in which it can fail leaves everything as it was.
TEST_F(LedgerTest, FailedCommitLeavesNoTrace) {
    open_first_round();
    ASSERT_TRUE(ledger().accept(part(0, "site-a", "u1")));
    const RoundResult result{at(3000), 2.0, 2.0};
    EXPECT_EQ(ledger().commit_round(job_, RoundId(5), result, version("d1", 6)).error().code,
              Errc::OutOfOrder);
    // The version's row collides with the initial one, after the round's row was already changed.
    EXPECT_EQ(ledger().commit_round(job_, RoundId(0), result, version("d1", 0)).error().code,
              Errc::StoreFailed);
    EXPECT_EQ(ledger().rounds(job_)->at(0).status, RoundStatus::Open);
    EXPECT_EQ(ledger().parts(job_, RoundId(0))->at(1).status, PartStatus::Asked);
    EXPECT_EQ(ledger().job(job_)->round, RoundId(0));
    EXPECT_EQ(ledger().versions(job_)->size(), 1u);
    ASSERT_TRUE(ledger().commit_round(job_, RoundId(0), result, version("d1", 1)));
    EXPECT_EQ(ledger().commit_round(job_, RoundId(0), result, version("d1", 1)).error().code,
              Errc::OutOfOrder);
}

TEST_F(LedgerTest, ARoundWhoseVersionIsGoneClosesAgain) {
    open_first_round();
    EXPECT_FALSE(*ledger().reopen_closed(job_)) << "nobody can compute the initial version";
    ASSERT_TRUE(ledger().accept(part(0, "site-a", "u1")));
    ASSERT_TRUE(ledger().close_round(job_, RoundId(0), {}));
    const auto closing = *ledger().rounds(job_);
    const auto parts = *ledger().parts(job_, RoundId(0));
    ASSERT_TRUE(ledger().commit_round(job_, RoundId(0), {at(2000), 1.5, 2.5}, version("d1", 1)));
    const std::vector<ClientId> asked{client("site-a")};
    ASSERT_TRUE(ledger().open_round(round_row(1, "d1"), asked));

    ASSERT_TRUE(*ledger().reopen_closed(job_));
    EXPECT_EQ(ledger().job(job_)->round, RoundId(0));
    EXPECT_EQ(ledger().job(job_)->model_digest, "d0");
    const auto rounds = *ledger().rounds(job_);
    ASSERT_EQ(rounds.size(), 1u);
    EXPECT_EQ(rounds[0].status, RoundStatus::Closing);
    EXPECT_FALSE(rounds[0].closed);
    EXPECT_TRUE(std::isnan(rounds[0].eval_loss) && std::isnan(rounds[0].train_loss));
    EXPECT_EQ(rounds[0].next_digest, "");
    EXPECT_EQ(rounds[0].chain, "") << "an audit meanwhile takes it for no committed round";
    EXPECT_EQ(ledger().version("d1").error().code, Errc::NotFound);
    ASSERT_EQ(ledger().parts(job_, RoundId(0))->size(), parts.size());
    EXPECT_EQ(ledger().parts(job_, RoundId(0))->front().update_digest, "u1");
    ASSERT_TRUE(ledger().commit_round(job_, RoundId(0), {at(3000), 1.5, 2.5}, version("d1", 1)));
    EXPECT_EQ(ledger().job(job_)->model_digest, "d1") << "and commits again";

    ASSERT_TRUE(ledger().open_round(round_row(1, "d1"), asked));
    ASSERT_TRUE(ledger().accept(part(1, "site-a", "u2")));
    EXPECT_EQ(ledger().reopen_closed(job_).error().code, Errc::StoreFailed)
        << "an accepted update is not given up";
}

TEST_F(LedgerTest, RefusedAndDeclinedPartsCountNoMore) {
    open_first_round();
    PartRow refused = part(0, "site-a", "");
    refused.status = PartStatus::Refused;
    refused.reason = "not_finite";
    refused.detail = "tensor x";
    ASSERT_TRUE(ledger().record_part(refused));
    EXPECT_EQ(ledger().accept(part(0, "site-a", "u1")).error().code, Errc::Stale);
    const auto row = *ledger().part(job_, RoundId(0), client("site-a"));
    ASSERT_TRUE(row);
    EXPECT_EQ(row->reason, "not_finite");
    EXPECT_EQ(row->detail, "tensor x");
    EXPECT_FALSE(*ledger().part(job_, RoundId(0), client("nobody")));
}

TEST_F(LedgerTest, JobFinishesWithItsFinalEvaluation) {
    open_first_round();
    ASSERT_TRUE(ledger().accept(part(0, "site-a", "u1")));
    ASSERT_TRUE(ledger().commit_round(job_, RoundId(0), {at(3000), 2.0, 2.0}, version("d1", 1)));
    ASSERT_TRUE(
        ledger().open_round(round_row(1, "d1"), std::vector<ClientId>{client("site-a"), client("site-b")}));
    ASSERT_TRUE(ledger().record_evaluation(part(1, "site-a", "")));
    ASSERT_TRUE(ledger().finish_job(job_, JobStatus::Finished, "", RoundResult{at(4000), 1.5, kNoLoss}));
    EXPECT_EQ(ledger().job(job_)->status, JobStatus::Finished);
    EXPECT_EQ(ledger().rounds(job_)->at(1).eval_loss, 1.5);
    const auto parts = *ledger().parts(job_, RoundId(1));
    EXPECT_EQ(parts[0].status, PartStatus::Evaluated);
    EXPECT_EQ(parts[1].status, PartStatus::Dropped);
}

TEST_F(LedgerTest, FailedJobKeepsItsCause) {
    submit();
    ASSERT_TRUE(ledger().finish_job(job_, JobStatus::Failed, "stopped by the operator"));
    EXPECT_EQ(ledger().job(job_)->status, JobStatus::Failed);
    EXPECT_EQ(ledger().job(job_)->detail, "stopped by the operator");
}

TEST_F(LedgerTest, StepsAreFoundByTheirDigestAndNewestFirst) {
    open_first_round();
    VersionRow next = version("d1", 1);
    next.base_digest = "d0";
    next.encoded_digest = "s1";
    next.encoded_bytes = 77;
    next.residual_digest = "r1";
    ASSERT_TRUE(ledger().commit_round(job_, RoundId(0), {at(2000), 1, 1}, next));
    EXPECT_EQ(*ledger().version("d1"), next);
    EXPECT_EQ(*ledger().version(job_, RoundId(1)), next);
    EXPECT_EQ(ledger().version(job_, RoundId(2)).error().code, Errc::NotFound);
    EXPECT_EQ(*ledger().step("s1"), next);
    EXPECT_EQ(ledger().step("").error().code, Errc::NotFound) << "the initial version has no step";
    EXPECT_EQ(ledger().step("d1").error().code, Errc::NotFound);
    const auto latest = *ledger().versions_up_to(job_, RoundId(1), 2);
    ASSERT_EQ(latest.size(), 2u);
    EXPECT_EQ(latest[0], next);
    EXPECT_EQ(latest[1].digest, "d0");
    EXPECT_EQ(ledger().versions_up_to(job_, RoundId(1), 1)->size(), 1u);
    const auto before = *ledger().versions_up_to(job_, RoundId(0), 2);
    ASSERT_EQ(before.size(), 1u) << "an asynchronous job asks for an older version's update again";
    EXPECT_EQ(before[0].digest, "d0");
}

// Text from clients goes into the ledger as values, never as SQL; bytes that are odd come back as they were.
TEST_F(LedgerTest, TextIsNeverSql) {
    open_first_round();
    PartRow odd = part(0, "'); DROP TABLE parts; --", "");
    odd.status = PartStatus::Declined;
    odd.detail = std::string("a\0b'\"", 5);
    ASSERT_TRUE(ledger().record_part(odd));
    const auto row = *ledger().part(job_, RoundId(0), odd.client);
    ASSERT_TRUE(row);
    EXPECT_EQ(row->detail, odd.detail);
}

TEST_F(LedgerTest, RefusesAForeignOrNewerFile) {
    submit();
    {
        auto database = *Database::open(dir_.path() / "ledger.db");
        ASSERT_TRUE(database->execute("PRAGMA user_version = 99"));
    }
    EXPECT_EQ(Ledger::open(dir_.path()).error().code, Errc::Unsupported);
    const TempDir other;
    std::ofstream(other.path() / "ledger.db") << std::string(4096, 'x');
    const auto opened = Ledger::open(other.path());
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, Errc::StoreFailed);
    EXPECT_NE(opened.error().message.find("ledger.db"), std::string::npos);
    EXPECT_EQ(Ledger::open(other.path() / "absent").error().code, Errc::StoreFailed);
}

// A full disk: the call fails, names the file, and what was promised before is still there.
TEST_F(LedgerTest, FullDatabaseRefusesAndKeepsWhatItHas) {
    open_first_round();
    {
        auto database = *Database::open(dir_.path() / "ledger.db");
        ASSERT_TRUE(database->execute("PRAGMA max_page_count = 1"));  // SQLite raises it to what is in use
        const auto filled = database->execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) "
            "INSERT INTO jobs SELECT i + 10, 'x' || i, hex(zeroblob(4000)), '', 'running', 0, 0, '', '', '' "
            "FROM "
            "n");
        ASSERT_FALSE(filled);
        EXPECT_EQ(filled.error().code, Errc::StoreFailed);
        EXPECT_NE(filled.error().message.find("full"), std::string::npos) << filled.error().message;
        EXPECT_NE(filled.error().message.find("ledger.db"), std::string::npos);
    }
    EXPECT_EQ(ledger().jobs()->size(), 1u);
    EXPECT_EQ(*ledger().accept(part(0, "site-a", "u1")), Acceptance::Counted);
}

TEST(StateDirectory, BelongsToOneProcess) {
    const TempDir dir;
    {
        const auto first = StateDirectory::open(dir.path() / "state");
        ASSERT_TRUE(first);
        const auto second = StateDirectory::open(dir.path() / "state");
        ASSERT_FALSE(second);
        EXPECT_EQ(second.error().code, Errc::AlreadyExists);
        EXPECT_NE(second.error().message.find("in use"), std::string::npos);
    }
    EXPECT_TRUE(StateDirectory::open(dir.path() / "state"));
}

}  // namespace
}  // namespace fedllm::server::store
