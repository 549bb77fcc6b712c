// Clients that lie, blunder and repeat themselves, over real TLS, against the real server program: each is
// refused by name and counted, and the federation goes on.
#include "common/formats/param_set_file.hpp"
#include "tests/integration/federation.hpp"

namespace fedllm::test {
namespace {

using namespace std::chrono_literals;

std::string refused_updates(Errc code) {
    return "fedllm_updates_total{job=\"j1\",outcome=\"refused\",reason=\"" + std::string(name(code)) + "\"}";
}
std::string refused_messages(Errc code) {
    return "fedllm_messages_refused_total{reason=\"" + std::string(name(code)) + "\"}";
}
constexpr auto kUntrusted = "fedllm_connections_refused_total{reason=\"peer_untrusted\"}";

// ---------------------------------------------------------------------------------------------- certificates

net::TlsFiles write_credentials(const Path& folder, const Path& ca, const net::Credentials& credentials) {
    EXPECT_TRUE(make_directories(folder));
    EXPECT_TRUE(write_file_atomically(folder / "client.crt", credentials.certificate_pem));
    EXPECT_TRUE(write_file_atomically(folder / "client.key", credentials.key_pem, FileMode::Secret));
    return {.ca = ca, .certificate = folder / "client.crt", .key = folder / "client.key"};
}

net::Credentials issued(const net::Credentials& authority, const net::Validity& validity) {
    return net::issue_certificate(authority, {.role = net::Role::Client,
                                              .name = "mallory",
                                              .dns_names = {},
                                              .addresses = {},
                                              .validity = validity})
        .value();
}

TEST(Hostile, CertificatesThatAreExpiredOrForeignAreRefusedWithTheReason) {
    Federation federation;
    federation.start();
    const Path ca = federation.folder() / "ca.crt";
    const Timestamp now = SystemClock().now();
    const net::Validity good = net::valid_for(now, std::chrono::days(1));
    const net::Credentials own{read_file(ca).value(), read_file(federation.folder() / "ca.key").value()};
    const auto foreign = net::create_authority("elsewhere", good).value();
    Loop loop;

    Peer expired(write_credentials(federation.folder() / "expired", ca,
                                   issued(own, {now - std::chrono::hours(48), now - std::chrono::hours(1)})));
    EXPECT_FALSE(loop.run(expired.connect(federation.port())));
    EXPECT_TRUE(federation.log_has("certificate has expired"));
    EXPECT_EQ(federation.metric_from(kUntrusted, 1), 1);

    Peer stranger(write_credentials(federation.folder() / "foreign", ca, issued(foreign, good)));
    EXPECT_FALSE(loop.run(stranger.connect(federation.port())));
    EXPECT_TRUE(federation.log_has("unable to get local issuer certificate"));
    EXPECT_EQ(federation.metric_from(kUntrusted, 2), 2);

    Peer fine(write_credentials(federation.folder() / "fine", ca, issued(own, good)));
    const auto welcome = loop.run(fine.connect(federation.port()));
    EXPECT_TRUE(welcome) << to_string(welcome.error());
    EXPECT_EQ(federation.metric(kUntrusted), 2);
}

// ------------------------------------------------------------------------------------------------ raw frames

// Sends `bytes` as the first thing inside TLS and waits until the server has hung up.
awaitable<Result<void>> say(net::TlsFiles files, std::uint16_t port, std::vector<std::byte> bytes) {
    FEDLLM_CO_TRY(const auto tls, net::make_client_context(files));
    FEDLLM_CO_TRY(auto connected, co_await net::connect_tls("127.0.0.1", port, tls, "127.0.0.1", kPatience));
    FEDLLM_CO_TRY([[maybe_unused]] const auto sent, co_await connected.stream->write_some(bytes));
    std::vector<std::byte> answer(4096);
    while (co_await connected.stream->read_some(answer)) {
    }
    co_return Result<void>{};
}

std::vector<std::byte> frame(std::initializer_list<int> bytes) {
    std::vector<std::byte> result;
    for (const int byte : bytes) result.push_back(static_cast<std::byte>(byte));
    return result;
}

TEST(Hostile, FramesThatBreakTheGrammarEndTheirConnectionAndAreCounted) {
    Federation federation;
    federation.start();
    const auto files = federation.invite("mallory");
    Loop loop;
    const std::vector<std::pair<Errc, std::vector<std::byte>>> cases{
        {Errc::TooLarge, frame({0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0})},                  // 4 GiB
        {Errc::TooLarge, frame({0, 0, 0, 13, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7})},  // a chunk, no Hello
        {Errc::Malformed, frame({0, 0, 0, 6, 9, 0, 0, 0, 0x3a, 0})},     // no such kind of frame
        {Errc::Malformed, frame({0, 0, 0, 6, 1, 0, 0, 1, 0x3a, 0})},     // padding that is not zero
        {Errc::Malformed, frame({0, 0, 0, 6, 1, 0, 0, 0, 0xff, 0xff})},  // not Protobuf
        {Errc::OutOfOrder, frame({0, 0, 0, 6, 1, 0, 0, 0, 0x3a, 0})},    // Ping before Hello
    };
    std::map<Errc, int> expected;
    for (const auto& [code, bytes] : cases) {
        const auto ended = loop.run(say(files, federation.port(), bytes));
        EXPECT_TRUE(ended) << to_string(ended.error());
        // The hang-up reaches us before the server has written its log line.
        EXPECT_TRUE(federation.log_has("reason=" + std::string(name(code)))) << name(code);
        ++expected[code];
        EXPECT_EQ(federation.metric_from(refused_messages(code), expected[code]), expected[code])
            << name(code);
    }
    Peer fine(files);
    EXPECT_TRUE(loop.run(fine.connect(federation.port())));
}

// ----------------------------------------------------------------------------------------------- old tasks

// What a client says about a task that is over crossed with its end, and is let pass: nothing is answered,
// recorded or sent.
TEST(Hostile, WordsAboutAnEarlierTaskChangeNothing) {
    Federation federation;
    federation.start();
    Loop loop;
    Peer ash(federation.invite("ash"));
    ASSERT_TRUE(loop.run(ash.connect(federation.port())));
    TinyJob{.clients = 1, .minimum = 1, .rounds = 2}.submit(federation);
    const auto next = [&] {
        auto message = loop.run(ash.next());
        EXPECT_TRUE(message) << to_string(message.error());
        return message ? *message : protocol::ServerMessage();
    };
    const auto answer = [&](const std::string& task) {
        const auto update = encoded(honest_values(task));
        ASSERT_TRUE(loop.run(ash.send(truthful_offer(task, update))));
        const auto proceed = next();
        ASSERT_TRUE(proceed.has_proceed()) << proceed.ShortDebugString();
        ASSERT_TRUE(loop.run(ash.send_bytes(0, update)));
        const auto verdict = next();
        EXPECT_EQ(verdict.verdict().outcome(), protocol::OUTCOME_ACCEPTED) << verdict.ShortDebugString();
    };
    const auto first = next();
    answer("j1/0/ash");
    const auto second = next();
    ASSERT_EQ(second.task().task_id(), "j1/1/ash") << second.ShortDebugString();

    protocol::ClientMessage progress, evaluation, decline, fetch;
    progress.mutable_progress()->set_task_id(first.task().task_id());
    progress.mutable_progress()->set_step(9);
    progress.mutable_progress()->set_steps(9);
    *evaluation.mutable_evaluation() = truthful_offer(first.task().task_id(), {}).evaluation();
    decline.mutable_decline()->set_task_id(first.task().task_id());
    decline.mutable_decline()->set_reason("out_of_memory");
    fetch.mutable_fetch()->set_task_id(first.task().task_id());
    fetch.mutable_fetch()->set_digest(first.task().model_digest());
    for (const auto& message : {progress, evaluation, decline, fetch})
        ASSERT_TRUE(loop.run(ash.send(message)));
    answer("j1/1/ash");
    EXPECT_FALSE(federation.log_has("client declined", Duration(0)));
    EXPECT_EQ(federation.metric("fedllm_client_bytes_total{client=\"ash\",direction=\"down\"}"), 0);
    EXPECT_EQ(federation.metric("fedllm_task_progress_ratio{client=\"ash\",job=\"j1\"}"), 0);
}

// -------------------------------------------------------------------------------------------------- updates

class HostileUpdates : public testing::Test {
protected:
    static constexpr auto kClients = {"ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple"};

    // Everybody is connected and has been asked for an update of round 0.
    void SetUp() override {
        federation_.start();
        for (const std::string name : kClients) {
            peers_[name] = std::make_unique<Peer>(federation_.invite(name));
            ASSERT_TRUE(loop_.run(peers_[name]->connect(federation_.port())));
        }
        TinyJob{.clients = std::size(kClients), .minimum = 3, .rounds = 2}.submit(federation_);
        for (const std::string name : kClients) expect_task(name, task(0, name));
    }

    static std::string task(int round, const std::string& name) {
        return "j1/" + std::to_string(round) + "/" + name;
    }
    void expect_task(const std::string& name, const std::string& id) {
        const auto message = loop_.run(peers_[name]->next());
        ASSERT_TRUE(message) << name << ": " << to_string(message.error());
        ASSERT_TRUE(message->has_task()) << name << ": " << message->ShortDebugString();
        ASSERT_EQ(message->task().task_id(), id);
    }
    protocol::ServerMessage offer(const std::string& name, const protocol::Offer& what) {
        EXPECT_TRUE(loop_.run(peers_[name]->send(what)));
        return next(name);
    }
    protocol::ServerMessage next(const std::string& name) {
        auto message = loop_.run(peers_[name]->next());
        if (message) return std::move(*message);
        ADD_FAILURE() << name << ": " << to_string(message.error());
        return {};
    }
    // A truthful claim about these bytes, then the bytes in small chunks, so that others are on their way
    // behind a bad one; the server's answer to them.
    protocol::ServerMessage upload(const std::string& name, const std::string& id,
                                   const std::vector<std::byte>& bytes, std::uint64_t offset = 0) {
        const auto answer = offer(name, truthful_offer(id, bytes));
        EXPECT_TRUE(answer.has_proceed()) << name << ": " << answer.ShortDebugString();
        EXPECT_TRUE(loop_.run(send_in_pieces(*peers_[name], offset, bytes)));
        return next(name);
    }
    static net::awaitable<Result<void>> send_in_pieces(Peer& peer, std::uint64_t offset,
                                                       std::span<const std::byte> bytes) {
        constexpr std::size_t kPiece = 8;
        for (std::size_t at = 0; at < bytes.size(); at += kPiece) {
            const auto piece = bytes.subspan(at, std::min(kPiece, bytes.size() - at));
            FEDLLM_CO_TRY_VOID(co_await peer.send_bytes(offset + at, piece));
        }
        co_return Result<void>{};
    }
    void expect_refused(const protocol::ServerMessage& message, Errc code) {
        ASSERT_TRUE(message.has_verdict()) << message.ShortDebugString();
        EXPECT_EQ(message.verdict().outcome(), protocol::OUTCOME_REFUSED);
        EXPECT_EQ(message.verdict().reason(), name(code)) << message.verdict().detail();
        EXPECT_FALSE(message.verdict().detail().empty());
    }
    // Refused, counted, and said in the server's log with the client's name.
    void expect_refused_update(const std::string& client, const protocol::ServerMessage& message, Errc code) {
        expect_refused(message, code);
        EXPECT_GE(federation_.metric(refused_updates(code)), 1) << name(code);
        EXPECT_TRUE(federation_.log_has("update refused")) << client;
        EXPECT_TRUE(
            federation_.log_has("client=" + client + " job=j1 round=0 reason=" + std::string(name(code))))
            << client;
    }
    void expect_accepted(const protocol::ServerMessage& message) {
        ASSERT_TRUE(message.has_verdict()) << message.ShortDebugString();
        EXPECT_EQ(message.verdict().outcome(), protocol::OUTCOME_ACCEPTED) << message.verdict().detail();
    }

    Federation federation_;
    Loop loop_;
    std::map<std::string, std::unique_ptr<Peer>> peers_;
};

TEST_F(HostileUpdates, AreRefusedByNameAndTheRoundGoesOn) {
    const auto good = [](int round, const std::string& name) {
        return encoded(honest_values(task(round, name)));
    };

    auto wrong_size = truthful_offer(task(0, "cedar"), good(0, "cedar"));
    wrong_size.set_bytes(wrong_size.bytes() + 4);
    expect_refused_update("cedar", offer("cedar", wrong_size), Errc::ManifestMismatch);

    auto lie = truthful_offer(task(0, "elm"), good(0, "elm"));
    lie.set_samples(TinyJob::kSamplesMax + 1);
    expect_refused_update("elm", offer("elm", lie), Errc::SampleCountLie);

    expect_refused_update("hazel", upload("hazel", task(0, "hazel"), good(0, "hazel"), 4), Errc::OutOfOrder);

    auto values = honest_values(task(0, "larch"));
    values[5] = std::numeric_limits<float>::quiet_NaN();
    const auto not_finite = upload("larch", task(0, "larch"), encoded(values));
    expect_refused_update("larch", not_finite, Errc::NotFinite);
    EXPECT_NE(not_finite.verdict().detail().find("lora_A.weight [2, 16], element 5"), std::string::npos);

    values.assign(values.size(), 1.0f);  // a norm of 8; 4 is allowed
    expect_refused_update("maple", upload("maple", task(0, "maple"), encoded(values)), Errc::OutOfBounds);

    // Another client's task, and a task of no such form: the offender's own task stays open to it.
    expect_refused(offer("fir", truthful_offer(task(0, "ash"), good(0, "ash"))), Errc::PermissionDenied);
    expect_refused(offer("fir", truthful_offer("j1/none", good(0, "fir"))), Errc::Malformed);
    expect_accepted(upload("fir", task(0, "fir"), good(0, "fir")));

    // Said twice is counted once; another update in the place of the first is not counted at all.
    expect_accepted(upload("ash", task(0, "ash"), good(0, "ash")));
    const auto again = offer("ash", truthful_offer(task(0, "ash"), good(0, "ash")));
    EXPECT_EQ(again.verdict().outcome(), protocol::OUTCOME_ALREADY_ACCEPTED) << again.ShortDebugString();
    expect_refused(offer("ash", truthful_offer(task(0, "ash"), good(0, "elm"))), Errc::Duplicate);
    EXPECT_EQ(federation_.metric(refused_updates(Errc::Duplicate)), 1);

    // The last answer closes the round: three of eight count, and everybody is asked again.
    expect_accepted(upload("birch", task(0, "birch"), good(0, "birch")));
    for (const std::string name : kClients) expect_task(name, task(1, name));
    EXPECT_TRUE(federation_.log_has("round committed"));
    expect_refused(offer("elm", truthful_offer(task(0, "elm"), good(0, "elm"))), Errc::Stale);
    EXPECT_EQ(federation_.metric(refused_updates(Errc::Stale)), 1);

    for (const std::string name : kClients) expect_accepted(upload(name, task(1, name), good(1, name)));
    EXPECT_EQ(federation_.metric("fedllm_updates_total{job=\"j1\",outcome=\"accepted\",reason=\"\"}"), 3 + 8);
    EXPECT_EQ(federation_.terminate(), 0);
    EXPECT_EQ(federation_.log().find("task failed"), std::string::npos)
        << "a chunk behind one that was refused";
}

}  // namespace
}  // namespace fedllm::test
