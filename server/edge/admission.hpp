// Who may come in: the counts behind every limit on connections, and the short memory of bad addresses.
#pragma once

#include <array>
#include <boost/asio/ip/address.hpp>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/clock.hpp"
#include "common/net/identity.hpp"

namespace fedllm::server::edge {

struct AdmissionLimits {
    std::size_t connections_max = 20'000;   // all of them; see descriptors.hpp for what the system grants
    std::size_t unauthenticated_max = 256;  // in their handshake, each 81 KiB
    std::size_t unauthenticated_per_address =
        16;                                  // silent or in it, per IPv4 address, or IPv6 network of 64 bits
    std::size_t connections_per_client = 2;  // the old one may not have died yet
    std::size_t connections_per_operator = 16;  // a person's terminals
    std::size_t failures_max = 10;              // handshakes that were refused, per address and minute; then
    Duration ban_time = std::chrono::seconds(60);  // nothing is taken from it for so long

    bool operator==(const AdmissionLimits&) const = default;
};

// Why somebody is turned away, or asked to leave. The names are metric labels.
enum class Refusal { ConnectionsMax, AddressMax, Banned, UnauthenticatedMax, IdentityMax };
std::string_view name(Refusal refusal);  // "connections_max"

using GuestId = std::uint64_t;  // never used again

// A plain data structure: no I/O, and the time comes with each call (seconds of a monotonic clock).
// Lifecycle of a guest: arrive(), silent; spoke(), in its handshake; authenticated(); leave(). Until it is
// authenticated it may go by failed() instead. Limits: an address is remembered while it has guests that are
// not authenticated, and while failures of it count; of the latter at most kOffendersMax.
class Admission {
public:
    static constexpr std::size_t kOffendersMax = 8192;

    explicit Admission(const AdmissionLimits& limits) : limits_(limits) {}

    // Why it is turned away; otherwise it counts as silent from now on.
    std::optional<Refusal> arrive(GuestId guest, const boost::asio::ip::address& address, double now);
    // It has said its first words: a handshake begins.
    void spoke(GuestId guest);

    // Who makes way, after arrive() or spoke(): the oldest of its kind, since honest peers are silent, or in
    // their handshake, only for a moment. Whoever holds these places cannot keep them out.
    struct Leaver {
        GuestId guest;
        Refusal reason;
    };
    std::optional<Leaver> one_too_many() const;

    // `offence`: it was refused for what it showed or said, not merely slow or gone.
    void failed(GuestId guest, bool offence, double now);
    // The connection that must go, if its identity now has one too many: the oldest, since an honest peer
    // that comes again has usually lost the one before.
    std::optional<GuestId> authenticated(GuestId guest, const net::PeerIdentity& peer);
    void leave(GuestId guest);

    std::size_t unauthenticated() const { return silent_.size() + handshakes_.size(); }
    std::size_t connections() const { return unauthenticated() + identities_of_.size(); }
    std::size_t offenders() const { return offenders_.size(); }

private:
    using Network = std::array<unsigned char, 9>;     // which kind, and 4 or 8 bytes
    using Identity = std::pair<net::Role, ClientId>;  // what its certificate says
    struct Offender {
        std::size_t failures = 0;  // within the minute that began at `since`
        double since = 0;
        double banned_until = 0;
    };

    static Network network_of(const boost::asio::ip::address& address);
    std::optional<Network> end_unauthenticated(GuestId guest);
    void count_failure(const Network& network, double now);
    void forgive(double now);

    AdmissionLimits limits_;
    std::map<Network, std::size_t> unauthenticated_of_;
    std::map<Network, Offender> offenders_;
    std::map<GuestId, Network> silent_, handshakes_;  // in order of arrival
    std::map<GuestId, Identity> identities_of_;
    std::map<Identity, std::list<GuestId>> guests_of_;
};

}  // namespace fedllm::server::edge
