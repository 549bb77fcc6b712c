#include "common/net/certificates.hpp"

#include <gtest/gtest.h>

namespace fedllm::net {
namespace {

const Timestamp kNow = SystemClock().now();

TEST(Identity, NamesAndUris) {
    for (const std::string_view good : {"a", "site-a", "St.Mary_7", "0"})
        EXPECT_TRUE(check_peer_name(good)) << good;
    for (const std::string_view bad : {"", "-a", ".a", "a/b", "a b", "a\n", "../x", "\xc3\xa9"}) {
        EXPECT_FALSE(check_peer_name(bad)) << bad;
    }
    EXPECT_FALSE(check_peer_name(std::string(65, 'a')));
    EXPECT_EQ(to_uri(Role::Client, "site-a"), "fedllm://client/site-a");
    for (const Role role : {Role::Client, Role::Operator, Role::Server}) {
        EXPECT_EQ(identity_from_uri(to_uri(role, "x")).value(), (PeerIdentity{ClientId("x"), role, ""}));
    }
    for (const std::string_view bad :
         {"", "fedllm://", "fedllm://client", "fedllm://client/", "http://client/a", "fedllm://root/a",
          "fedllm://client/a/b", "fedllm://Client/a"}) {
        const auto identity = identity_from_uri(bad);
        ASSERT_FALSE(identity) << bad;
        EXPECT_EQ(identity.error().code, Errc::PeerUntrusted);
    }
}

TEST(Certificates, SayWhatWasAsked) {
    const auto authority = create_authority("federation", valid_for(kNow, std::chrono::days(30)));
    ASSERT_TRUE(authority) << to_string(authority.error());
    const auto made = issue_certificate(*authority, {.role = Role::Client,
                                                     .name = "site-a",
                                                     .dns_names = {},
                                                     .addresses = {},
                                                     .validity = valid_for(kNow, std::chrono::days(7))});
    ASSERT_TRUE(made) << to_string(made.error());
    const auto facts = read_certificate(made->certificate_pem);
    ASSERT_TRUE(facts) << to_string(facts.error());
    EXPECT_EQ(facts->identity.name, ClientId("site-a"));
    EXPECT_EQ(facts->identity.role, Role::Client);
    const auto left = facts->not_after - kNow;
    EXPECT_LE(left, std::chrono::days(7));
    EXPECT_GT(left, std::chrono::days(7) - std::chrono::seconds(2));
    EXPECT_TRUE(made->key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
}

TEST(Certificates, NothingSlipsIntoTheNames) {
    const auto authority = create_authority("federation", valid_for(kNow, std::chrono::days(1))).value();
    const auto refused = [&](const CertificateRequest& request) {
        return !issue_certificate(authority, request);
    };
    const Validity validity = valid_for(kNow, std::chrono::days(1));
    EXPECT_TRUE(refused({Role::Client, "a,URI:fedllm://operator/root", {}, {}, validity}));
    EXPECT_TRUE(refused({Role::Server, "s", {"host,URI:fedllm://operator/root"}, {}, validity}));
    EXPECT_TRUE(refused({Role::Server, "s", {}, {"127.0.0.1,DNS:evil"}, validity}));
    EXPECT_TRUE(refused({Role::Server, "s", {}, {}, validity}));
    EXPECT_TRUE(refused({Role::Client, "a", {}, {}, {validity.not_after, validity.not_before}}));
    EXPECT_FALSE(refused({Role::Server, "s", {"host.example"}, {"::1", "10.0.0.7"}, validity}));
}

TEST(Certificates, BrokenInputIsAnError) {
    const auto authority = create_authority("federation", valid_for(kNow, std::chrono::days(1))).value();
    const auto other = create_authority("other", valid_for(kNow, std::chrono::days(1))).value();
    const CertificateRequest request{Role::Client, "a", {}, {}, valid_for(kNow, std::chrono::days(1))};
    EXPECT_FALSE(issue_certificate({authority.certificate_pem, other.key_pem}, request));
    EXPECT_FALSE(issue_certificate({"", ""}, request));
    EXPECT_FALSE(read_certificate(authority.certificate_pem));  // names nobody
    std::string truncated = authority.certificate_pem;
    truncated.resize(truncated.size() / 2);
    EXPECT_FALSE(read_certificate(truncated));
    EXPECT_FALSE(create_authority("", valid_for(kNow, std::chrono::days(1))));
}

}  // namespace
}  // namespace fedllm::net
