// One connection to the server: the channel, the protocol's rules, and what is to be sent in order.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <variant>

#include "common/base/files.hpp"
#include "common/base/ids.hpp"
#include "common/net/channel.hpp"
#include "common/protocol/session.hpp"

namespace fedllm::client::agent {

// Lifecycle: greet(), then send_all() beside a loop of receive(); close() ends both, and both must have ended
// before it is destroyed. Concurrency: all calls on the stream's executor.
class Connection {
public:
    Connection(std::unique_ptr<net::Stream> stream, const protocol::Limits& limits);

    // Hello and Welcome. The name by which the server knows us.
    net::awaitable<Result<std::string>> greet(protocol::ClientMessage hello);

    // The next frame, whose bytes are valid until the next call.
    net::awaitable<Result<protocol::Frame>> receive() { return channel_.receive(limits_.idle_deadline); }
    protocol::Session& session() { return session_; }

    // Queued; messages about a task that is over by then are left out. After Goodbye the connection closes.
    void send(protocol::ClientMessage message);
    void upload(TaskId id, MappedFile file, std::uint64_t offset);

    // Sends what is queued, and Ping where nothing was for a while, until the channel closes.
    net::awaitable<Result<void>> send_all();

    void close();
    const net::ChannelStats& stats() const { return channel_.stats(); }

private:
    struct UploadOrder {
        TaskId id;
        MappedFile file;
        std::uint64_t offset;
    };

    net::awaitable<Result<void>> send_messages();
    net::awaitable<Result<void>> send_upload();
    net::awaitable<Result<void>> send_queued();

    protocol::Limits limits_;
    net::Timer wake_;  // cancelled: there is something to send
    net::Channel channel_;
    protocol::Session session_{protocol::Side::Client, protocol::PeerRole::Client};
    std::deque<protocol::ClientMessage> messages_;  // bounded: the machine answers what the session lets in
    std::unique_ptr<UploadOrder> upload_;           // at most one: there is one task
};

}  // namespace fedllm::client::agent
