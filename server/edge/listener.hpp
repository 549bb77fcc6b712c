// The door: accepts connections, proves who they are, and lets each be served in its role.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <cstddef>
#include <functional>

#include "common/net/connect.hpp"
#include "common/net/task_group.hpp"
#include "common/net/tls.hpp"
#include "common/protocol/limits.hpp"
#include "server/engine/engine.hpp"
#include "server/observe/metrics.hpp"

namespace fedllm::server::edge {

// Lifecycle: run() until stop(), which also ends every session. Concurrency: the control strand.
// Limits: connections_max and unauthenticated_max of the protocol's limits; more are closed on arrival.
class Listener {
public:
    Listener(net::asio::ip::tcp::acceptor acceptor, net::TlsContext tls, const protocol::Limits& limits,
             engine::Engine& engine, observe::Metrics& metrics);

    net::awaitable<Result<void>> run();
    net::awaitable<void> stop();
    std::uint16_t port() const;

private:
    net::awaitable<Result<void>> serve(net::asio::ip::tcp::socket socket);
    net::awaitable<Result<void>> serve_in_role(net::Connected connected, net::WireBytes& wire);
    void log_end(const net::PeerIdentity& peer, const Result<void>& ended, const net::WireBytes& wire);

    net::asio::ip::tcp::acceptor acceptor_;
    net::TlsContext tls_;
    protocol::Limits limits_;
    engine::Engine& engine_;
    observe::Metrics& metrics_;
    net::TaskGroup sessions_;
    std::size_t unauthenticated_ = 0;
    std::map<std::size_t, std::function<void()>> stoppers_;  // of the sessions being served
    std::size_t next_stopper_ = 0;
};

}  // namespace fedllm::server::edge
