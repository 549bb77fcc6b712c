// What a peer showed at its handshake, kept so that it can be judged again when certificates expire or what
// we trust changes, while its connection goes on.
#pragma once

#include <boost/asio/ssl/stream_base.hpp>
#include <memory>

#include "common/base/clock.hpp"
#include "common/base/result.hpp"
#include "common/net/tls.hpp"

namespace fedllm::net {

// Shares the connection's own copy of the certificates. Move-only. Concurrency: one thread at a time, which
// need not be the connection's.
class PeerProof {
public:
    PeerProof();
    explicit PeerProof(SSL* connection);  // after its handshake
    PeerProof(PeerProof&& other) noexcept;
    PeerProof& operator=(PeerProof&& other) noexcept;
    ~PeerProof();

    // PeerUntrusted, and why, when the server of `context` would refuse this client's handshake now.
    Result<void> check(const TlsContext& context) const;
    Timestamp not_after() const { return not_after_; }

private:
    struct Shown;

    std::unique_ptr<Shown> shown_;
    Timestamp not_after_ = Timestamp::max();
};

}  // namespace fedllm::net
