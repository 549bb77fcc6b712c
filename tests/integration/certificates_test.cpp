// Certificates that are taken back, run out and are renewed while the server runs.
#include "common/net/revocation.hpp"
#include "tests/integration/crowd.hpp"
#include "tools/federation/authority.hpp"
#include "tools/federation/revocation.hpp"

namespace fedllm::test {
namespace {

using namespace std::chrono_literals;

constexpr auto kReloaded = "certificates reloaded";

// First the certificate, then its key: for a moment they do not belong together, as when a person copies
// them.
void renew_server(Federation& federation, const net::Credentials& authority) {
    const net::CertificateRequest request{
        .role = net::Role::Server,
        .name = "server",
        .dns_names = {},
        .addresses = {"127.0.0.1"},
        .validity = net::valid_for(SystemClock().now(), std::chrono::days(2))};
    const auto made = net::issue_certificate(authority, request).value();
    EXPECT_TRUE(write_file_atomically(federation.folder() / "server.crt", made.certificate_pem));
    EXPECT_TRUE(write_file_atomically(federation.folder() / "server.key", made.key_pem, FileMode::Secret));
}

class Certificates : public testing::Test {
protected:
    void SetUp() override {
        federation_.configure([](server::app::ServerConfig& config) { config.tls.reload_every = 100ms; });
        federation_.start();
    }

    // Whether the server ends the connection within `patience`.
    bool ended(Peer& peer, Duration patience) {
        const auto message = loop_.run(net::within(patience, peer.next()));
        if (message && message->has_goodbye()) return true;
        return !message && message.error().code != Errc::Timeout;
    }
    double clients() const { return federation_.metric("fedllm_connections{role=\"client\"}"); }
    net::Credentials authority() const {
        return {read_file(federation_.folder() / "ca.crt").value(),
                read_file(federation_.folder() / "ca.key").value()};
    }
    net::TlsFiles issue(const std::string& name, net::Validity validity) {
        const net::CertificateRequest request{
            .role = net::Role::Client, .name = name, .dns_names = {}, .addresses = {}, .validity = validity};
        const auto made = net::issue_certificate(authority(), request).value();
        const Path folder = federation_.folder() / name;
        EXPECT_TRUE(make_directories(folder));
        EXPECT_TRUE(write_file_atomically(folder / "client.crt", made.certificate_pem));
        EXPECT_TRUE(write_file_atomically(folder / "client.key", made.key_pem, FileMode::Secret));
        return {.ca = federation_.folder() / "ca.crt",
                .certificate = folder / "client.crt",
                .key = folder / "client.key"};
    }
    Federation federation_;
    Loop loop_;
};

TEST_F(Certificates, WhoIsRevokedIsDisconnectedAndNotLetInAgain) {
    Peer ash(federation_.invite("ash")), birch(federation_.invite("birch"));
    ASSERT_TRUE(loop_.run(ash.connect(federation_.port())));
    ASSERT_TRUE(loop_.run(birch.connect(federation_.port())));
    const auto revoked = tools::federation::revoke_member({.folder = federation_.folder(), .name = "ash"},
                                                          SystemClock().now());
    ASSERT_TRUE(revoked) << to_string(revoked.error());
    EXPECT_EQ(revoked->certificates, 1u);
    EXPECT_TRUE(ended(ash, kPatience));
    EXPECT_TRUE(federation_.log_has("certificate revoked"));
    const auto again = loop_.run(ash.connect(federation_.port()));
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, Errc::PeerUntrusted) << to_string(again.error());
    EXPECT_FALSE(ended(birch, 300ms));
    EXPECT_EQ(federation_.terminate(), 0);
}

TEST_F(Certificates, WhoExpiresIsDisconnected) {
    const auto for_a_while = [](Duration time) {
        const Timestamp now = SystemClock().now();
        return net::Validity{now - 1h, now + time};
    };
    Peer later(issue("later", for_a_while(1h)));
    ASSERT_TRUE(loop_.run(later.connect(federation_.port())));
    std::optional<Peer> soon;
    bool is_in = false;  // before its time is over
    for (Duration time = 2s; !is_in && time < kPatience; time *= 2) {
        soon.emplace(issue("soon", for_a_while(time)));
        is_in = loop_.run(soon->connect(federation_.port())).has_value();
    }
    ASSERT_TRUE(is_in);
    EXPECT_TRUE(ended(*soon, kPatience));
    EXPECT_TRUE(federation_.log_has("certificate has expired"));
    EXPECT_FALSE(ended(later, 300ms));
}

TEST_F(Certificates, FilesThatCannotBeUsedAreRefusedAndTheOldOnesServe) {
    Peer ash(federation_.invite("ash")), birch(federation_.invite("birch"));
    ASSERT_TRUE(loop_.run(ash.connect(federation_.port())));
    ASSERT_TRUE(write_file_atomically(federation_.folder() / "crl.pem", std::string_view("half a li")));
    EXPECT_TRUE(federation_.log_has("certificates not reloaded"));
    EXPECT_TRUE(federation_.log_has("crl.pem: no PEM"));
    EXPECT_TRUE(loop_.run(birch.connect(federation_.port())));
    EXPECT_EQ(clients(), 2);
    EXPECT_FALSE(federation_.log_has(kReloaded, 0ms));
    const auto list = net::revoke(authority(), "", {}, SystemClock().now())->crl_pem;
    ASSERT_TRUE(write_file_atomically(federation_.folder() / "crl.pem", list));
    EXPECT_TRUE(federation_.log_has(kReloaded));
    EXPECT_FALSE(ended(ash, 300ms)) << "nobody is on the new list";
    EXPECT_FALSE(ended(birch, 300ms));
}

TEST_F(Certificates, AnotherAuthorityDisconnectsTheOldOnesPeers) {
    Peer ash(federation_.invite("ash"));
    ASSERT_TRUE(loop_.run(ash.connect(federation_.port())));
    const auto validity = net::valid_for(SystemClock().now(), std::chrono::days(2));
    const auto fresh = net::create_authority("the next authority", validity).value();
    ASSERT_TRUE(write_file_atomically(federation_.folder() / "crl.pem",
                                      net::revoke(fresh, "", {}, SystemClock().now())->crl_pem));
    ASSERT_TRUE(write_file_atomically(federation_.folder() / "ca.crt", fresh.certificate_pem));
    EXPECT_TRUE(ended(ash, kPatience));
}

TEST(CertificatesSlowly, AHangUpSignalReadsThemAtOnce) {
    Federation federation;
    federation.configure([](server::app::ServerConfig& config) { config.tls.reload_every = 60s; });
    federation.start();
    Loop loop;
    Peer ash(federation.invite("ash"));
    ASSERT_TRUE(loop.run(ash.connect(federation.port())));
    ASSERT_TRUE(tools::federation::revoke_member({.folder = federation.folder(), .name = "ash"},
                                                 SystemClock().now()));
    EXPECT_FALSE(federation.log_has(kReloaded, 500ms));
    federation.hang_up();
    EXPECT_TRUE(federation.log_has(kReloaded));
    const auto gone = loop.run(ash.next());
    EXPECT_TRUE(!gone || gone->has_goodbye());
    EXPECT_EQ(federation.terminate(), 0);
}

TEST(CertificatesUnderLoad, RenewingThemDisturbsNoRound) {
    std::vector<std::string> digests;
    for (const bool renewing : {false, true}) {
        Federation federation;
        federation.configure([](server::app::ServerConfig& config) { config.tls.reload_every = 100ms; });
        federation.start();
        const net::Credentials authority{read_file(federation.folder() / "ca.crt").value(),
                                         read_file(federation.folder() / "ca.key").value()};
        TinyJob{.clients = 2, .minimum = 2, .rounds = 20}.submit(federation);
        int renewed = 0;
        Crowd crowd(federation, {"ash", "birch"}, [&](int message) {
            if (!renewing || message % 8 != 0) return;
            renew_server(federation, authority);
            ++renewed;
        });
        digests.push_back(crowd.run());
        if (renewing) {
            EXPECT_GT(renewed, 10);
            EXPECT_TRUE(federation.log_has(kReloaded));
        }
        for (const std::string why : {"peer_untrusted", "timeout", "peer_closed"}) {
            EXPECT_EQ(federation.metric("fedllm_connections_refused_total{reason=\"" + why + "\"}"),
                      why == "peer_closed" ? 1 : 0)
                << why << " (the test's own look at the port is one that closed)";
        }
        EXPECT_EQ(federation.terminate(), 0);
    }
    EXPECT_EQ(digests[0], digests[1]);
}

TEST(Authority, AKeyThatOthersCanReadSignsNothing) {
    Federation federation;
    std::filesystem::permissions(federation.folder() / "ca.key", std::filesystem::perms(0644));
    const auto invited = tools::federation::invite_client(
        {.folder = federation.folder(), .name = "ash", .out = {}}, SystemClock().now());
    ASSERT_FALSE(invited);
    EXPECT_EQ(invited.error().code, Errc::PermissionDenied);
    EXPECT_NE(invited.error().message.find("chmod 600"), std::string::npos) << invited.error().message;
}

TEST(Authority, RevokesByTheRecordOfWhatItIssued) {
    Federation federation;
    const Timestamp now = SystemClock().now();
    const auto revoke = [&](tools::federation::RevokeOptions options) {
        options.folder = federation.folder();
        return tools::federation::revoke_member(options, now);
    };
    (void)federation.invite("ash");
    (void)federation.invite("ash-two");
    std::filesystem::remove_all(federation.folder() / "clients" / "ash");  // it went to the site
    ASSERT_TRUE(tools::federation::invite_client(
        {.folder = federation.folder(), .name = "ash", .out = federation.folder() / "again"}, now));
    EXPECT_EQ(revoke({.name = "ash"})->certificates, 2u) << "both of that name, and no other's";
    EXPECT_EQ(revoke({.name = "ash"})->certificates, 0u);
    EXPECT_EQ(revoke({.name = "nobody"}).error().code, Errc::NotFound);
    EXPECT_EQ(revoke({.name = "server", .certificate = federation.folder() / "server.crt"}).error().code,
              Errc::InvalidArgument);
    EXPECT_EQ(revoke({.name = "operator"})->certificates, 1u);
}

}  // namespace
}  // namespace fedllm::test
