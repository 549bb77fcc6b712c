// Who is connected. A client is the name in its certificate, not its connection: when one name connects
// twice, the newer connection is the client, and the older one is to be told Goodbye.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/ids.hpp"

namespace fedllm::server::registry {

using SessionId =
    StrongId<struct SessionIdTag, std::uint64_t>;  // a connection; never used again in this process

struct Member {
    ClientId client;
    SessionId session;
    std::string software;
    std::string device;
    std::vector<std::string> base_models;  // names the client announced
    std::vector<std::string> codecs;       // the same: what it can decode
    Timestamp since{};

    bool can_train(std::string_view base_model) const;
    bool can_decode(std::string_view codec) const;
};

// A plain data structure, without I/O. Concurrency: one strand.
class Registry {
public:
    SessionId next_session() { return SessionId(++last_session_); }

    // The session this one replaces, if the client was connected already.
    std::optional<SessionId> join(Member member);
    // False when `session` is not the client's current one: an older connection's end changes nothing.
    bool leave(const ClientId& client, SessionId session, Timestamp now);

    const Member* find(const ClientId& client) const;
    std::optional<Timestamp> left(const ClientId& client) const;  // since when one that was here is away
    bool is_current(const ClientId& client, SessionId session) const;
    std::vector<ClientId> eligible(std::string_view base_model) const;  // sorted by name
    const std::map<ClientId, Member>& members() const { return members_; }

private:
    std::map<ClientId, Member> members_;
    std::map<ClientId, Timestamp> left_;  // as many as there are certificates
    std::uint64_t last_session_ = 0;
};

}  // namespace fedllm::server::registry
