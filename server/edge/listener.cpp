#include "server/edge/listener.hpp"

#include <algorithm>
#include <thread>

#include "common/log/log.hpp"
#include "server/edge/client_session.hpp"
#include "server/edge/operator_session.hpp"

namespace fedllm::server::edge {

using net::awaitable;

namespace {

constexpr unsigned kHelpersMax = 16;                     // reckoned at 1.4 GB/s each: 22 GB/s
constexpr Duration kFarewell = std::chrono::seconds(2);  // for a Goodbye to get through

}  // namespace

Result<std::unique_ptr<Listener>> Listener::open(net::asio::any_io_executor control, DoorOptions door,
                                                 unsigned threads, const protocol::Limits& limits,
                                                 const Clock& clock, engine::Engine& engine,
                                                 observe::Metrics& metrics) {
    if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
    threads = std::min(threads, kHelpersMax);
    std::unique_ptr<Listener> listener(new Listener(control, threads, limits, engine, metrics));
    door.helpers = listener->helpers_.get_executor();
    const DoorEvents events{
        .admitted = [raw = listener.get()](
                        GuestId guest, net::Connected connected) { raw->admit(guest, std::move(connected)); },
        .expelled = [raw = listener.get()](GuestId guest,
                                           const std::string& reason) { raw->expel(guest, reason); },
    };
    FEDLLM_TRY(listener->door_, Door::open(control, door, clock, metrics, events));
    return listener;
}

Listener::Listener(net::asio::any_io_executor control, unsigned threads, const protocol::Limits& limits,
                   engine::Engine& engine, observe::Metrics& metrics)
    : helpers_(threads), limits_(limits), engine_(engine), metrics_(metrics), sessions_(std::move(control)) {}

awaitable<void> Listener::stop() {
    co_await door_->stop();
    const auto ends = ends_;  // a session that ends takes itself out of the map
    for (const auto& [guest, end] : ends) {
        if (end.ask_to_stop) end.ask_to_stop("the server is shutting down");
    }
    co_await sessions_.stop(kFarewell);
}

void Listener::admit(GuestId guest, net::Connected connected) {
    ends_[guest] = {};
    sessions_.spawn("session", serve(guest, std::move(connected)));
}

// With a word, if it can still be heard.
void Listener::expel(GuestId guest, const std::string& reason) {
    const auto place = ends_.find(guest);
    if (place == ends_.end()) return;
    log::warn("connection expelled", {{"guest", guest}, {"reason", reason}});
    const auto ask_to_stop = place->second.ask_to_stop;
    if (!ask_to_stop) return (void)ends_.erase(place);  // its session has not begun, and will not
    ask_to_stop(reason);
    sessions_.spawn("expulsion", close_after(guest, kFarewell));
}

awaitable<Result<void>> Listener::close_after(GuestId guest, Duration patience) {
    FEDLLM_CO_TRY_VOID(co_await net::sleep_for(patience));
    if (const auto place = ends_.find(guest); place != ends_.end()) place->second.close();
    co_return Result<void>{};
}

awaitable<Result<void>> Listener::serve(GuestId guest, net::Connected connected) {
    if (!ends_.contains(guest)) co_return Result<void>{};  // expelled
    const net::PeerIdentity peer = connected.peer;
    metrics_.connection_opened(net::name(peer.role));
    net::WireBytes wire;
    const auto ended = co_await serve_in_role(guest, std::move(connected), wire);
    metrics_.connection_closed(net::name(peer.role));
    door_->left(guest);
    log_end(peer, ended, wire);
    co_return Result<void>{};
}

awaitable<Result<void>> Listener::serve_in_role(GuestId guest, net::Connected connected,
                                                net::WireBytes& wire) {
    Result<void> ended;
    if (connected.peer.role == net::Role::Client) {
        ClientSession session(std::move(connected.stream), connected.peer, limits_, engine_);
        ends_[guest] = {[&session](const std::string& reason) { session.end(reason); },
                        [&session] { session.close(); }};
        ended = co_await session.run();
        wire = session.wire_bytes();
    } else {
        OperatorSession session(std::move(connected.stream), connected.peer, limits_, engine_);
        ends_[guest] = {[&session](const std::string&) { session.close(); }, [&session] { session.close(); }};
        ended = co_await session.run();
    }
    ends_.erase(guest);
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
        metrics_.connection_refused(name(error.code));
    }
    log::warn("connection ended", {{"peer", peer.name.get()},
                                   {"role", net::name(peer.role)},
                                   {"reason", name(error.code)},
                                   {"detail", error.message}});
}

}  // namespace fedllm::server::edge
