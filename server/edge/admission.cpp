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

bool Admission::idle(const Address& address, double now) const {
    return address.unauthenticated == 0 && address.banned_until <= now &&
           (address.failures == 0 || now - address.since >= kFailureWindow);
}

void Admission::forget_idle_addresses(double now) {
    std::erase_if(addresses_, [&](const auto& entry) { return idle(entry.second, now); });
    // Still full: of those without guests, in whatever order, half are forgiven.
    for (auto at = addresses_.begin(); at != addresses_.end() && addresses_.size() > kAddressesMax / 2;) {
        at = at->second.unauthenticated == 0 ? addresses_.erase(at) : std::next(at);
    }
}

std::optional<Refusal> Admission::arrive(GuestId guest, const boost::asio::ip::address& from, double now) {
    if (connections() >= limits_.connections_max) return Refusal::ConnectionsMax;
    if (addresses_.size() >= kAddressesMax) forget_idle_addresses(now);
    const Network network = network_of(from);
    Address& address = addresses_[network];
    if (address.banned_until > now) return Refusal::Banned;
    if (address.unauthenticated >= limits_.unauthenticated_per_address) return Refusal::AddressMax;
    address.unauthenticated += 1;
    handshakes_.emplace(guest, network);
    return std::nullopt;
}

std::optional<GuestId> Admission::one_too_many() const {
    if (handshakes_.size() <= limits_.unauthenticated_max) return std::nullopt;
    return handshakes_.begin()->first;
}

void Admission::end_handshake(GuestId guest) {
    const auto place = handshakes_.find(guest);
    if (place == handshakes_.end()) return;
    addresses_.at(place->second).unauthenticated -= 1;
    handshakes_.erase(place);
}

void Admission::handshake_failed(GuestId guest, bool offence, double now) {
    const auto place = handshakes_.find(guest);
    if (place == handshakes_.end()) return;
    const Network network = place->second;
    Address& address = addresses_.at(network);
    end_handshake(guest);
    if (offence) {
        if (address.failures == 0 || now - address.since >= kFailureWindow) {
            address.failures = 0;
            address.since = now;
        }
        if (++address.failures >= limits_.failures_max) {
            address.failures = 0;
            address.banned_until = now + static_cast<double>(limits_.ban_time.count()) / 1000;
        }
    }
    if (idle(address, now)) addresses_.erase(network);
}

std::optional<GuestId> Admission::authenticated(GuestId guest, const net::PeerIdentity& peer) {
    const auto place = handshakes_.find(guest);
    if (place == handshakes_.end()) return std::nullopt;
    const Network network = place->second;
    end_handshake(guest);
    const Address& address = addresses_.at(network);
    if (address.unauthenticated == 0 && address.failures == 0 && address.banned_until == 0)
        addresses_.erase(network);
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
