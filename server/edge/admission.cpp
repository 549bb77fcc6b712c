#include "server/edge/admission.hpp"

#include <algorithm>
#include <iterator>

namespace fedllm::server::edge {
namespace {

constexpr double kFailureWindow = 60;  // seconds

}  // namespace

std::string_view name(Refusal refusal) {
    switch (refusal) {
        case Refusal::ConnectionsMax: return "connections_max";
        case Refusal::AddressMax: return "address_max";
        case Refusal::Banned: return "banned";
        case Refusal::UnauthenticatedMax: return "unauthenticated_max";
        case Refusal::IdentityMax: return "identity_max";
    }
    return "unknown";
}

// Who has one IPv6 address has 2^64 of them; IPv4 inside IPv6 is IPv4.
Admission::Network Admission::network_of(const boost::asio::ip::address& address) {
    namespace ip = boost::asio::ip;
    Network network{};
    if (address.is_v4()) {
        network[0] = 4;
        std::ranges::copy(address.to_v4().to_bytes(), network.begin() + 1);
    } else if (address.to_v6().is_v4_mapped()) {
        return network_of(ip::make_address_v4(ip::v4_mapped, address.to_v6()));
    } else {
        network[0] = 6;
        std::ranges::copy_n(address.to_v6().to_bytes().begin(), 8, network.begin() + 1);
    }
    return network;
}

std::optional<Refusal> Admission::arrive(GuestId guest, const boost::asio::ip::address& from, double now) {
    // All others make way: see one_too_many().
    if (identities_of_.size() >= limits_.connections_max) return Refusal::ConnectionsMax;
    const Network network = network_of(from);
    const auto offender = offenders_.find(network);
    if (offender != offenders_.end() && offender->second.banned_until > now) return Refusal::Banned;
    std::size_t& count = unauthenticated_of_[network];
    if (count >= limits_.unauthenticated_per_address) return Refusal::AddressMax;
    count += 1;
    silent_.emplace(guest, network);
    return std::nullopt;
}

void Admission::spoke(GuestId guest) {
    if (auto place = silent_.extract(guest)) handshakes_.insert(std::move(place));
}

std::optional<Admission::Leaver> Admission::one_too_many() const {
    if (handshakes_.size() > limits_.unauthenticated_max)
        return Leaver{handshakes_.begin()->first, Refusal::UnauthenticatedMax};
    if (connections() <= limits_.connections_max) return std::nullopt;
    const auto& oldest = silent_.empty() ? handshakes_ : silent_;
    if (oldest.empty()) return std::nullopt;
    return Leaver{oldest.begin()->first, Refusal::ConnectionsMax};
}

// Its address, unless it has gone before.
std::optional<Admission::Network> Admission::end_unauthenticated(GuestId guest) {
    auto place = silent_.extract(guest);
    if (!place) place = handshakes_.extract(guest);
    if (!place) return std::nullopt;
    const auto count = unauthenticated_of_.find(place.mapped());
    if (--count->second == 0) unauthenticated_of_.erase(count);
    return place.mapped();
}

void Admission::failed(GuestId guest, bool offence, double now) {
    const auto network = end_unauthenticated(guest);
    if (network && offence) count_failure(*network, now);
}

void Admission::count_failure(const Network& network, double now) {
    if (offenders_.size() >= kOffendersMax) forgive(now);
    Offender& offender = offenders_[network];
    if (offender.failures == 0 || now - offender.since >= kFailureWindow) {
        offender.failures = 0;
        offender.since = now;
    }
    if (++offender.failures < limits_.failures_max) return;
    offender.failures = 0;
    offender.banned_until = now + static_cast<double>(limits_.ban_time.count()) / 1000;
}

// Those whose time is over; where that is not enough, half of all, in whatever order.
void Admission::forgive(double now) {
    std::erase_if(offenders_, [&](const auto& entry) {
        const Offender& offender = entry.second;
        return offender.banned_until <= now && now - offender.since >= kFailureWindow;
    });
    if (offenders_.size() < kOffendersMax) return;
    offenders_.erase(offenders_.begin(), std::next(offenders_.begin(), kOffendersMax / 2));
}

std::optional<GuestId> Admission::authenticated(GuestId guest, const net::PeerIdentity& peer) {
    if (!end_unauthenticated(guest)) return std::nullopt;
    const Identity identity{peer.role, peer.name};
    identities_of_.emplace(guest, identity);
    auto& guests = guests_of_[identity];
    guests.push_back(guest);
    const bool person = peer.role == net::Role::Operator;
    const std::size_t limit = person ? limits_.connections_per_operator : limits_.connections_per_client;
    if (guests.size() <= limit) return std::nullopt;
    return guests.front();
}

void Admission::leave(GuestId guest) {
    const auto place = identities_of_.find(guest);
    if (place == identities_of_.end()) return;
    const auto guests = guests_of_.find(place->second);
    std::erase(guests->second, guest);
    if (guests->second.empty()) guests_of_.erase(guests);
    identities_of_.erase(place);
}

}  // namespace fedllm::server::edge
