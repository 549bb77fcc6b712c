// A server that follows a script: each connection of the agent is one end of a memory stream, the other end
// is here.
#pragma once

#include <boost/asio/io_context.hpp>
#include <deque>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>

#include "client/agent/agent.hpp"
#include "common/crypto/sha256.hpp"
#include "common/net/channel.hpp"

namespace fedllm::client::agent {

namespace asio = net::asio;
using net::awaitable;

template <class T>
T expect_value(Result<T> result) {
    if (!result) throw std::runtime_error(to_string(result.error()));
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// The server's end of one connection.
class Peer {
public:
    explicit Peer(std::unique_ptr<net::Stream> stream) : channel_(std::move(stream), limits()) {
        channel_.set_frame_limits(limits().frame);
    }

    static protocol::Limits limits() {
        protocol::Limits limits;
        limits.chunk_bytes = 512;  // so that tiny transfers have several
        return limits;
    }

    awaitable<protocol::ClientMessage> next() {  // without Ping and Progress
        for (;;) {
            auto message = expect_value(co_await channel_.receive_client_message(std::chrono::seconds(30)));
            progress_ += message.has_progress() ? 1 : 0;
            if (!message.has_ping() && !message.has_progress()) co_return message;
        }
    }
    awaitable<void> say(protocol::ServerMessage message) {
        expect_value(co_await channel_.send_control(message));
    }

    awaitable<void> greet() {
        hello_ = (co_await next()).hello();
        protocol::ServerMessage message;
        message.mutable_welcome()->set_peer_name("site-a");
        message.mutable_welcome()->set_software("test");
        co_await say(message);
    }

    awaitable<void> task(const job::JobSpec& job, const std::string& version, std::uint32_t round = 0,
                         protocol::TaskKind kind = protocol::TASK_KIND_TRAIN) {
        protocol::ServerMessage message;
        auto& task = *message.mutable_task();
        task.set_task_id("j1/" + std::to_string(round) + "/site-a");
        task.set_kind(kind);
        task.set_job_id("j1");
        task.set_job(job::print_job(job));
        task.set_round(round);
        task.set_model_digest(crypto::to_hex(crypto::sha256(version)));
        task.set_model_bytes(version.size());
        co_await say(message);
    }

    // The next message must be a Fetch, of `digest` where one is given; its offset.
    awaitable<std::uint64_t> fetch(std::string digest = "") {
        const auto message = co_await next();
        if (!message.has_fetch()) throw std::runtime_error("expected Fetch: " + message.ShortDebugString());
        if (!digest.empty() && message.fetch().digest() != digest) {
            throw std::runtime_error("expected Fetch of " + digest + ": " + message.ShortDebugString());
        }
        co_return message.fetch().offset();
    }
    awaitable<void> chunks(const std::string& bytes, std::uint64_t first, std::uint64_t end) {
        const auto all = std::as_bytes(std::span(bytes));
        for (std::uint64_t at = first; at < end;) {
            const std::uint64_t count = std::min<std::uint64_t>(limits().chunk_bytes, end - at);
            expect_value(co_await channel_.send_chunk(at, all.subspan(at, count)));
            at += count;
        }
    }
    awaitable<void> send_version(const std::string& bytes) {
        const std::uint64_t offset = co_await fetch();
        co_await chunks(bytes, offset, bytes.size());
    }

    awaitable<protocol::Offer> offer() {
        const auto message = co_await next();
        if (!message.has_offer()) throw std::runtime_error("expected Offer: " + message.ShortDebugString());
        co_return message.offer();
    }
    awaitable<void> proceed(const protocol::Offer& offer, std::uint64_t offset) {
        protocol::ServerMessage message;
        message.mutable_proceed()->set_task_id(offer.task_id());
        message.mutable_proceed()->set_offset(offset);
        co_await say(message);
    }
    // Chunks from `offset` on, until there are `count` bytes.
    awaitable<std::string> receive(std::uint64_t offset, std::uint64_t count) {
        std::string bytes;
        while (bytes.size() < count) {
            const auto frame = expect_value(co_await channel_.receive(std::chrono::seconds(30)));
            if (frame.kind != protocol::FrameKind::Chunk) continue;
            if (frame.offset != offset + bytes.size()) throw std::runtime_error("a chunk at the wrong place");
            bytes.append(reinterpret_cast<const char*>(frame.bytes.data()), frame.bytes.size());
        }
        co_return bytes;
    }
    awaitable<void> verdict(const std::string& task, protocol::Outcome outcome = protocol::OUTCOME_ACCEPTED) {
        protocol::ServerMessage message;
        message.mutable_verdict()->set_task_id(task);
        message.mutable_verdict()->set_outcome(outcome);
        if (outcome == protocol::OUTCOME_REFUSED) message.mutable_verdict()->set_reason("stale");
        co_await say(message);
    }
    awaitable<void> release(const std::string& task) {
        protocol::ServerMessage message;
        message.mutable_release()->set_task_id(task);
        message.mutable_release()->set_reason("the round closed");
        co_await say(message);
    }
    // Nothing but Ping and Progress comes until the client closes; what it said last.
    awaitable<std::string> until_closed() {
        std::string last;
        for (;;) {
            auto message = co_await channel_.receive_client_message(std::chrono::seconds(30));
            if (!message) co_return last;
            if (!message->has_ping() && !message->has_progress()) last = message->ShortDebugString();
        }
    }
    void cut() { channel_.close(); }

    const protocol::Hello& hello() const { return hello_; }
    int progress() const { return progress_; }

private:
    net::Channel channel_;
    protocol::Hello hello_;
    int progress_ = 0;
};

// Runs an agent against a script in one thread, to the end of both.
class World {
public:
    using Script = std::function<awaitable<void>(World&)>;
    static constexpr net::BackoffOptions kImpatient{.first = std::chrono::milliseconds(1),
                                                    .longest = std::chrono::milliseconds(5)};

    // The agent is stopped when the script is through. Its error, or "".
    std::string run(const ClientConfig& config, Script script,
                    const net::BackoffOptions& backoff = kImpatient) {
        AgentOptions options;
        options.limits.chunk_bytes = 100;
        options.backoff = backoff;
        options.jitter_seed = 1;
        auto agent = Agent::open(
            io_.get_executor(), config, [this] { return connect(); }, options);
        if (!agent) return to_string(agent.error());
        agent_ = agent->get();
        std::string failure = "the world never ended";
        std::exception_ptr thrown_by_agent;
        asio::co_spawn(io_, script(*this), [&](std::exception_ptr thrown) {
            failure = text_of(thrown);
            agent_->stop();
        });
        asio::co_spawn(io_, agent_->run(),
                       [&](std::exception_ptr thrown, Result<void>) { thrown_by_agent = thrown; });
        io_.restart();
        io_.run_for(std::chrono::seconds(60));
        if (thrown_by_agent) failure += "; agent: " + text_of(thrown_by_agent);
        worker_left_busy_ = agent_->worker_busy();
        accepted_.clear();
        return failure;
    }

    // The next connection of the agent, greeted.
    awaitable<std::unique_ptr<Peer>> accept() {
        while (accepted_.empty()) {
            asio::steady_timer timer(io_, std::chrono::milliseconds(1));
            co_await timer.async_wait(net::kNoThrow);
        }
        auto peer = std::make_unique<Peer>(std::move(accepted_.front()));
        accepted_.pop_front();
        co_await peer->greet();
        co_return peer;
    }

    Agent& agent() { return *agent_; }
    bool worker_left_busy() const { return worker_left_busy_; }

private:
    awaitable<Result<std::unique_ptr<net::Stream>>> connect() {
        auto [mine, theirs] = net::make_memory_streams(io_.get_executor());
        accepted_.push_back(std::move(theirs));
        co_return std::unique_ptr<net::Stream>(std::move(mine));
    }
    static std::string text_of(std::exception_ptr thrown) {
        if (!thrown) return "";
        try {
            std::rethrow_exception(thrown);
        } catch (const std::exception& error) {
            return error.what();
        }
    }

    asio::io_context io_{1};
    Agent* agent_ = nullptr;
    std::deque<std::unique_ptr<net::Stream>> accepted_;
    bool worker_left_busy_ = false;
};

}  // namespace fedllm::client::agent
