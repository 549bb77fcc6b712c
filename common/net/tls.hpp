// TLS contexts: 1.3 only, mutual, our own authority only, no resumption, ALPN fedllm/1 required.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <memory>
#include <optional>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/net/awaitable.hpp"
#include "common/net/identity.hpp"

namespace fedllm::net {

struct TlsFiles {
    Path ca;           // PEM, the federation's authority; the system's authorities are not trusted
    Path certificate;  // PEM
    Path key;          // PEM, readable by its owner only
    std::optional<Path> crl = {};  // PEM; when given, a revoked certificate is refused

    bool operator==(const TlsFiles&) const = default;
};

// Who shares: each open connection holds the context it began with, and a reload swaps in another.
using TlsContext = std::shared_ptr<asio::ssl::context>;

// Errors name the file and what to do: a missing or broken file, a key that others can read or that belongs
// to another certificate, a certificate whose role is not for this side. Whether the certificate is in date
// and of the right authority is for the other side to judge: our clock may be the wrong one.
Result<TlsContext> make_server_context(const TlsFiles& files);
Result<TlsContext> make_client_context(const TlsFiles& files);  // role client or operator

// PermissionDenied, and how to mend it, when others can read this private key. Fine when it is not there.
Result<void> check_key_file(const Path& path);

// Who our own certificate says we are: the client's own name for its log and data folder.
Result<PeerIdentity> own_identity(const TlsFiles& files);

}  // namespace fedllm::net
