// One operator's connection: a request, its answer, the next request.
#pragma once

#include <memory>
#include <optional>

#include "common/net/channel.hpp"
#include "common/net/identity.hpp"
#include "common/protocol/session.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::edge {

// Lifecycle: constructed for one connection, run() to its end, destroyed. Concurrency: the control strand.
class OperatorSession {
public:
    OperatorSession(std::unique_ptr<net::Stream> stream, net::PeerIdentity peer,
                    const protocol::Limits& limits, engine::Engine& engine);

    net::awaitable<Result<void>> run();
    void close() { channel_.close(); }

private:
    net::awaitable<Result<void>> greet();
    net::awaitable<Result<void>> serve(protocol::ClientMessage request);
    net::awaitable<Result<void>> submit(protocol::SubmitJob request);
    net::awaitable<Result<void>> receive_initial(ingest::Upload& upload);
    net::awaitable<Result<void>> fetch(protocol::Fetch request);
    net::awaitable<Result<void>> send(protocol::ServerMessage message);
    net::awaitable<Result<void>> refuse(Error error);

    net::PeerIdentity peer_;
    protocol::Limits limits_;
    engine::Engine& engine_;
    net::Channel channel_;
    protocol::Session session_{protocol::Side::Server, protocol::PeerRole::Operator};
};

}  // namespace fedllm::server::edge
