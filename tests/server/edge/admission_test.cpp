// Every limit on connections at its edge, in made-up seconds.
#include <gtest/gtest.h>

#include "server/edge/admission.hpp"
#include "server/edge/descriptors.hpp"
#include "server/edge/log_budget.hpp"

namespace fedllm::server::edge {
namespace {

boost::asio::ip::address at(const std::string& text) { return boost::asio::ip::make_address(text); }

net::PeerIdentity someone(const std::string& name, net::Role role = net::Role::Client) {
    return {ClientId(name), role, ""};
}

TEST(Admission, OneAddressHoldsOnlySoManyHandshakes) {
    Admission admission({.unauthenticated_per_address = 2});
    EXPECT_FALSE(admission.arrive(1, at("192.0.2.1"), 0));
    EXPECT_FALSE(admission.arrive(2, at("::ffff:192.0.2.1"), 0)) << "the same one, as a dual socket sees it";
    EXPECT_EQ(admission.arrive(3, at("192.0.2.1"), 0), Refusal::AddressMax);
    EXPECT_FALSE(admission.arrive(4, at("192.0.2.2"), 0));
    admission.failed(1, /*offence=*/false, 0);
    EXPECT_FALSE(admission.arrive(5, at("192.0.2.1"), 0));
    EXPECT_FALSE(admission.authenticated(2, someone("ash")))
        << "whoever is authenticated does not count any more";
    EXPECT_FALSE(admission.arrive(6, at("192.0.2.1"), 0));
}

TEST(Admission, AnIpv6SiteIsOneAddress) {
    Admission admission({.unauthenticated_per_address = 2});
    EXPECT_FALSE(admission.arrive(1, at("2001:db8:1:2::1"), 0));
    EXPECT_FALSE(admission.arrive(2, at("2001:db8:1:2:ffff::1"), 0));
    EXPECT_EQ(admission.arrive(3, at("2001:db8:1:2:1234::1"), 0), Refusal::AddressMax);
    EXPECT_FALSE(admission.arrive(4, at("2001:db8:1:3::1"), 0));
}

TEST(Admission, TheOldestHandshakeMakesWay) {
    Admission admission({.unauthenticated_max = 3});
    for (GuestId guest = 1; guest <= 9; ++guest) {
        EXPECT_FALSE(admission.arrive(guest, at("192.0.2." + std::to_string(guest)), 0));
        EXPECT_FALSE(admission.one_too_many()) << "silent ones are no handshakes";
    }
    for (GuestId guest = 4; guest <= 6; ++guest) {
        admission.spoke(guest);
        EXPECT_FALSE(admission.one_too_many());
    }
    admission.spoke(7);
    ASSERT_TRUE(admission.one_too_many());
    EXPECT_EQ(admission.one_too_many()->guest, 4u);
    EXPECT_EQ(admission.one_too_many()->reason, Refusal::UnauthenticatedMax);
    admission.failed(4, /*offence=*/false, 0);
    EXPECT_FALSE(admission.one_too_many());
    admission.failed(4, /*offence=*/false, 0);  // its own end, later
    admission.spoke(4);
    EXPECT_FALSE(admission.one_too_many());
    EXPECT_EQ(admission.unauthenticated(), 8u);
}

TEST(Admission, TheOldestSilentOneMakesWayWhereThereIsNoMoreRoom) {
    Admission admission({.connections_max = 3});
    for (GuestId guest = 1; guest <= 3; ++guest) {
        EXPECT_FALSE(admission.arrive(guest, at("192.0.2.1"), 0));
        EXPECT_FALSE(admission.one_too_many());
    }
    admission.spoke(1);
    EXPECT_FALSE(admission.arrive(4, at("192.0.2.9"), 0));
    ASSERT_TRUE(admission.one_too_many());
    EXPECT_EQ(admission.one_too_many()->guest, 2u) << "the first one speaks";
    EXPECT_EQ(admission.one_too_many()->reason, Refusal::ConnectionsMax);
    admission.failed(2, /*offence=*/false, 0);
    EXPECT_FALSE(admission.one_too_many());
    EXPECT_EQ(admission.connections(), 3u);
}

TEST(Admission, AHandshakeMakesWayWhereNobodyIsSilent) {
    Admission admission({.connections_max = 2});
    for (GuestId guest = 1; guest <= 3; ++guest) {
        EXPECT_FALSE(admission.arrive(guest, at("192.0.2.1"), 0));
        admission.spoke(guest);
    }
    ASSERT_TRUE(admission.one_too_many());
    EXPECT_EQ(admission.one_too_many()->guest, 1u);
    EXPECT_EQ(admission.one_too_many()->reason, Refusal::ConnectionsMax);
}

TEST(Admission, AllConnectionsTogether) {
    Admission admission({.connections_max = 2});
    EXPECT_FALSE(admission.arrive(1, at("192.0.2.1"), 0));
    EXPECT_FALSE(admission.arrive(2, at("192.0.2.1"), 0));
    EXPECT_FALSE(admission.authenticated(1, someone("ash")));
    EXPECT_FALSE(admission.authenticated(2, someone("elm")));
    EXPECT_EQ(admission.arrive(3, at("192.0.2.9"), 0), Refusal::ConnectionsMax);
    admission.leave(1);
    EXPECT_FALSE(admission.arrive(3, at("192.0.2.9"), 0));
    EXPECT_EQ(admission.connections(), 2u);
}

TEST(Admission, FailuresOfOneMinuteBanTheirAddressForAWhile) {
    Admission admission({.failures_max = 3, .ban_time = std::chrono::seconds(60)});
    GuestId guest = 0;
    const auto fails = [&](double now, bool offence = true) {
        const auto refusal = admission.arrive(++guest, at("192.0.2.1"), now);
        if (!refusal) admission.failed(guest, offence, now);
        return refusal;
    };
    for (int i = 0; i < 20; ++i) EXPECT_FALSE(fails(0, /*offence=*/false)) << "slow or gone is no offence";
    EXPECT_FALSE(fails(0));
    EXPECT_FALSE(fails(30));
    EXPECT_FALSE(fails(61)) << "the first minute is over: this one counts anew";
    EXPECT_FALSE(fails(62));
    EXPECT_FALSE(fails(63));
    EXPECT_EQ(fails(64), Refusal::Banned);
    EXPECT_EQ(fails(122), Refusal::Banned);
    EXPECT_FALSE(admission.arrive(++guest, at("192.0.2.2"), 64)) << "another address";
    EXPECT_FALSE(fails(124));
    EXPECT_FALSE(fails(125)) << "forgiven";
}

TEST(Admission, TheOldestConnectionOfAnIdentityMakesWay) {
    Admission admission({.connections_per_client = 2, .connections_per_operator = 3});
    std::vector<std::optional<GuestId>> out;
    for (GuestId guest = 1; guest <= 4; ++guest) {
        EXPECT_FALSE(admission.arrive(guest, at("192.0.2.1"), 0));
        out.push_back(admission.authenticated(guest, someone("ash")));
        if (out.back()) admission.leave(*out.back());
    }
    EXPECT_EQ(out, (std::vector<std::optional<GuestId>>{{}, {}, 1, 2}));
    admission.leave(1);  // its own end, later
    for (GuestId guest = 11; guest <= 13; ++guest) {
        EXPECT_FALSE(admission.arrive(guest, at("192.0.2.1"), 0));
        EXPECT_FALSE(admission.authenticated(guest, someone("ash", net::Role::Operator)))
            << "a role is not another";
    }
    EXPECT_EQ(admission.connections(), 5u);
}

TEST(Admission, RemembersNoMoreAddressesThanItMay) {
    Admission admission({.failures_max = 2});
    const auto offends = [&](GuestId guest, double now) {
        const auto address = boost::asio::ip::address_v4(0x0a000000u + static_cast<unsigned>(guest));
        EXPECT_FALSE(admission.arrive(guest, address, now));
        admission.failed(guest, /*offence=*/true, now);
        EXPECT_LE(admission.offenders(), Admission::kOffendersMax);
    };
    GuestId guest = 0;
    while (guest < 3 * Admission::kOffendersMax) offends(++guest, 0);
    EXPECT_GE(admission.offenders(), Admission::kOffendersMax / 2);
    while (admission.offenders() < Admission::kOffendersMax) offends(++guest, 0);
    offends(++guest, 100);
    EXPECT_EQ(admission.offenders(), 1u) << "a minute has passed: all others are forgiven";
}

TEST(LogBudget, WritesAFewAndCountsTheRest) {
    LogBudget budget(2, 10);
    EXPECT_TRUE(budget.take(0));
    EXPECT_TRUE(budget.take(1));
    EXPECT_FALSE(budget.take(2));
    EXPECT_FALSE(budget.take(9.9));
    EXPECT_TRUE(budget.take(10));
    EXPECT_EQ(budget.take_missed(), 2u);
    EXPECT_EQ(budget.take_missed(), 0u);
}

TEST(Descriptors, LeaveRoomForUploadsAndForOurselves) {
    EXPECT_EQ(connections_within(1128), 500u);
    EXPECT_GE(connections_within(64), 1u);
    EXPECT_LT(connections_within(64), 32u);
    EXPECT_GE(raise_descriptor_limit(), 64u);
}

}  // namespace
}  // namespace fedllm::server::edge
