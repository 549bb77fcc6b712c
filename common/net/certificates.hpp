// Making the federation's own certificates: `fedllm init` makes the authority and the server's, `fedllm
// invite` the clients'. X.509 v3, ECDSA P-256 with SHA-256 (every TLS 1.3 implementation and hardware token
// speaks it).
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/result.hpp"
#include "common/net/identity.hpp"

namespace fedllm::net {

struct Validity {
    Timestamp not_before;
    Timestamp not_after;
};

// From one hour before `now`, for machines whose clock lags.
Validity valid_for(Timestamp now, std::chrono::days days);

// PEM texts. The key is secret: write it with FileMode::Secret.
struct Credentials {
    std::string certificate_pem;
    std::string key_pem;  // PKCS #8, unencrypted
};

// A self-signed authority that can sign end certificates only (path length 0).
Result<Credentials> create_authority(std::string_view name, const Validity& validity);

struct CertificateRequest {
    Role role = Role::Client;
    std::string name;                    // see check_peer_name()
    std::vector<std::string> dns_names;  // servers: what clients may call it
    std::vector<std::string> addresses;  // servers: IPv4 or IPv6
    Validity validity;
};

Result<Credentials> issue_certificate(const Credentials& authority, const CertificateRequest& request);

// For `fedllm check` and log lines.
struct CertificateFacts {
    PeerIdentity identity;
    Timestamp not_after;
};
Result<CertificateFacts> read_certificate(std::string_view certificate_pem);

}  // namespace fedllm::net
