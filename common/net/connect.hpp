// Getting connected: both ends of the TLS handshake, under a deadline, with the refusal's reason in words.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "common/net/identity.hpp"
#include "common/net/peer_proof.hpp"
#include "common/net/stream.hpp"
#include "common/net/tls.hpp"
#include "common/net/watchdog.hpp"

namespace fedllm::net {

struct Connected {
    std::unique_ptr<Stream> stream;
    PeerIdentity peer;
    PeerProof proof = {};
};

// Client side: resolve, connect, handshake. The server's certificate must be of our authority, of role
// server, and for `server_name` (a DNS name or an address; usually the host itself). PeerUntrusted with the
// reason otherwise. In TLS 1.3 the client is done before the server has judged the client's certificate: a
// refusal by the server shows as PeerUntrusted at the first read.
awaitable<Result<Connected>> connect_tls(std::string host, std::uint16_t port, TlsContext context,
                                         std::string server_name, Duration deadline);

class TlsStream;

// Closes with a reset: nothing of the connection stays in the kernel, as TIME_WAIT would.
void hang_up(asio::ip::tcp::socket& socket);

// Server side: an accepted socket up to the end of its handshake, under one deadline, once, in two steps.
// Lifecycle: hello(); then finish(); close() at any time. Concurrency: the executor of the coroutine, which
// in hello() is the socket's, too.
class Accepting {
public:
    Accepting(asio::ip::tcp::socket socket, Duration deadline);
    ~Accepting();
    Accepting(const Accepting&) = delete;
    Accepting& operator=(const Accepting&) = delete;

    // Until the peer's first TLS record lies in the kernel, whole. Nothing of TLS is made before, and the
    // kernel does not wake us for less: whoever says nothing, or a byte now and then, costs a socket and a
    // timer.
    awaitable<Result<void>> hello();
    // The handshake. The connection is `executor`'s from here on, which need not be the coroutine's:
    // handshakes are what strangers can make a server compute, so they may have a thread of their own.
    // `helpers`: threads for what is large on it (tls_stream.hpp); they outlive it.
    // PeerUntrusted with OpenSSL's reason ("certificate has expired", "peer did not return a certificate"),
    // or because the certificate names no client or operator; Cancelled after close().
    awaitable<Result<Connected>> finish(asio::any_io_executor executor, TlsContext context,
                                        asio::any_io_executor helpers = {});
    void close();

private:
    awaitable<Result<void>> first_record();
    awaitable<Result<void>> lie_ready(std::size_t bytes);

    Error ended_by(const Error& error) const;

    asio::ip::tcp::socket socket_;  // until finish()
    std::unique_ptr<TlsStream> stream_;
    bool closed_ = false;
    bool late_ = false;
    Duration deadline_;
    Watchdog watchdog_;  // within() would take more memory than all else that a silent peer costs
};

// Both steps, on the socket's own executor.
awaitable<Result<Connected>> accept_tls(asio::ip::tcp::socket socket, TlsContext context, Duration deadline,
                                        asio::any_io_executor helpers = {});

// A listening socket (SO_REUSEADDR, so that a restart can bind at once); port 0 lets the system choose.
Result<asio::ip::tcp::acceptor> listen_tcp(asio::any_io_executor executor, const std::string& address,
                                           std::uint16_t port);

}  // namespace fedllm::net
