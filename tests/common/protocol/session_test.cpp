#include "common/protocol/session.hpp"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace fedllm::protocol {
namespace {

using K = MessageKind;

constexpr std::string_view kTask = "j1/0/a";
constexpr std::string_view kOther = "j1/1/a";

// One step of a script, told from the wire: who speaks, what, about which task.
struct Step {
    enum class Who { Client, Server, UploadDone, DownloadDone } who;
    K kind = K::Ping;
    std::string_view task = {};
};
Step up(K kind, std::string_view task = kTask) { return {Step::Who::Client, kind, task}; }
Step down(K kind, std::string_view task = kTask) { return {Step::Who::Server, kind, task}; }
const Step kUploadDone{Step::Who::UploadDone};
const Step kDownloadDone{Step::Who::DownloadDone};

// Runs a script that must be legal, as seen from `side`.
Session after(Side side, PeerRole role, const std::vector<Step>& script) {
    Session session(side, role);
    for (const Step& step : script) {
        if (step.who == Step::Who::UploadDone) {
            session.upload_finished();
        } else if (step.who == Step::Who::DownloadDone) {
            session.download_finished();
        } else if ((step.who == Step::Who::Client) == (side == Side::Client)) {
            const auto sent = session.on_send(step.kind, step.task);
            EXPECT_TRUE(sent) << to_string(sent.error());
        } else {
            const auto received = session.on_receive(step.kind, step.task);
            EXPECT_TRUE(received) << to_string(received.error());
            EXPECT_EQ(received.value(), Relevance::Current) << name(step.kind);
        }
    }
    return session;
}

// What a session in this state does with every kind of message, in both directions, about the open task and
// about another: anything not listed must be OutOfOrder.
struct Expected {
    std::set<K> up = {};          // client may say, about the open task
    std::set<K> down = {};        // server may say, about the open task
    std::set<K> up_stale = {};    // arrives as Stale at the server
    std::set<K> down_stale = {};  // arrives as Stale at the client
    std::set<K> up_other = {};    // the same, about another task: what arrives as Stale at the server
    std::set<K> down_other = {};
};

void check_direction(const Session& state, Side side, bool from_client, std::string_view task,
                     const std::set<K>& current, const std::set<K>& stale) {
    for (int i = 0; i < kMessageKinds; ++i) {
        const K kind = static_cast<K>(i);
        Session copy = state;
        const std::string at = std::string(name(kind)) + " for '" + std::string(task) + "' " +
                               (from_client ? "up" : "down") +
                               (side == Side::Client ? " at client, " : " at server, ") + state.describe();
        if (from_client == (side == Side::Client)) continue;  // sending is checked by check_sending
        const auto result = copy.on_receive(kind, task);
        if (current.contains(kind)) {
            ASSERT_TRUE(result) << at;
            EXPECT_EQ(*result, Relevance::Current) << at;
        } else if (stale.contains(kind)) {
            ASSERT_TRUE(result) << at;
            EXPECT_EQ(*result, Relevance::Stale) << at;
        } else {
            ASSERT_FALSE(result) << at;
            EXPECT_EQ(result.error().code, Errc::OutOfOrder);
            EXPECT_NE(result.error().message.find(name(kind)), std::string::npos);
            EXPECT_EQ(copy.describe(), state.describe()) << "a refusal changes nothing";
        }
    }
}

void check_sending(const Session& state, Side side, const std::set<K>& legal) {
    for (int i = 0; i < kMessageKinds; ++i) {
        const K kind = static_cast<K>(i);
        Session copy = state;
        EXPECT_EQ(copy.on_send(kind, kTask).has_value(), legal.contains(kind))
            << name(kind) << (side == Side::Client ? " sent by client, " : " sent by server, ")
            << state.describe();
    }
}

void check(PeerRole role, const std::vector<Step>& script, const Expected& expected) {
    const Session server = after(Side::Server, role, script);
    const Session client = after(Side::Client, role, script);
    check_direction(server, Side::Server, true, kTask, expected.up, expected.up_stale);
    check_direction(client, Side::Client, false, kTask, expected.down, expected.down_stale);
    if (role == PeerRole::Client) {
        std::set<K> neutral_up, neutral_down;  // kinds that are about no task
        for (const K kind : {K::Hello, K::Ping, K::Goodbye, K::Chunk}) {
            if (expected.up.contains(kind)) neutral_up.insert(kind);
        }
        for (const K kind : {K::Welcome, K::Ping, K::Goodbye, K::Chunk}) {
            if (expected.down.contains(kind)) neutral_down.insert(kind);
        }
        if (server.task().empty() && expected.down.contains(K::Task)) neutral_down.insert(K::Task);
        check_direction(server, Side::Server, true, kOther, neutral_up, expected.up_other);
        check_direction(client, Side::Client, false, kOther, neutral_down, expected.down_other);
    }
    // Who sends may do exactly what the other side takes as Current (and an Offer or a Verdict for another
    // task).
    std::set<K> client_sends = expected.up, server_sends = expected.down;
    if (role == PeerRole::Client && client.greeted() && client.task().empty()) {
        client_sends.insert(K::Offer);
        server_sends.insert(K::Verdict);
    }
    check_sending(client, Side::Client, client_sends);
    check_sending(server, Side::Server, server_sends);
}

const std::vector<Step> kOpen = {up(K::Hello, ""), down(K::Welcome, "")};
const std::set<K> kLateUp = {K::Fetch, K::Progress, K::Offer, K::Evaluation, K::Decline};
const std::set<K> kLateDown = {K::Proceed, K::Verdict, K::Release};

std::vector<Step> open_then(std::vector<Step> more) {
    std::vector<Step> script = kOpen;
    script.insert(script.end(), more.begin(), more.end());
    return script;
}

std::set<K> with(std::set<K> set, std::initializer_list<K> more) {
    set.insert(more);
    return set;
}

TEST(SessionTable, Greeting) {
    for (const PeerRole role : {PeerRole::Client, PeerRole::Operator}) {
        check(role, {}, {.up = {K::Hello, K::Goodbye}, .down = {K::Goodbye}});
        check(role, {up(K::Hello, "")}, {.up = {K::Goodbye}, .down = {K::Welcome, K::Goodbye}});
    }
}

TEST(SessionTable, ClientWithoutTask) {
    check(PeerRole::Client, kOpen,
          {.up = {K::Ping, K::Goodbye},
           .down = {K::Ping, K::Goodbye, K::Task},
           .up_stale = kLateUp,
           .down_stale = kLateDown,
           .up_other = kLateUp,
           .down_other = kLateDown});
}

TEST(SessionTable, ClientTask) {
    const std::set<K> up_free = {K::Ping,  K::Goodbye,    K::Fetch,  K::Progress,
                                 K::Offer, K::Evaluation, K::Decline};
    const std::set<K> down_free = {K::Ping, K::Goodbye, K::Release};
    const auto at = [&](std::vector<Step> more, std::set<K> ups, std::set<K> downs) {
        check(PeerRole::Client, open_then(std::move(more)),
              {.up = std::move(ups), .down = std::move(downs), .up_other = kLateUp, .down_other = kLateDown});
    };
    at({down(K::Task)}, up_free, down_free);
    const std::set<K> downloading = {K::Ping, K::Goodbye, K::Progress, K::Offer, K::Evaluation, K::Decline};
    at({down(K::Task), up(K::Fetch)}, downloading, with(down_free, {K::Chunk}));
    at({down(K::Task), up(K::Fetch), down(K::Chunk), kDownloadDone}, up_free, down_free);
    const std::set<K> offered = {K::Ping, K::Goodbye, K::Fetch, K::Progress, K::Decline};
    at({down(K::Task), up(K::Offer)}, offered, with(down_free, {K::Proceed, K::Verdict}));
    at({down(K::Task), up(K::Offer), down(K::Proceed)}, with(offered, {K::Chunk}),
       with(down_free, {K::Verdict}));
    at({down(K::Task), up(K::Offer), down(K::Proceed), up(K::Chunk), kUploadDone}, offered,
       with(down_free, {K::Verdict}));
    at({down(K::Task), up(K::Evaluation)}, offered, with(down_free, {K::Verdict}));
}

TEST(SessionTable, TaskClosed) {
    const Expected closed = {.up = {K::Ping, K::Goodbye},
                             .down = {K::Ping, K::Goodbye, K::Task},
                             .up_stale = kLateUp,
                             .down_stale = kLateDown,
                             .up_other = kLateUp,
                             .down_other = kLateDown};
    check(PeerRole::Client, open_then({down(K::Task), down(K::Release)}), closed);
    check(PeerRole::Client, open_then({down(K::Task), up(K::Decline)}), closed);
    check(PeerRole::Client, open_then({down(K::Task), up(K::Evaluation), down(K::Verdict)}), closed);
    check(PeerRole::Client, open_then({down(K::Task), up(K::Offer), down(K::Verdict)}), closed);

    // Given up in the middle of a transfer: chunks already under way are Stale.
    Expected uploading = closed, downloading = closed;
    uploading.up_stale.insert(K::Chunk);
    uploading.up_other.insert(K::Chunk);
    downloading.down_stale.insert(K::Chunk);
    downloading.down_other.insert(K::Chunk);
    check(PeerRole::Client, open_then({down(K::Task), up(K::Offer), down(K::Proceed), down(K::Release)}),
          uploading);
    check(PeerRole::Client, open_then({down(K::Task), up(K::Offer), down(K::Proceed), down(K::Verdict)}),
          uploading);
    check(PeerRole::Client, open_then({down(K::Task), up(K::Fetch), up(K::Decline)}), downloading);
    check(PeerRole::Client, open_then({down(K::Task), up(K::Fetch), down(K::Release)}), closed);
}

TEST(SessionTable, Operator) {
    const std::set<K> requests = {K::SubmitJob, K::ListJobs, K::ShowJob, K::ControlJob, K::Why,
                                  K::AuditJob,  K::Fetch,    K::Ping,    K::Goodbye};
    const std::set<K> quiet = {K::Ping, K::Goodbye};
    const auto at = [&](std::vector<Step> more, std::set<K> ups, std::set<K> downs) {
        check(PeerRole::Operator, open_then(std::move(more)),
              {.up = std::move(ups), .down = std::move(downs)});
    };
    at({}, requests, quiet);
    at({up(K::ListJobs)}, quiet, with(quiet, {K::JobList, K::Refusal}));
    at({up(K::ShowJob)}, quiet, with(quiet, {K::JobReport, K::Refusal}));
    at({up(K::ControlJob)}, quiet, with(quiet, {K::JobControlled, K::Refusal}));
    at({up(K::Why)}, quiet, with(quiet, {K::Because, K::Refusal}));
    at({up(K::AuditJob)}, quiet, with(quiet, {K::AuditRows, K::Refusal}));
    at({up(K::Fetch)}, quiet, with(quiet, {K::Blob, K::Refusal}));
    at({up(K::Fetch), down(K::Blob)}, quiet, with(quiet, {K::Chunk}));
    at({up(K::Fetch), down(K::Blob), down(K::Chunk), kDownloadDone}, requests, quiet);
    at({up(K::SubmitJob)}, quiet, with(quiet, {K::Proceed, K::JobAccepted, K::Refusal}));
    at({up(K::SubmitJob), down(K::Proceed)}, with(quiet, {K::Chunk}), with(quiet, {K::Refusal}));
    at({up(K::SubmitJob), down(K::Proceed), kUploadDone}, quiet, with(quiet, {K::JobAccepted, K::Refusal}));
    at({up(K::SubmitJob), down(K::JobAccepted)}, requests, quiet);
    at({up(K::ListJobs), down(K::JobList)}, requests, quiet);
    check(PeerRole::Operator, open_then({up(K::SubmitJob), down(K::Proceed), down(K::Refusal)}),
          {.up = requests, .down = quiet, .up_stale = {K::Chunk}});
}

TEST(SessionTable, AfterGoodbyeNothingIsSentAndWhatComesIsStale) {
    for (const auto& goodbye : {up(K::Goodbye, ""), down(K::Goodbye, "")}) {
        for (const Side side : {Side::Server, Side::Client}) {
            const Session over = after(side, PeerRole::Client, open_then({goodbye}));
            EXPECT_TRUE(over.over());
            for (int i = 0; i < kMessageKinds; ++i) {
                Session copy = over;
                EXPECT_FALSE(copy.on_send(static_cast<K>(i), kTask));
                EXPECT_EQ(copy.on_receive(static_cast<K>(i), kTask).value(), Relevance::Stale);
            }
        }
    }
}

// The chunks of a given-up upload stay Stale until the next Offer, whatever comes between.
TEST(Session, DrainingEndsWithTheNextOffer) {
    Session server = after(Side::Server, PeerRole::Client,
                           open_then({down(K::Task), up(K::Offer), down(K::Proceed), up(K::Chunk),
                                      down(K::Release), down(K::Task, kOther)}));
    EXPECT_EQ(server.on_receive(K::Chunk).value(), Relevance::Stale);
    EXPECT_EQ(server.on_receive(K::Fetch, kOther).value(), Relevance::Current);
    EXPECT_EQ(server.on_receive(K::Chunk).value(), Relevance::Stale);
    EXPECT_EQ(server.on_receive(K::Offer, kOther).value(), Relevance::Current);
    EXPECT_FALSE(server.on_receive(K::Chunk));  // before Proceed
    EXPECT_TRUE(server.on_send(K::Proceed, kOther));
    EXPECT_EQ(server.on_receive(K::Chunk).value(), Relevance::Current);
}

// A lost Verdict: the client offers again what this session knows nothing of.
TEST(Session, OfferOfAnEarlierTaskIsAnsweredAndHarmless) {
    Session server = after(Side::Server, PeerRole::Client, open_then({down(K::Task)}));
    EXPECT_EQ(server.on_receive(K::Offer, kOther).value(), Relevance::Stale);
    EXPECT_TRUE(server.on_send(K::Verdict, kOther));
    EXPECT_EQ(server.task(), kTask);
    Session client = after(Side::Client, PeerRole::Client, open_then({down(K::Task)}));
    EXPECT_TRUE(client.on_send(K::Offer, kOther));
    EXPECT_EQ(client.on_receive(K::Verdict, kOther).value(), Relevance::Stale);
    EXPECT_EQ(client.task(), kTask);
}

}  // namespace
}  // namespace fedllm::protocol
