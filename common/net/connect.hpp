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

// Server side: the handshake on an accepted socket, once. Its work is done on the executor of the coroutine,
// which need not be the socket's: handshakes are what strangers can make a server compute, so they may have a
// thread of their own.
class Accepting {
public:
    Accepting(asio::ip::tcp::socket socket, TlsContext context);
    ~Accepting();
    Accepting(const Accepting&) = delete;
    Accepting& operator=(const Accepting&) = delete;

    // PeerUntrusted with OpenSSL's reason ("certificate has expired", "peer did not return a certificate"),
    // or because the certificate names no client or operator; Cancelled after close().
    awaitable<Result<Connected>> finish(Duration deadline);
    void close();

private:
    awaitable<Result<PeerIdentity>> shake_hands();

    std::unique_ptr<TlsStream> stream_;
};

awaitable<Result<Connected>> accept_tls(asio::ip::tcp::socket socket, TlsContext context, Duration deadline);

// A listening socket (SO_REUSEADDR, so that a restart can bind at once); port 0 lets the system choose.
Result<asio::ip::tcp::acceptor> listen_tcp(asio::any_io_executor executor, const std::string& address,
                                           std::uint16_t port);

}  // namespace fedllm::net
