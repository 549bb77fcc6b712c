// A connection to the server in the operator's role, for a command that asks and waits.
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "common/net/channel.hpp"
#include "common/protocol/messages.hpp"
#include "common/protocol/session.hpp"
#include "tools/federation/operator_config.hpp"

namespace fedllm::tools::federation {

// Lifecycle: connect, ask any number of times, destroy. Concurrency: one thread; every call blocks.
// A Refusal of the server comes back as an Error with the server's code and words.
class OperatorLink {
public:
    static Result<std::unique_ptr<OperatorLink>> connect(const OperatorConfig& config);
    ~OperatorLink();

    Result<JobId> submit(const std::string& job, std::span<const std::byte> initial);
    Result<protocol::JobList> list_jobs();
    // All pages as one; its rounds from this one on.
    Result<protocol::JobReport> show_job(const JobId& id, RoundId from = RoundId(0));
    Result<protocol::JobSummary> control_job(const JobId& id, protocol::JobAction action,
                                             const std::string& cause);
    Result<protocol::Because> why(const std::string& subject);
    Result<protocol::AuditRows> audit_rows(const JobId& id);  // all pages as one
    Result<std::vector<std::byte>> fetch(const std::string& digest);

private:
    OperatorLink() = default;
    template <class T>
    Result<T> run(net::awaitable<Result<T>> work);

    net::awaitable<Result<void>> open(OperatorConfig config);
    net::awaitable<Result<protocol::ServerMessage>> ask(protocol::ClientMessage request);
    net::awaitable<Result<protocol::ServerMessage>> answer();
    net::awaitable<Result<void>> send(protocol::ClientMessage message);
    net::awaitable<Result<JobId>> submit_job(std::string job, std::span<const std::byte> initial);
    net::awaitable<Result<std::vector<std::byte>>> fetch_version(std::string digest);

    net::asio::io_context io_{1};
    protocol::Limits limits_;
    protocol::Session session_{protocol::Side::Client, protocol::PeerRole::Operator};
    std::unique_ptr<net::Channel> channel_;
};

}  // namespace fedllm::tools::federation
