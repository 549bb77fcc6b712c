#include "server/edge/listener.hpp"

#include "common/log/log.hpp"
#include "server/edge/client_session.hpp"
#include "server/edge/operator_session.hpp"

namespace fedllm::server::edge {

using net::awaitable;

Listener::Listener(net::asio::ip::tcp::acceptor acceptor, net::TlsContext tls, const protocol::Limits& limits,
                   engine::Engine& engine, observe::Metrics& metrics)
    : acceptor_(std::move(acceptor)),
      tls_(std::move(tls)),
      limits_(limits),
      engine_(engine),
      metrics_(metrics),
      sessions_(acceptor_.get_executor()) {}

std::uint16_t Listener::port() const {
    boost::system::error_code ignored;
    return acceptor_.local_endpoint(ignored).port();
}

awaitable<Result<void>> Listener::run() {
    while (acceptor_.is_open()) {
        auto [ec, socket] = co_await acceptor_.async_accept(net::kNoThrow);
        if (ec == net::asio::error::operation_aborted) break;
        if (ec) {  // out of descriptors, say: wait for some to be freed instead of spinning
            log::warn("cannot accept a connection", {{"reason", ec.message()}});
            FEDLLM_CO_TRY_VOID(co_await net::sleep_for(std::chrono::milliseconds(100)));
            continue;
        }
        if (sessions_.size() >= limits_.connections_max || unauthenticated_ >= limits_.unauthenticated_max) {
            metrics_.connection_refused(Errc::TooLarge);
            continue;  // the socket closes as it goes out of scope
        }
        boost::system::error_code ignored;
        socket.set_option(net::asio::ip::tcp::no_delay(true), ignored);
        sessions_.spawn("session", serve(std::move(socket)));
    }
    co_return Result<void>{};
}

awaitable<void> Listener::stop() {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    const auto stoppers = stoppers_;  // a stopper may end its session, which takes it out of the map
    for (const auto& [number, stop] : stoppers) stop();
    co_await sessions_.stop(std::chrono::seconds(2));
}

awaitable<Result<void>> Listener::serve(net::asio::ip::tcp::socket socket) {
    boost::system::error_code ignored;
    const auto endpoint = socket.remote_endpoint(ignored);
    ++unauthenticated_;
    auto connected = co_await net::accept_tls(std::move(socket), tls_, limits_.handshake_deadline);
    --unauthenticated_;
    if (!connected) {
        metrics_.connection_refused(connected.error().code);
        log::warn("connection refused",
                  {{"from", endpoint.address().to_string(ignored)}, {"reason", connected.error().message}});
        co_return Result<void>{};
    }
    const net::PeerIdentity peer = connected->peer;
    metrics_.connection_opened(net::name(peer.role));
    net::WireBytes wire;
    const auto ended = co_await serve_in_role(std::move(*connected), wire);
    metrics_.connection_closed(net::name(peer.role));
    log_end(peer, ended, wire);
    co_return Result<void>{};
}

awaitable<Result<void>> Listener::serve_in_role(net::Connected connected, net::WireBytes& wire) {
    const std::size_t number = next_stopper_++;
    Result<void> ended;
    if (connected.peer.role == net::Role::Client) {
        ClientSession session(std::move(connected.stream), connected.peer, limits_, engine_);
        stoppers_[number] = [&session] { session.ask_to_stop(); };
        ended = co_await session.run();
        wire = session.wire_bytes();
        stoppers_.erase(number);
    } else if (connected.peer.role == net::Role::Operator) {
        OperatorSession session(std::move(connected.stream), connected.peer, limits_, engine_);
        stoppers_[number] = [&session] { session.ask_to_stop(); };
        ended = co_await session.run();
        stoppers_.erase(number);
    } else {
        ended = make_error(Errc::PermissionDenied, "a server's certificate cannot be used to connect");
    }
    co_return ended;
}

void Listener::log_end(const net::PeerIdentity& peer, const Result<void>& ended, const net::WireBytes& wire) {
    const bool client = peer.role == net::Role::Client;
    if (client) metrics_.wire_moved(peer.name, wire.received, wire.sent);
    if (ended || ended.error().code == Errc::PeerClosed || ended.error().code == Errc::Cancelled) {
        if (client)
            log::info("client disconnected",
                      {{"client", peer.name.get()}, {"wire_up", wire.received}, {"wire_down", wire.sent}});
        return;
    }
    const Error& error = ended.error();
    if (error.code == Errc::Malformed || error.code == Errc::OutOfOrder || error.code == Errc::TooLarge) {
        metrics_.message_refused(error.code);
    } else if (error.code == Errc::PermissionDenied) {
        metrics_.connection_refused(error.code);
    }
    log::warn("connection ended", {{"peer", peer.name.get()},
                                   {"role", net::name(peer.role)},
                                   {"reason", name(error.code)},
                                   {"detail", error.message}});
}

}  // namespace fedllm::server::edge
