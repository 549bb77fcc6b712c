// What an operator may do and see: pause and stop, audits of what is on the disk, retention.
#include <fstream>

#include "server/audit/audit.hpp"
#include "server/store/chain.hpp"
#include "tests/integration/crowd.hpp"

namespace fedllm::test {
namespace {

namespace audit = server::audit;
namespace fs = std::filesystem;
namespace store = server::store;

using protocol::JOB_ACTION_PAUSE;
using protocol::JOB_ACTION_RESUME;
using protocol::JOB_ACTION_STOP;

// server.yaml as `fedllm init` wrote it, with other figures for retention.
void keep(const Federation& federation, const std::string& versions, const std::string& updates) {
    const Path file = federation.folder() / "server.yaml";
    std::string text = *read_file(file);
    for (const auto& [before, after] :
         {std::pair("versions: 10", versions), std::pair("updates: 0", updates)}) {
        const auto at = text.find(before);
        ASSERT_NE(at, std::string::npos) << text;
        const auto value = text.find(' ', at) + 1;
        text.replace(value, text.find('\n', at) - value, after);
    }
    ASSERT_TRUE(write_file_atomically(file, text));
}

Result<protocol::JobSummary> control(const Federation& federation, protocol::JobAction action,
                                     const std::string& cause = "") {
    FEDLLM_TRY(const auto link, federation.operator_link());
    return link->control_job(JobId("j1"), action, cause);
}

protocol::JobSummary summary(const Federation& federation) {
    const auto link = federation.operator_link();
    const auto report = link ? (*link)->show_job(JobId("j1")) : Result<protocol::JobReport>(link.error());
    EXPECT_TRUE(report) << to_string(report.error());
    return report ? report->summary() : protocol::JobSummary();
}

// ---------------------------------------------------------------------------------------------- job control

TEST(Control, APausedJobStaysPausedOverAKillAndGoesOn) {
    Federation federation;
    federation.start();
    TinyJob{.clients = 2, .minimum = 2, .rounds = 2}.submit(federation);
    bool paused = false;
    Crowd crowd(federation, {"ash", "birch"}, [&](int message) {
        if (message != 5 || paused) return;
        paused = true;
        const auto now = control(federation, JOB_ACTION_PAUSE, "a holiday");
        ASSERT_TRUE(now) << to_string(now.error());
        EXPECT_EQ(now->state(), "paused");
        EXPECT_EQ(now->cause(), "a holiday");
        federation.kill();
        federation.start();
        EXPECT_EQ(summary(federation).state(), "paused");
        EXPECT_EQ(summary(federation).cause(), "a holiday");
        const auto resumed = control(federation, JOB_ACTION_RESUME);
        ASSERT_TRUE(resumed) << to_string(resumed.error());
        EXPECT_EQ(resumed->state(), "running");
    });
    crowd.run();
    EXPECT_TRUE(paused);
    EXPECT_EQ(summary(federation).state(), "finished");
    EXPECT_EQ(summary(federation).cause(), "all 2 rounds are done");
    EXPECT_TRUE(federation.log_has("chain=" + summary(federation).chain()));
    const auto late = control(federation, JOB_ACTION_STOP);
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, Errc::Stale);
    EXPECT_NE(late.error().message.find("all 2 rounds are done"), std::string::npos) << late.error().message;
}

TEST(Control, AStoppedJobHasACauseAndStaysStopped) {
    Federation federation;
    federation.start();
    TinyJob{}.submit(federation);
    const auto stopped = control(federation, JOB_ACTION_STOP, "wrong data");
    ASSERT_TRUE(stopped) << to_string(stopped.error());
    EXPECT_EQ(stopped->state(), "stopped");
    federation.kill();
    federation.start();
    EXPECT_EQ(summary(federation).state(), "stopped");
    EXPECT_EQ(summary(federation).cause(), "wrong data");
    EXPECT_EQ(federation.metric("fedllm_connections{role=\"client\"}"), 0.0);
    EXPECT_EQ(control(federation, JOB_ACTION_RESUME).error().code, Errc::Stale);
    const auto link = federation.operator_link();
    EXPECT_EQ((*link)->control_job(JobId("j9"), JOB_ACTION_STOP, "").error().code, Errc::NotFound);
}

// -------------------------------------------------------------------------------------------------- reports

std::string site(int number) { return "site-" + std::to_string(100'000 + number); }

// A round of so many, some with long stories, written behind the server's back: a thousandth of the time that
// real ones would take.
void ask(const Federation& federation, int clients) {
    auto ledger = store::Ledger::open(federation.folder() / "state");
    ASSERT_TRUE(ledger) << to_string(ledger.error());
    store::RoundRow round;
    round.job = JobId("j1");
    round.model_digest = ledger->job(round.job)->model_digest;
    round.opened = Timestamp(Duration(1));
    std::vector<ClientId> asked;
    for (int i = 0; i < clients; ++i) asked.emplace_back(site(i));
    ASSERT_TRUE(ledger->open_round(round, asked));
    for (int i = 0; i < clients; i += 60) {
        store::PartRow part;
        part.job = round.job;
        part.client = ClientId(site(i));
        part.task = store::task_id(part.job, part.round, part.client);
        part.status = store::PartStatus::Refused;
        part.detail = site(i) + std::string(4000, '.');
        ASSERT_TRUE(ledger->record_part(part));
    }
}

TEST(Reports, OfMoreClientsThanAFrameHoldsComeInPages) {
    constexpr int kClients = 12'000;
    Federation federation;
    federation.start();
    TinyJob{.clients = kClients, .minimum = kClients}.submit(federation);
    federation.kill();
    ask(federation, kClients);
    federation.start();
    const auto link = federation.operator_link();
    ASSERT_TRUE(link) << to_string(link.error());
    const auto report = (*link)->show_job(JobId("j1"));
    ASSERT_TRUE(report) << to_string(report.error());
    EXPECT_GT(report->ByteSizeLong(), protocol::FrameLimits{}.control_bytes_max);
    EXPECT_FALSE(report->more());
    EXPECT_EQ(report->summary().state(), "running");
    ASSERT_EQ(report->rounds_size(), 1);
    EXPECT_EQ(report->rounds(0).state(), "open");
    ASSERT_EQ(report->rounds(0).parts_size(), kClients);
    for (int i = 0; i < kClients; ++i) {
        const protocol::Part& part = report->rounds(0).parts(i);
        ASSERT_EQ(part.client(), site(i));
        ASSERT_EQ(part.state(), i % 60 == 0 ? "refused" : "working");
        ASSERT_EQ(part.detail().empty(), i % 60 != 0);
    }
    EXPECT_EQ((*link)->show_job(JobId("j1"), RoundId(1))->rounds_size(), 0);
    EXPECT_EQ((*link)->show_job(JobId("j9")).error().code, Errc::NotFound);
}

// Its own tool would not send such a job.
TEST(Control, ARefusalThatSaysMuchIsReadToo) {
    Federation federation;
    federation.start();
    const Path& hub = federation.folder();
    Loop loop;
    Peer person({.ca = hub / "ca.crt", .certificate = hub / "operator.crt", .key = hub / "operator.key"});
    ASSERT_TRUE(loop.run(person.connect(federation.port())));
    protocol::ClientMessage message;
    message.mutable_submit_job()->set_job("name: a\nbase_model: b\nrounds: " + std::string(5000, 'k'));
    message.mutable_submit_job()->set_initial_digest(std::string(64, 'a'));
    message.mutable_submit_job()->set_initial_bytes(10);
    ASSERT_TRUE(loop.run(person.send(std::move(message))));
    const auto answer = loop.run(person.next());
    ASSERT_TRUE(answer) << to_string(answer.error());
    EXPECT_EQ(answer->refusal().reason(), "invalid_config") << answer->ShortDebugString();
}

// ------------------------------------------------------------------------------------------------------ why

// The answer, or the refusal, as "reason: sentence".
std::string why(const Federation& federation, const std::string& subject) {
    const auto link = federation.operator_link();
    if (!link) return to_string(link.error());
    const auto because = (*link)->why(subject);
    if (!because) return std::string(name(because.error().code)) + ": " + because.error().message;
    EXPECT_TRUE(because->since_ms() > 0) << because->sentence();
    return because->reason() + ": " + because->sentence();
}

// Asked again until the answer begins so: what was sent is handled a moment later.
std::string why_once(const Federation& federation, const std::string& subject, const std::string& begin) {
    const double give_up = monotonic_seconds() + std::chrono::duration<double>(kPatience).count();
    std::string said = why(federation, subject);
    while (!said.starts_with(begin) && monotonic_seconds() < give_up) said = why(federation, subject);
    return said;
}

void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
    std::size_t at = 0;
    for (const std::string& part : parts) {
        at = text.find(part, at);
        ASSERT_NE(at, std::string::npos) << "'" << part << "' is not in its place in: " << text;
    }
}

bool waits_for(const Federation& federation, const std::string& reason) {
    return federation.metric("fedllm_job_waiting{job=\"j1\",reason=\"" + reason + "\"}") == 1.0;
}

awaitable<Result<protocol::Task>> task_of(Peer& peer) {
    for (;;) {
        FEDLLM_CO_TRY(const auto message, co_await peer.next());
        if (message.has_task()) co_return message.task();
    }
}

TEST(Why, SaysWhatIsWaitedForSinceWhenAndWhatHappensNext) {
    Federation federation;
    federation.start();
    TinyJob{.clients = 2, .minimum = 2, .rounds = 2}.submit(federation);
    expect_parts(why(federation, "j1"),
                 {"clients: j1 waits, since ", " UTC, for 2 clients", "then round 0 opens"});
    EXPECT_TRUE(waits_for(federation, "clients"));
    EXPECT_TRUE(federation.log_has("waiting  job=j1 reason=clients"));
    expect_parts(why(federation, "j1/1"), {"clients: round 1 of j1 waits for those before it"});
    expect_parts(why(federation, "j1/7"), {"not_found: j1 has the rounds 0 to 1"});
    expect_parts(why(federation, "j1/x"), {"invalid_argument: 'j1/x' is no round"});
    expect_parts(why(federation, "ash"), {"not_found: there is no job, round or client 'ash'"});

    Loop loop;
    Peer ash(federation.invite("ash")), birch(federation.invite("birch"));
    ASSERT_TRUE(loop.run(ash.connect(federation.port())));
    expect_parts(why(federation, "ash"),
                 {"idle: ash is connected since ", "has no task; j1 does not ask it now"});
    ASSERT_TRUE(loop.run(birch.connect(federation.port())));
    const auto task = loop.run(task_of(ash));
    ASSERT_TRUE(task) << to_string(task.error());
    expect_parts(why(federation, "j1"), {"updates: j1 waits", "ash and birch to send updates of round 0"});
    EXPECT_TRUE(waits_for(federation, "updates"));
    EXPECT_FALSE(waits_for(federation, "clients")) << "an old reason stays";
    expect_parts(why(federation, "ash"), {"asked: ash has its task for round 0 of j1", "since "});

    protocol::ClientMessage progress;
    progress.mutable_progress()->set_task_id(task->task_id());
    progress.mutable_progress()->set_step(31);
    progress.mutable_progress()->set_steps(100);
    ASSERT_TRUE(loop.run(ash.send(std::move(progress))));
    expect_parts(why_once(federation, "ash", "training"),
                 {"training: ash is at training step 31 of 100 of round 0 of j1 since ",
                  "does not close before enough have answered"});

    birch.close();
    expect_parts(why_once(federation, "birch", "away"),
                 {"away: birch is not connected since ", "round 0 of j1 counts on its return until "});

    ASSERT_TRUE(control(federation, JOB_ACTION_PAUSE, "a holiday"));
    expect_parts(why(federation, "j1"), {"resume: j1 waits, since ", "a holiday"});
    EXPECT_TRUE(waits_for(federation, "resume"));
    ASSERT_TRUE(control(federation, JOB_ACTION_STOP, "enough of it"));
    expect_parts(why(federation, "j1"), {"nothing: j1 waits for nothing: it is stopped, enough of it"});
    EXPECT_EQ(federation.get("/metrics").find("fedllm_job_waiting{"), std::string::npos)
        << "a job that is over waits";
}

awaitable<Result<protocol::ServerMessage>> send_update(Peer& peer, std::string task) {
    FEDLLM_CO_TRY_VOID(co_await peer.send_bytes(0, encoded(honest_values(task))));
    co_return co_await peer.next();
}

TEST(Why, FollowsAClientThroughARound) {
    Federation federation;
    federation.start();
    TinyJob{.clients = 2, .minimum = 2, .rounds = 1}.submit(federation);
    Loop loop;
    Peer ash(federation.invite("ash")), birch(federation.invite("birch"));
    for (Peer* const peer : {&ash, &birch}) ASSERT_TRUE(loop.run(peer->connect(federation.port())));
    for (Peer* const peer : {&ash, &birch}) ASSERT_TRUE(loop.run(task_of(*peer)));
    const auto upload = [&](Peer& peer, const std::string& task) {
        ASSERT_TRUE(loop.run(peer.send(truthful_offer(task, encoded(honest_values(task))))));
        const auto proceed = loop.run(peer.next());
        ASSERT_TRUE(proceed && proceed->has_proceed());
        if (&peer == &ash) {
            expect_parts(why(federation, "ash"),
                         {"uploading: ash is uploading its update of round 0 of j1, 0 B"});
        }
        const auto verdict = loop.run(send_update(peer, task));
        ASSERT_TRUE(verdict && verdict->has_verdict()) << verdict->ShortDebugString();
    };
    upload(ash, "j1/0/ash");
    expect_parts(why(federation, "ash"), {"idle: ash is connected", "its update of round 0 of j1 is in"});
    ASSERT_TRUE(control(federation, JOB_ACTION_PAUSE, "a holiday"));
    expect_parts(why(federation, "birch"), {"idle: birch is connected", "j1 is paused"});
    ASSERT_TRUE(control(federation, JOB_ACTION_RESUME));
    ASSERT_TRUE(loop.run(task_of(birch)));
    upload(birch, "j1/0/birch");
    const std::string committed = why_once(federation, "j1/0", "nothing");
    expect_parts(committed, {"nothing: round 0 of j1 waits for nothing: it was committed at ",
                             "with the updates of ash, birch"});
    ASSERT_TRUE(loop.run(task_of(ash)));
    expect_parts(why(federation, "ash"), {"evaluating: ash is evaluating the final version of j1"});
    ASSERT_TRUE(control(federation, JOB_ACTION_STOP, "enough of it"));
    expect_parts(why(federation, "j1/1"),
                 {"nothing: round 1 of j1 was not committed and never will be: j1 waits for "
                  "nothing: it is stopped, enough of it"});
    EXPECT_EQ(why(federation, "j1/0"), committed);
}

// --------------------------------------------------------------------------------------------------- audits

// A finished job of four rounds whose updates are kept, and its state directory to spoil copies of.
class AuditTest : public ::testing::TestWithParam<const char*> {
protected:
    void run(const std::string& versions, const std::string& updates) {
        keep(federation_, versions, updates);
        federation_.start();
        TinyJob{.clients = 2, .minimum = 2, .rounds = 4, .download_codec = GetParam()}.submit(federation_);
        Crowd crowd(federation_, {"ash", "birch"}, [](int) {});
        crowd.run();
        const auto link = federation_.operator_link();
        rows_ = *(*link)->audit_rows(JobId("j1"));
    }
    Path state() const { return federation_.folder() / "state"; }
    static audit::Report look(const Path& state) {
        const store::Ledger ledger = *store::Ledger::open_to_read(state);
        const auto history = *audit::read_history(ledger, JobId("j1"));
        audit::Report report = audit::check_chain(history);
        audit::check_files(history, store::Versions::to_read(state), server::ingest::Spool::to_read(state),
                           report);
        return report;
    }
    // What the audit says of a copy that `spoil` has changed.
    template <class Spoil>
    std::string problem_of(Spoil spoil) const {
        const TempDir copy;
        fs::copy(state(), copy.path() / "state",
                 fs::copy_options::recursive | fs::copy_options::copy_symlinks);
        spoil(copy.path() / "state");
        return look(copy.path() / "state").first_problem().value_or("");
    }
    static void change(const Path& state, const std::string& sql) {
        const auto done =
            (*store::Database::open(state / "ledger.db"))->execute("PRAGMA foreign_keys=OFF; " + sql);
        EXPECT_TRUE(done) << done.error().message;
    }
    static void flip_last_byte(const Path& file) {
        std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
        bytes.seekg(-1, std::ios::end);
        const char last = static_cast<char>(bytes.get() ^ 1);
        bytes.seekp(-1, std::ios::end);
        bytes.put(last);
        EXPECT_TRUE(bytes.good()) << file;
    }
    Path version(const Path& state, int round) const {
        return store::Versions::to_read(state).path_of(rows_.rounds(round).base_digest());
    }

    Federation federation_;
    protocol::AuditRows rows_;
};
INSTANTIATE_TEST_SUITE_P(Downloads, AuditTest, testing::Values("none", "deadzone"),
                         [](const auto& codec) { return std::string(codec.param); });

TEST_P(AuditTest, FindsWhatWasChangedAndNothingElse) {
    run("10", "100");
    const audit::Report beside_the_server = look(state());
    EXPECT_FALSE(beside_the_server.first_problem()) << *beside_the_server.first_problem();
    ASSERT_EQ(beside_the_server.rounds.size(), 4u);
    for (const auto& round : beside_the_server.rounds) {
        EXPECT_EQ(round.link, audit::Verdict::Fits);
        EXPECT_EQ(round.version, audit::Verdict::Fits);
        EXPECT_EQ(round.mean, audit::Verdict::Fits) << "the updates are kept";
    }
    EXPECT_EQ(beside_the_server.chain, rows_.rounds(3).chain());
    EXPECT_EQ(summary(federation_).chain(), rows_.rounds(3).chain());
    EXPECT_EQ(federation_.terminate(), 0);

    EXPECT_EQ(problem_of([](const Path&) {}), "");
    const auto begins = [](const std::string& problem, const std::string& expected) {
        EXPECT_TRUE(problem.starts_with(expected)) << problem << "\nexpected: " << expected;
    };
    begins(problem_of([](const Path& copy) {
               change(copy, "UPDATE parts SET weight = weight + 1 WHERE round = 1 AND client = 'ash'");
           }),
           "round 1: its inputs");
    begins(problem_of([](const Path& copy) {
               change(copy, "UPDATE parts SET update_digest = '00' WHERE round = 2 AND client = 'ash'");
           }),
           "round 2: its inputs");
    const std::string changed = problem_of([&](const Path& copy) { flip_last_byte(version(copy, 2)); });
    begins(changed, "round 1: ");
    EXPECT_NE(changed.find("do not hash to its name"), std::string::npos) << changed;
    EXPECT_NE(problem_of([&](const Path& copy) {
                  flip_last_byte(version(copy, 0));
              }).find("do not hash to its name"),
              std::string::npos);
    EXPECT_NE(problem_of([&](const Path& copy) { fs::remove(version(copy, 3)); }), "")
        << "retention took nothing";
    begins(problem_of([&](const Path& copy) {
               for (const auto& file : fs::directory_iterator(copy / "spool")) {
                   if (file.path().string().find(rows_.rounds(3).contributions(0).digest()) !=
                       std::string::npos) {
                       flip_last_byte(file.path());
                   }
               }
           }),
           "round 3: ");
    // Somebody changes a weight and writes the chain anew to its end: now only the mean can tell.
    begins(problem_of([](const Path& copy) {
               change(copy, "UPDATE parts SET weight = weight + 5 WHERE round = 1 AND client = 'ash'");
               for (std::uint32_t number = 1; number < 4; ++number) {
                   const auto chain = [&] {
                       const store::Ledger ledger = *store::Ledger::open_to_read(copy);
                       const auto rounds = *ledger.rounds(JobId("j1"));
                       return store::chain_of_round(rounds[number - 1].chain, rounds[number],
                                                    *ledger.contributions(JobId("j1"), RoundId(number)));
                   }();
                   change(copy, std::string("UPDATE rounds SET chain = '")
                                    .append(chain)
                                    .append("' WHERE round = ")
                                    .append(std::to_string(number)));
               }
           }),
           "round 1: the mean of its updates does not give");
}

TEST_P(AuditTest, RetentionTakesOldFilesAndTheAuditKnows) {
    run("2", "1");
    const auto present = [&](int round) { return fs::exists(version(state(), round)); };
    const auto gone = [&] { return !present(1) && !present(2); };
    const double give_up = monotonic_seconds() + std::chrono::duration<double>(kPatience).count();
    while (!gone() && monotonic_seconds() < give_up) usleep(10'000);
    EXPECT_TRUE(present(0)) << "the initial version stays";
    EXPECT_FALSE(present(1));
    EXPECT_FALSE(present(2));
    EXPECT_TRUE(present(3));
    EXPECT_TRUE(fs::exists(state() / "adapters/j1/latest/adapter_model.safetensors"));
    EXPECT_TRUE(fs::exists(state() / "adapters/j1/round-0004"));
    EXPECT_FALSE(fs::exists(state() / "adapters/j1/round-0002"));
    const audit::Report report = look(state());
    EXPECT_FALSE(report.first_problem()) << *report.first_problem();
    EXPECT_EQ(report.rounds[0].version, audit::Verdict::NotKept);
    EXPECT_EQ(report.rounds[2].version, audit::Verdict::Fits);
    EXPECT_EQ(report.rounds[2].mean, audit::Verdict::NotKept);
    EXPECT_EQ(report.rounds[3].mean, audit::Verdict::Fits) << "the last round's updates are kept";
    const auto link = federation_.operator_link();
    const auto removed = (*link)->fetch(rows_.rounds(1).base_digest());
    ASSERT_FALSE(removed);
    EXPECT_EQ(removed.error().code, Errc::NotFound);
    EXPECT_NE(removed.error().message.find("retention.versions"), std::string::npos)
        << removed.error().message;
    EXPECT_TRUE((*link)->fetch(rows_.rounds(3).next_digest()));

    // A lower figure at the next start takes what was left, and nothing more than that.
    EXPECT_EQ(federation_.terminate(), 0);
    federation_.start();
    EXPECT_TRUE(present(0));
    EXPECT_TRUE(present(3));
    EXPECT_FALSE(look(state()).first_problem());
}

}  // namespace
}  // namespace fedllm::test
