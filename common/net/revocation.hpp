// The authority takes certificates back: a list that servers read (X.509 CRL, RFC 5280).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/result.hpp"
#include "common/net/certificates.hpp"

namespace fedllm::net {

struct Revocation {
    std::string crl_pem;
    std::size_t added = 0;  // certificates that were not on the list before
};

// `crl_pem`: the list so far; empty for a first one. The list holds as long as the authority itself: whoever
// revokes nothing has nothing to renew. PermissionDenied for a certificate or a list of another authority.
Result<Revocation> revoke(const Credentials& authority, std::string_view crl_pem,
                          const std::vector<std::string>& certificate_pems, Timestamp now);

}  // namespace fedllm::net
