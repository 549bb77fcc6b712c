// A ledger of an earlier version opens, goes on, and loses nothing.
#include <gtest/gtest.h>

#include "server/store/chain.hpp"
#include "server/store/ledger.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::store {
namespace {

// Word for word what version 2 of the ledger wrote (commit a345b04 and on, until chain.hpp).
constexpr const char* kVersion2 = R"sql(
CREATE TABLE jobs(
  number INTEGER PRIMARY KEY, job_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, yaml TEXT NOT NULL,
  state TEXT NOT NULL, created_ms INTEGER NOT NULL, round INTEGER NOT NULL, model_digest TEXT NOT NULL,
  detail TEXT NOT NULL);
CREATE TABLE rounds(
  job_id TEXT NOT NULL REFERENCES jobs(job_id), round INTEGER NOT NULL, state TEXT NOT NULL,
  model_digest TEXT NOT NULL, opened_ms INTEGER NOT NULL, closed_ms INTEGER, eval_loss REAL, train_loss REAL,
  next_digest TEXT NOT NULL, PRIMARY KEY(job_id, round)) WITHOUT ROWID;
CREATE TABLE parts(
  job_id TEXT NOT NULL, round INTEGER NOT NULL, client TEXT NOT NULL, task_id TEXT NOT NULL,
  state TEXT NOT NULL,
  weight INTEGER NOT NULL, samples INTEGER NOT NULL, tokens INTEGER NOT NULL, update_digest TEXT NOT NULL,
  bytes INTEGER NOT NULL, bytes_down INTEGER NOT NULL, train_loss REAL, train_seconds REAL,
  eval_loss_sum REAL, eval_tokens INTEGER NOT NULL,
  codec TEXT NOT NULL, elements INTEGER NOT NULL, quantisation_error REAL NOT NULL, residual_norm REAL NOT NULL,
  reason TEXT NOT NULL, detail TEXT NOT NULL, accepted_ms INTEGER, elapsed_ms INTEGER NOT NULL,
  PRIMARY KEY(job_id, round, client),
  FOREIGN KEY(job_id, round) REFERENCES rounds(job_id, round)) WITHOUT ROWID;
CREATE TABLE versions(
  job_id TEXT NOT NULL REFERENCES jobs(job_id), round INTEGER NOT NULL, digest TEXT NOT NULL,
  bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL,
  base_digest TEXT NOT NULL, encoded_digest TEXT NOT NULL, encoded_bytes INTEGER NOT NULL,
  residual_digest TEXT NOT NULL, PRIMARY KEY(job_id, round)) WITHOUT ROWID;
CREATE INDEX versions_by_digest ON versions(digest);
CREATE INDEX versions_by_step ON versions(encoded_digest);
PRAGMA user_version = 2;
)sql";

// A job that has committed one round and is in its second, and one that has only been submitted.
constexpr const char* kRows = R"sql(
INSERT INTO jobs VALUES(1, 'j1', 'first', 'name: first' || char(10), 'running', 900, 1, 'd1', '');
INSERT INTO jobs VALUES(2, 'j2', 'second', 'name: second' || char(10), 'running', 950, 0, 'd0', '');
INSERT INTO rounds VALUES('j1', 0, 'committed', 'd0', 1000, 2000, 2.5, 2.25, 'd1');
INSERT INTO rounds VALUES('j1', 1, 'open', 'd1', 2000, NULL, NULL, NULL, '');
INSERT INTO parts VALUES('j1', 0, 'site-a', 'j1/0/site-a', 'accepted', 40, 40, 4000, 'u1', 123, 9, 2.5, 1.25, 7.5, 3,
                         'deadzone', 500, 0.1, 0.2, '', '', 1500, 500);
INSERT INTO parts VALUES('j1', 0, 'site-b', 'j1/0/site-b', 'accepted', 40, 40, 4000, 'u2', 123, 9, 2.5, 1.25, 7.5, 3,
                         'deadzone', 500, 0.1, 0.2, '', '', 1600, 600);
INSERT INTO parts VALUES('j1', 0, 'site-c', 'j1/0/site-c', 'dropped', 0, 0, 0, '', 0, 0, NULL, 0, 0, 0,
                         '', 0, 0, 0, '', '', NULL, 0);
INSERT INTO parts VALUES('j1', 1, 'site-a', 'j1/1/site-a', 'accepted', 40, 40, 4000, 'u3', 123, 9, 2.5, 1.25, 7.5, 3,
                         'deadzone', 500, 0.1, 0.2, '', '', 2500, 500);
INSERT INTO parts VALUES('j1', 1, 'site-b', 'j1/1/site-b', 'asked', 0, 0, 0, '', 0, 0, NULL, 0, 0, 0,
                         '', 0, 0, 0, '', '', NULL, 0);
INSERT INTO versions VALUES('j1', 0, 'd0', 1000, 900, '', '', 0, '');
INSERT INTO versions VALUES('j1', 1, 'd1', 1000, 2000, 'd0', 's1', 77, 'r1');
INSERT INTO versions VALUES('j2', 0, 'd0', 1000, 950, '', '', 0, '');
)sql";

class SchemaTest : public ::testing::Test {
protected:
    SchemaTest() {
        auto database = *Database::open(dir_.path() / "ledger.db");
        EXPECT_TRUE(database->execute(kVersion2));
        EXPECT_TRUE(database->execute(kRows));
    }
    Ledger ledger() const {
        auto opened = Ledger::open(dir_.path());
        EXPECT_TRUE(opened) << opened.error().message;
        return std::move(opened).value();
    }
    void run(const std::string& sql) const {
        auto database = *Database::open(dir_.path() / "ledger.db");
        const auto done = database->execute(sql);
        EXPECT_TRUE(done) << done.error().message;
    }
    Result<void> ask(const std::string& sql) const {
        return (*Database::open(dir_.path() / "ledger.db"))->execute(sql);
    }

    test::TempDir dir_;
    const JobId job_{"j1"};
};

TEST_F(SchemaTest, Version2IsBroughtUpToDateAndGoesOn) {
    EXPECT_EQ(ledger().jobs()->size(), 2u);
    const auto rounds = *ledger().rounds(job_);  // opened a second time: nothing is left to do
    ASSERT_EQ(rounds.size(), 2u);
    EXPECT_EQ(rounds[0].train_loss, 2.25);
    EXPECT_EQ(rounds[1].status, RoundStatus::Open);
    const auto counted = *ledger().contributions(job_, RoundId(0));
    ASSERT_EQ(counted.size(), 2u);
    EXPECT_EQ(counted[1].update_digest, "u2");
    EXPECT_EQ(counted[1].accepted, Timestamp(Duration(1600)));
    EXPECT_EQ(ledger().version("d1")->encoded_digest, "s1");
    EXPECT_FALSE(ledger().version("d1")->removed);

    PartRow part = *ledger().part(job_, RoundId(1), ClientId("site-b")).value();
    part.update_digest = "u4";
    part.counted = RoundId(1);
    EXPECT_EQ(*ledger().accept(part), Acceptance::Counted);
    const VersionRow next{"d2", job_, RoundId(2), 1000, Timestamp(Duration(3000))};
    ASSERT_TRUE(ledger().commit_round(job_, RoundId(1), {Timestamp(Duration(3000)), 1, 1}, next));
    EXPECT_EQ(ledger().job(job_)->round, RoundId(2));
    EXPECT_EQ(ledger().contributions(job_, RoundId(1))->size(), 2u);
    EXPECT_EQ(*ledger().add_job("third", "name: third\n", "d0", 1000, Timestamp{}), JobId("j3"));
}

// What was committed before the chain existed is sealed as the ledger had it; what follows goes on from
// there.
TEST_F(SchemaTest, Version2IsSealed) {
    const auto job = *ledger().job(job_);
    EXPECT_EQ(job.chain, chain_of_job(job_, "name: first\n", "d0"));
    EXPECT_EQ(ledger().job(JobId("j2"))->chain, chain_of_job(JobId("j2"), "name: second\n", "d0"));
    const auto rounds = *ledger().rounds(job_);
    EXPECT_EQ(rounds[0].chain,
              chain_of_round(job.chain, rounds[0], *ledger().contributions(job_, RoundId(0))));
    EXPECT_EQ(rounds[1].chain, "");
}

// A migration that fails half way leaves the old ledger as it was.
TEST_F(SchemaTest, AMigrationIsWholeOrNotAtAll) {
    run("CREATE TABLE parts_by_counted(x)");  // in the way of the new index
    EXPECT_EQ(Ledger::open(dir_.path()).error().code, Errc::StoreFailed);
    EXPECT_FALSE(ask("SELECT chain FROM jobs"));
    run("DROP TABLE parts_by_counted");
    EXPECT_EQ(ledger().contributions(job_, RoundId(0))->size(), 2u);
}

// A new ledger and one brought up to date have the same columns.
TEST_F(SchemaTest, BothWaysLeadToTheSameTables) {
    ledger();
    const test::TempDir fresh;
    ASSERT_TRUE(Ledger::open(fresh.path()));
    for (const char* table : {"jobs", "rounds", "parts", "versions"}) {
        std::vector<std::string> columns[2];
        int which = 0;
        for (const Path& folder : {dir_.path(), fresh.path()}) {
            auto database = *Database::open(folder / "ledger.db");
            auto select =
                *database->prepare("SELECT name || ' ' || type FROM pragma_table_info(?) ORDER BY name");
            select.bind(table);
            while (*select.step()) columns[which].push_back(select.text(0));
            ++which;
        }
        EXPECT_EQ(columns[0], columns[1]) << table;
    }
}

TEST_F(SchemaTest, OtherVersionsAreRefusedInWords) {
    run("PRAGMA user_version = 99");
    const auto newer = Ledger::open(dir_.path());
    ASSERT_FALSE(newer);
    EXPECT_EQ(newer.error().code, Errc::Unsupported);
    EXPECT_NE(newer.error().message.find("a newer fedllm-server wrote it"), std::string::npos);
    run("PRAGMA user_version = 1");
    const auto older = Ledger::open(dir_.path());
    ASSERT_FALSE(older);
    EXPECT_EQ(older.error().code, Errc::Unsupported);
    EXPECT_NE(older.error().message.find("older than any"), std::string::npos);
}

TEST_F(SchemaTest, AReaderChangesNothing) {
    const auto before = Ledger::open_to_read(dir_.path());
    ASSERT_FALSE(before) << "version 2 is the server's to bring up to date";
    EXPECT_EQ(before.error().code, Errc::Unsupported);
    Ledger writer = ledger();
    auto reader = *Ledger::open_to_read(dir_.path());
    EXPECT_EQ(reader.finish_job(job_, JobStatus::Failed, "no").error().code, Errc::StoreFailed);
    {
        const auto moment = *reader.moment();
        EXPECT_EQ(reader.jobs()->size(), 2u);
        ASSERT_TRUE(writer.add_job("third", "name: third\n", "d0", 1000, Timestamp{})) << "nobody waits";
        EXPECT_EQ(reader.jobs()->size(), 2u) << "of one moment";
    }
    EXPECT_EQ(reader.jobs()->size(), 3u);
    const test::TempDir empty;
    EXPECT_EQ(Ledger::open_to_read(empty.path()).error().code, Errc::StoreFailed);
    EXPECT_FALSE(std::filesystem::exists(empty.path() / "ledger.db"));
}

}  // namespace
}  // namespace fedllm::server::store
