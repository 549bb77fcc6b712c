// Handshakes over real sockets: who is let in, and with what words the others are refused.
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/ssl/stream.hpp>

#include "common/net/openssl.hpp"
#include "common/net/revocation.hpp"
#include "common/net/tls_files.hpp"
#include "tests/common/net/support.hpp"

namespace fedllm::net {
namespace {

class TlsTest : public ::testing::Test {
protected:
    TlsContext server() { return make_server_context(server_files_).value(); }
    TlsContext client(const TlsFiles& files) { return make_client_context(files).value(); }

    void expect_server_refuses(TlsContext context, std::string_view reason) {
        Handshakes hands;
        std::optional<Result<std::size_t>> read;
        run(loop_, shake_and_read(server(), std::move(context), hands, read));
        ASSERT_TRUE(hands.server.has_value());
        ASSERT_FALSE(*hands.server) << "the server let it in";
        EXPECT_EQ(hands.server->error().code, Errc::PeerUntrusted) << to_string(hands.server->error());
        EXPECT_NE(hands.server->error().message.find(reason), std::string::npos)
            << hands.server->error().message;
        // The client learns it at its handshake or at its first read.
        const Error& seen = *hands.client ? read.value().error() : hands.client->error();
        EXPECT_EQ(seen.code, Errc::PeerUntrusted) << to_string(seen);
    }

    // A revocation list of our authority with this one certificate on it.
    std::string revocation_of(const Path& certificate_file) {
        return revoke(authority_.credentials(), "", {read_file(certificate_file).value()},
                      SystemClock().now())
            .value()
            .crl_pem;
    }

    static awaitable<void> shake_and_read(TlsContext server, TlsContext client, Handshakes& hands,
                                          std::optional<Result<std::size_t>>& read) {
        co_await shake_hands(std::move(server), std::move(client), hands);
        if (!*hands.client) co_return;
        std::array<std::byte, 1> byte;
        read = co_await (*hands.client)->stream->read_some(byte);
    }

    asio::io_context loop_;
    TemporaryFolder folder_;
    TestAuthority authority_{folder_.path() / "ours"};
    TestAuthority foreign_{folder_.path() / "foreign"};
    TlsFiles server_files_ = authority_.issue(Role::Server, "server");
    TlsFiles client_files_ = authority_.issue(Role::Client, "site-a");
};

TEST_F(TlsTest, BothSidesLearnWhoThePeerIs) {
    for (const Role role : {Role::Client, Role::Operator}) {
        Handshakes hands;
        const TlsFiles files = authority_.issue(role, "someone");
        run(loop_, shake_hands(server(), client(files), hands));
        ASSERT_TRUE(*hands.server) << to_string(hands.server->error());
        ASSERT_TRUE(*hands.client) << to_string(hands.client->error());
        EXPECT_EQ((*hands.server)->peer, own_identity(files).value());
        EXPECT_EQ((*hands.server)->peer.role, role);
        EXPECT_EQ((*hands.server)->peer.name, ClientId("someone"));
        EXPECT_EQ((*hands.server)->peer.fingerprint.size(), 64u);
        EXPECT_EQ((*hands.client)->peer.role, Role::Server);
    }
}

TEST_F(TlsTest, TheWireIsCountedBelowTls) {
    Handshakes hands;
    run(loop_, shake_hands(server(), client(client_files_), hands));
    ASSERT_TRUE(*hands.server && *hands.client);
    Stream& stream = *(*hands.server)->stream;
    const std::uint64_t received = stream.wire_bytes().received;
    EXPECT_GT(received, 500u) << "a certificate at least";
    EXPECT_GT((*hands.client)->stream->wire_bytes().received, 500u);
    stream.close();
    EXPECT_EQ(stream.wire_bytes().received, received) << "also after the end";
}

TEST_F(TlsTest, ForeignAuthority) {
    TlsFiles files = foreign_.issue(Role::Client, "site-a");
    files.ca = client_files_.ca;  // trusts our server all the same
    expect_server_refuses(client(files), "unable to get local issuer certificate");
}

TEST_F(TlsTest, Expired) {
    expect_server_refuses(client(authority_.issue(Role::Client, "late", TestAuthority::expired())),
                          "certificate has expired");
}

TEST_F(TlsTest, NoCertificate) {
    auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_client);
    context->load_verify_file(client_files_.ca.string());
    SSL_CTX_set_alpn_protos(context->native_handle(),
                            reinterpret_cast<const unsigned char*>("\x08"
                                                                   "fedllm/1"),
                            9);
    expect_server_refuses(context, "peer did not return a certificate");
}

TEST_F(TlsTest, WrongAlpn) {
    TlsContext context = client(client_files_);
    SSL_CTX_set_alpn_protos(context->native_handle(),
                            reinterpret_cast<const unsigned char*>("\x08"
                                                                   "http/1.1"),
                            9);
    expect_server_refuses(context, "no application protocol");
}

TEST_F(TlsTest, NoAlpn) {
    TlsContext context = client(client_files_);
    SSL_CTX_set_alpn_protos(context->native_handle(), nullptr, 0);
    Handshakes hands;
    run(loop_, shake_hands(server(), context, hands));
    ASSERT_FALSE(*hands.server);
    EXPECT_EQ(hands.server->error().code, Errc::PeerUntrusted);
    EXPECT_NE(hands.server->error().message.find("ALPN"), std::string::npos);
    EXPECT_FALSE(*hands.client);
}

TEST_F(TlsTest, OldTls) {
    TlsContext context = client(client_files_);
    SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
    SSL_CTX_set_max_proto_version(context->native_handle(), TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(context->native_handle(), "DEFAULT");
    expect_server_refuses(context, "unsupported protocol");
}

TEST_F(TlsTest, RevokedCertificate) {
    server_files_.crl = folder_.path() / "crl.pem";
    write_file_atomically(*server_files_.crl, revocation_of(client_files_.certificate)).value();
    expect_server_refuses(client(client_files_), "certificate revoked");
    Handshakes hands;
    run(loop_, shake_hands(server(), client(authority_.issue(Role::Client, "site-b")), hands));
    EXPECT_TRUE(*hands.server) << to_string(hands.server->error());
}

TEST_F(TlsTest, AListThatWouldLockEverybodyOutIsRefused) {
    server_files_.crl = folder_.path() / "crl.pem";
    const auto message_of_list = [&](const std::string& pem) {
        write_file_atomically(*server_files_.crl, pem).value();
        const auto context = make_server_context(server_files_);
        return context ? std::string("taken") : context.error().message;
    };
    const Timestamp now = SystemClock().now();
    EXPECT_NE(message_of_list("garbage").find("crl.pem: no PEM"), std::string::npos);
    EXPECT_NE(
        message_of_list(revoke(foreign_.credentials(), "", {}, now)->crl_pem).find("no authority of ours"),
        std::string::npos);
    const auto old = create_authority("test federation", TestAuthority::expired()).value();
    EXPECT_NE(message_of_list(revoke(old, "", {}, now)->crl_pem), "taken") << "the same name, another key";
    EXPECT_EQ(message_of_list(revoke(authority_.credentials(), "", {}, now)->crl_pem), "taken");
}

TEST_F(TlsTest, RevocationsAddUp) {
    const Timestamp now = SystemClock().now();
    const auto pem_of = [&](const std::string& name) {
        return read_file(authority_.issue(Role::Client, name).certificate).value();
    };
    const std::string a = pem_of("a"), b = pem_of("b");
    const auto first = revoke(authority_.credentials(), "", {a}, now).value();
    const auto second = revoke(authority_.credentials(), first.crl_pem, {a, b}, now).value();
    EXPECT_EQ(first.added, 1u);
    EXPECT_EQ(second.added, 1u) << "one of them was on it already";
    const auto third = revoke(authority_.credentials(), second.crl_pem, {a, b}, now).value();
    EXPECT_EQ(third.added, 0u);
    const std::string foreign = read_file(foreign_.issue(Role::Client, "c").certificate).value();
    EXPECT_EQ(revoke(authority_.credentials(), "", {foreign}, now).error().code, Errc::PermissionDenied);
    EXPECT_EQ(revoke(foreign_.credentials(), first.crl_pem, {}, now).error().code, Errc::PermissionDenied);
}

TEST_F(TlsTest, FilesThatCannotBeUsedLeaveTheOldOnesInUse) {
    auto tls = ReloadingTls::open(client_files_, &make_client_context).value();
    const TlsContext first = tls.context();
    EXPECT_FALSE(tls.refresh().value()) << "nothing changed";
    write_file_atomically(client_files_.certificate, std::string_view("half a certifi")).value();
    const auto broken = tls.refresh();
    ASSERT_FALSE(broken);
    EXPECT_NE(broken.error().message.find("site-a.pem"), std::string::npos) << broken.error().message;
    EXPECT_EQ(tls.context(), first);
    EXPECT_FALSE(tls.refresh().value()) << "said once";
    (void)authority_.issue(Role::Client, "site-a");
    EXPECT_TRUE(tls.refresh().value());
    EXPECT_NE(tls.context(), first);
    EXPECT_TRUE(tls.refresh(ReloadingTls::Look::Always).value());
}

TEST_F(TlsTest, AConnectedPeerCanBeJudgedAgain) {
    Handshakes hands;
    run(loop_, shake_hands(server(), client(client_files_), hands));
    ASSERT_TRUE(*hands.server);
    const PeerProof& proof = (*hands.server)->proof;
    EXPECT_TRUE(proof.check(server())) << to_string(proof.check(server()).error());
    EXPECT_GT(proof.not_after(), SystemClock().now() + std::chrono::hours(24));
    server_files_.crl = folder_.path() / "crl.pem";
    write_file_atomically(*server_files_.crl, revocation_of(client_files_.certificate)).value();
    EXPECT_NE(proof.check(server()).error().message.find("certificate revoked"), std::string::npos);
    TlsFiles elsewhere = foreign_.issue(Role::Server, "elsewhere");
    const auto other = make_server_context(elsewhere).value();
    EXPECT_FALSE(proof.check(other)) << "another authority, if of the same name";
}

TEST_F(TlsTest, WrongServerName) {
    Handshakes hands;
    run(loop_, shake_hands(server(), client(client_files_), hands, "another.example"));
    ASSERT_FALSE(*hands.client);
    EXPECT_EQ(hands.client->error().code, Errc::PeerUntrusted);
    EXPECT_NE(hands.client->error().message.find("hostname mismatch"), std::string::npos)
        << hands.client->error().message;
    ASSERT_FALSE(*hands.server);
    EXPECT_EQ(hands.server->error().code, Errc::PeerUntrusted) << to_string(hands.server->error());
}

TEST_F(TlsTest, ServerNameMayBeAnAddress) {
    Handshakes good, bad;
    run(loop_, shake_hands(server(), client(client_files_), good, "127.0.0.1"));
    EXPECT_TRUE(*good.client) << to_string(good.client->error());
    run(loop_, shake_hands(server(), client(client_files_), bad, "127.0.0.2"));
    ASSERT_FALSE(*bad.client);
    EXPECT_NE(bad.client->error().message.find("IP address mismatch"), std::string::npos);
}

// A client's certificate does not serve as a server's, even of the right authority: its key usage says so.
TEST_F(TlsTest, ClientThatPlaysServer) {
    EXPECT_FALSE(make_server_context(client_files_));
    auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
    context->use_certificate_file(client_files_.certificate.string(), asio::ssl::context::pem);
    context->use_private_key_file(client_files_.key.string(), asio::ssl::context::pem);
    Handshakes hands;
    run(loop_, shake_hands(context, client(client_files_), hands, "127.0.0.1"));
    ASSERT_FALSE(*hands.client);
    EXPECT_EQ(hands.client->error().code, Errc::PeerUntrusted);
}

TEST_F(TlsTest, ServerThatPlaysClient) {
    EXPECT_FALSE(make_client_context(server_files_));
    TlsContext context = client(client_files_);
    SSL_CTX_use_certificate_file(context->native_handle(), server_files_.certificate.c_str(),
                                 SSL_FILETYPE_PEM);
    SSL_CTX_use_PrivateKey_file(context->native_handle(), server_files_.key.c_str(), SSL_FILETYPE_PEM);
    expect_server_refuses(context, "certificate is refused");
}

// A client that goes on talking, as daemons do after their handshake: the refusal must reach it all the same.
awaitable<void> talks_on(TlsContext server, TlsContext client, std::optional<Result<Connected>>& refused) {
    const auto executor = co_await asio::this_coro::executor;
    auto acceptor = listen_tcp(executor, "127.0.0.1", 0).value();
    start(executor, accept_one(acceptor, std::move(server)), refused);
    const auto port = acceptor.local_endpoint().port();
    auto connected = co_await connect_tls("127.0.0.1", port, std::move(client), "localhost", 10s);
    EXPECT_TRUE(connected) << to_string(connected.error());
    Stream& stream = *connected.value().stream;
    std::array<std::byte, 100> bytes{};
    for (int i = 0; i < 3; ++i) {
        const auto written = co_await stream.write_some(bytes);
        EXPECT_TRUE(written) << "write " << i << ": " << to_string(written.error());
        (void)co_await sleep_for(20ms);
    }
    const auto read = co_await stream.read_some(bytes);
    EXPECT_EQ(read.error().code, Errc::PeerUntrusted) << to_string(read.error());
    stream.close();
    co_await until([&] { return refused.has_value(); });
}

TEST_F(TlsTest, RefusalReachesAClientThatTalksOn) {
    std::optional<Result<Connected>> refused;
    const TlsFiles late = authority_.issue(Role::Client, "late", TestAuthority::expired());
    run(loop_, talks_on(server(), client(late), refused));
    ASSERT_FALSE(*refused);
    EXPECT_EQ(refused->error().code, Errc::PeerUntrusted);
}

awaitable<void> silent_peer(TlsContext context, std::optional<Result<Connected>>& out) {
    const auto executor = co_await asio::this_coro::executor;
    auto acceptor = listen_tcp(executor, "127.0.0.1", 0).value();
    start(executor, accept_one(acceptor, std::move(context), 50ms), out);
    asio::ip::tcp::socket socket(executor);
    co_await socket.async_connect(acceptor.local_endpoint(), asio::use_awaitable);
    co_await until([&] { return out.has_value(); });
}

TEST_F(TlsTest, SilentPeerIsDroppedAtTheDeadline) {
    std::optional<Result<Connected>> out;
    run(loop_, silent_peer(server(), out));
    ASSERT_FALSE(*out);
    EXPECT_EQ(out->error().code, Errc::Timeout);
}

awaitable<void> connect_to_nobody(TlsContext context, std::optional<Result<Connected>>& out) {
    using asio::ip::tcp;
    // Ours while it lives, so that nobody else gets it.
    const tcp::socket bound(co_await asio::this_coro::executor,
                            tcp::endpoint(asio::ip::address_v4::loopback(), 0));
    out = co_await connect_tls("127.0.0.1", bound.local_endpoint().port(), std::move(context), "localhost",
                               10s);
}

TEST_F(TlsTest, NobodyListens) {
    std::optional<Result<Connected>> out;
    run(loop_, connect_to_nobody(client(client_files_), out));
    ASSERT_FALSE(*out);
    EXPECT_EQ(out->error().code, Errc::PeerClosed);
    EXPECT_NE(out->error().message.find("127.0.0.1:"), std::string::npos);
}

// Root lends a key as systemd does: owned by root, the group may read, nobody else anything.
TEST_F(TlsTest, AServiceTakesAKeyThatRootLendsToItsGroupAlone) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can own a file and then be another user";
    ::chmod(folder_.path().c_str(), 0755);  // the folder itself is the other user's to enter
    const auto as_service = [&](mode_t mode) {
        EXPECT_EQ(::chmod(server_files_.key.c_str(), mode), 0);
        EXPECT_EQ(::seteuid(65532), 0);
        auto context = make_server_context(server_files_);
        EXPECT_EQ(::seteuid(0), 0);
        return context ? std::string() : context.error().message;
    };
    EXPECT_EQ(as_service(0440), "");
    for (const mode_t mode : {0444, 0460, 0644}) {
        EXPECT_NE(as_service(mode).find("others can read"), std::string::npos) << std::oct << mode;
    }
    ::chmod(server_files_.key.c_str(), 0440);
    EXPECT_FALSE(make_server_context(server_files_)) << "its own key, and a group that may read it";
}

TEST_F(TlsTest, BadFilesAreNamed) {
    const auto message_of = [](const TlsFiles& files) { return make_server_context(files).error().message; };
    TlsFiles files = server_files_;
    ::chmod(files.key.c_str(), 0640);
    EXPECT_NE(message_of(files).find("chmod 600 " + files.key.string()), std::string::npos)
        << message_of(files);
    ::chmod(files.key.c_str(), 0600);
    files.key = client_files_.key;
    EXPECT_NE(message_of(files).find("does not belong"), std::string::npos) << message_of(files);
    files = server_files_;
    files.ca = folder_.path() / "nothing.pem";
    EXPECT_NE(message_of(files).find("nothing.pem"), std::string::npos);
    files.ca = server_files_.key;
    EXPECT_NE(message_of(files).find("server.key: no PEM certificate"), std::string::npos)
        << message_of(files);
    files = client_files_;
    EXPECT_NE(message_of(files).find("for the role client"), std::string::npos) << message_of(files);
}

}  // namespace
}  // namespace fedllm::net
