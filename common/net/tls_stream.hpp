// The Stream over TLS over TCP. Made by connect.cpp.
//
// OpenSSL reads and writes the socket itself (socket_bio.hpp); Asio only says when it may. asio::ssl::stream
// copies every byte twice more on both ways, asks the kernel once a record, and holds 68 KiB for a connection
// that is idle; this one holds a record's buffers only while bytes are under way.
#pragma once

#include <openssl/ssl.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/stream_base.hpp>
#include <optional>
#include <utility>

#include "common/net/offload.hpp"
#include "common/net/socket_bio.hpp"
#include "common/net/stream.hpp"
#include "common/net/tls.hpp"

namespace fedllm::net {

// Concurrency: as every Stream. Where it has `helpers`, large reads and writes are de- and encrypted on those
// threads, one at a time, while its executor serves others: who leads many connections is not held to what
// one core can encrypt.
class TlsStream final : public Stream {
public:
    TlsStream(asio::ip::tcp::socket socket, TlsContext context, asio::any_io_executor helpers = {});

    // Either ends with the peer's identity, or with PeerUntrusted and why.
    awaitable<Result<PeerIdentity>> handshake(asio::ssl::stream_base::handshake_type type);

    awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) override;
    awaitable<Result<std::size_t>> write_some(std::span<const std::byte> bytes) override;
    awaitable<Result<void>> shutdown() override;
    void close() override;
    std::string remote() const override { return remote_; }
    WireBytes wire_bytes() const override;
    asio::any_io_executor executor() override { return socket_.get_executor(); }

    SSL* native() { return ssl_.get(); }

private:
    // How a call of OpenSSL came out that did not succeed: what to wait for, or why it is over.
    struct Outcome {
        std::optional<asio::socket_base::wait_type> wait;
        int kind = 0;             // SSL_ERROR_...
        unsigned long error = 0;  // of OpenSSL's queue
    };
    Outcome outcome_of(int returned);
    awaitable<Result<void>> wait(asio::socket_base::wait_type what);
    using Moved = std::pair<std::size_t, Outcome>;  // bytes
    Moved read_now(std::span<std::byte> buffer, std::size_t ahead);
    Moved write_now(std::span<const std::byte> bytes);
    template <class Work>
    awaitable<Moved> helped(Work work);
    awaitable<void> until_returned();

    Result<PeerIdentity> peer_identity();
    Error explain_handshake(const Outcome& outcome);
    Error explain(const Outcome& outcome) const;
    awaitable<void> linger();
    awaitable<Result<void>> read_scrap();

    TlsContext context_;
    asio::ip::tcp::socket socket_;
    SocketEnd end_;  // before ssl_, which uses it to its own end
    std::unique_ptr<SSL, OpensslFree<&SSL_free>> ssl_;
    std::string remote_;
    std::optional<Error> read_failed_;  // found behind bytes that were handed out first
    asio::any_io_executor helpers_;
    bool lent_ = false;  // a helper is at OpenSSL and the socket: nobody else may be
    Timer returned_;     // never fires: cancelled when it is done
    bool closed_ = false;
    WireBytes wire_at_close_;
};

}  // namespace fedllm::net
