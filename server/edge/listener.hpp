// Those whom the door let in, each served in its role.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/net/task_group.hpp"
#include "common/protocol/limits.hpp"
#include "server/edge/door.hpp"
#include "server/engine/engine.hpp"
#include "server/observe/metrics.hpp"

namespace fedllm::server::edge {

// Lifecycle: open() listens; start(), then stop(), which also ends every session. Concurrency: the control
// strand; `threads` of its own (0: one per core), 16 at most, encrypt and decrypt what is large.
class Listener {
public:
    static Result<std::unique_ptr<Listener>> open(net::asio::any_io_executor control, DoorOptions door,
                                                  unsigned threads, const protocol::Limits& limits,
                                                  const Clock& clock, engine::Engine& engine,
                                                  observe::Metrics& metrics);

    void start() { door_->start(); }
    net::awaitable<void> stop();
    void reload_certificates() { door_->reload(); }
    std::uint16_t port() const { return door_->port(); }

private:
    struct Ends {  // of a session; empty until it begins
        std::function<void(const std::string& reason)> ask_to_stop;
        std::function<void()> close;
    };

    Listener(net::asio::any_io_executor control, unsigned threads, const protocol::Limits& limits,
             engine::Engine& engine, observe::Metrics& metrics);

    void admit(GuestId guest, net::Connected connected);
    void expel(GuestId guest, const std::string& reason);
    net::awaitable<Result<void>> close_after(GuestId guest, Duration patience);
    net::awaitable<Result<void>> serve(GuestId guest, net::Connected connected);
    net::awaitable<Result<void>> serve_in_role(GuestId guest, net::Connected connected, net::WireBytes& wire);
    void log_end(const net::PeerIdentity& peer, const Result<void>& ended, const net::WireBytes& wire);

    net::asio::thread_pool helpers_;  // outlives every connection
    protocol::Limits limits_;
    engine::Engine& engine_;
    observe::Metrics& metrics_;
    net::TaskGroup sessions_;
    std::map<GuestId, Ends> ends_;
    std::unique_ptr<Door> door_;
};

}  // namespace fedllm::server::edge
