// The Stream over TLS over TCP. Made by connect.cpp.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/stream.hpp>

#include "common/net/stream.hpp"
#include "common/net/tls.hpp"

namespace fedllm::net {

class TlsStream final : public Stream {
public:
    TlsStream(asio::ip::tcp::socket socket, TlsContext context);

    // Either ends with the peer's identity, or with PeerUntrusted and why.
    awaitable<Result<PeerIdentity>> handshake(asio::ssl::stream_base::handshake_type type);

    awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) override;
    awaitable<Result<std::size_t>> write_some(std::span<const std::byte> bytes) override;
    awaitable<Result<void>> shutdown() override;
    void close() override;
    std::string remote() const override { return remote_; }
    WireBytes wire_bytes() const override;
    asio::any_io_executor executor() override { return stream_.get_executor(); }

    SSL* native() { return stream_.native_handle(); }

private:
    Result<PeerIdentity> peer_identity();
    Error explain_handshake(const boost::system::error_code& error);
    Error explain(const boost::system::error_code& error) const;
    awaitable<void> linger();
    awaitable<Result<void>> read_scrap();

    TlsContext context_;  // declared first: outlives stream_
    asio::ssl::stream<asio::ip::tcp::socket> stream_;
    std::string remote_;
    bool closed_ = false;
    WireBytes wire_at_close_;
};

}  // namespace fedllm::net
