// A site that does not train: the client's real connection, and updates that are ready.
#pragma once

#include <functional>
#include <string>

#include "client/agent/connection.hpp"
#include "common/net/backoff.hpp"
#include "common/net/connect.hpp"
#include "common/net/task_group.hpp"
#include "common/protocol/chunker.hpp"

namespace fedllm::tools::bench {

// What a site hands in, whatever the task.
struct ReadyUpdate {
    Path file;
    std::string digest;
    std::uint64_t bytes = 0;
};

struct SiteOptions {
    std::uint16_t port = 0;
    ReadyUpdate update;
    bool download =
        true;  // fetches and hashes the whole version before it offers; else trusts what it would be
    net::BackoffOptions backoff{};
    std::function<void(const protocol::Task&)> on_task;        // right when it arrives
    std::function<void()> on_proceed;                          // its update's bytes go out from now on
    std::function<void(const protocol::Verdict&)> on_verdict;  // of an update or an evaluation
};

// Lifecycle: run() until stop(). It comes back after every cut. Concurrency: one executor.
class Site {
public:
    Site(net::TlsContext identity, SiteOptions options)
        : identity_(std::move(identity)), options_(std::move(options)) {}

    net::awaitable<Result<void>> run();
    void stop();
    bool connected() const { return connected_; }
    const std::string& last_refusal() const { return last_refusal_; }

private:
    net::awaitable<Result<void>> visit();
    net::awaitable<Result<void>> listen(client::agent::Connection& connection);
    Result<void> on_message(client::agent::Connection& connection, const protocol::ServerMessage& message);
    Result<void> on_task(client::agent::Connection& connection, const protocol::Task& task);
    Result<void> on_chunk(client::agent::Connection& connection, const protocol::Frame& frame);
    void offer(client::agent::Connection& connection);

    net::TlsContext identity_;
    SiteOptions options_;
    client::agent::Connection* connection_ = nullptr;  // while there is one; it lives in visit()
    std::string task_;
    std::optional<protocol::IncomingTransfer> download_;
    std::string last_refusal_;
    bool connected_ = false;
    bool welcomed_ = false;  // since the last wait
    bool stopping_ = false;
};

}  // namespace fedllm::tools::bench
