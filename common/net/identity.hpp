// Who a peer is: what its certificate says, and nothing else.
#pragma once

#include <string>
#include <string_view>

#include "common/base/ids.hpp"
#include "common/base/result.hpp"

namespace fedllm::net {

enum class Role { Client, Operator, Server };

std::string_view name(Role role);  // "client"
Result<Role> role_of(std::string_view name);

// 1 to 64 of a-z A-Z 0-9 . _ -, starting with a letter or digit: safe in URIs, file names and metric labels.
Result<void> check_peer_name(std::string_view name);

// The certificate's subjectAltName URI: "fedllm://client/site-a".
struct PeerIdentity {
    ClientId name;
    Role role = Role::Client;
    std::string fingerprint;  // SHA-256 of the public key (SPKI), hex: what an allow-list pins

    bool operator==(const PeerIdentity&) const = default;
};

std::string to_uri(Role role, std::string_view name);
Result<PeerIdentity> identity_from_uri(std::string_view uri);  // without fingerprint

}  // namespace fedllm::net
