// One client's connection: frames in, engine calls, messages and version bytes out.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/net/channel.hpp"
#include "common/net/identity.hpp"
#include "common/net/task_group.hpp"
#include "common/protocol/session.hpp"
#include "server/edge/outbox.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::edge {

// Lifecycle: constructed for one connection, run() to its end, destroyed.
// Concurrency: the control strand; a download and the writer are tasks of its own group.
class ClientSession final : public engine::Link {
public:
    ClientSession(std::unique_ptr<net::Stream> stream, net::PeerIdentity peer, const protocol::Limits& limits,
                  engine::Engine& engine);

    // Until the peer leaves or breaks the protocol. The error says why it ended.
    net::awaitable<Result<void>> run();
    void close() { channel_.close(); }  // at once; end() says why first
    net::WireBytes wire_bytes() const { return channel_.wire_bytes(); }

    void post(protocol::ServerMessage message) override { outbox_.push(std::move(message)); }
    void end(const std::string& reason) override;

private:
    net::awaitable<Result<void>> write();
    net::awaitable<Result<void>> greet();
    net::awaitable<Result<void>> listen();
    net::awaitable<Result<void>> on_control(std::span<const std::byte> bytes);
    net::awaitable<Result<void>> on_chunk(std::uint64_t offset, std::span<const std::byte> bytes);
    net::awaitable<Result<void>> take(engine::Intake& intake, std::uint64_t offset,
                                      std::span<const std::byte> bytes);
    net::awaitable<void> taken_but(std::size_t some);
    net::awaitable<Result<void>> on_offer(protocol::Offer offer);
    net::awaitable<Result<void>> download(protocol::Fetch fetch);
    void on_fetch(const protocol::Fetch& fetch);

    net::asio::any_io_executor executor_;
    net::PeerIdentity peer_;
    protocol::Limits limits_;
    engine::Engine& engine_;
    net::Channel channel_;
    protocol::Session session_{protocol::Side::Server, protocol::PeerRole::Client};
    net::TaskGroup tasks_;
    Outbox outbox_;
    registry::SessionId session_id_;
    bool joined_ = false;
    engine::UploadUnderWay intake_;
    std::uint64_t arrived_ = 0;  // bytes of it
    std::size_t taking_ = 0;     // chunks on their way into it, one after another, while the next one arrives
    net::Timer taken_;           // never fires: cancelled when one is in
};

}  // namespace fedllm::server::edge
