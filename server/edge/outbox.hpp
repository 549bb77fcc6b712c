// The messages a session still has to send, in order. The session machine is asked right before each is
// written.
#pragma once

#include <deque>

#include "common/net/channel.hpp"
#include "common/protocol/session.hpp"

namespace fedllm::server::edge {

// Lifecycle: push from anywhere on the strand; run() is the session's one writer and ends after close().
// Limits: what waits here is control messages about one client's few tasks; a peer that does not read is
// closed by the channel's stall deadline.
class Outbox {
public:
    Outbox(net::Channel& channel, protocol::Session& session, net::asio::any_io_executor executor)
        : channel_(channel), session_(session), changed_(executor) {}

    void push(protocol::ServerMessage message);
    void close();  // what was pushed before is still sent
    net::awaitable<Result<void>> run();

private:
    net::awaitable<void> wait();

    net::Channel& channel_;
    protocol::Session& session_;
    net::Timer changed_;  // cancelled to wake run()
    std::deque<protocol::ServerMessage> messages_;
    bool closed_ = false;
};

// Says Ping whenever our side has been silent for `every`, until the channel closes.
net::awaitable<Result<void>> keep_alive(net::Channel& channel, Outbox& outbox, Duration every);

}  // namespace fedllm::server::edge
