#include "tools/federation/operator_link.hpp"

#include <boost/asio/co_spawn.hpp>
#include <optional>

#include "common/base/version.hpp"
#include "common/crypto/sha256.hpp"
#include "common/net/connect.hpp"
#include "common/net/tls.hpp"
#include "common/protocol/chunker.hpp"

namespace fedllm::tools::federation {

using net::awaitable;
using protocol::MessageKind;

namespace {

constexpr std::uint64_t kVersionBytesMax = std::uint64_t{64} << 30;

}  // namespace

// Runs the loop until `work` is done: a command has nothing else to do meanwhile.
template <class T>
Result<T> OperatorLink::run(awaitable<Result<T>> work) {
    std::optional<Result<T>> result;
    net::asio::co_spawn(io_, net::as_optional(std::move(work)),
                        [&](std::exception_ptr thrown, std::optional<Result<T>> done) {
                            if (thrown) std::rethrow_exception(thrown);
                            result = std::move(done);
                        });
    io_.restart();
    while (!result && io_.run_one() > 0) {
    }  // not run(): a deadline's timer may outlive what it watched
    return std::move(*result);
}

OperatorLink::~OperatorLink() = default;

Result<std::unique_ptr<OperatorLink>> OperatorLink::connect(const OperatorConfig& config) {
    std::unique_ptr<OperatorLink> link(new OperatorLink);
    FEDLLM_TRY_VOID(link->run(link->open(config)));
    return link;
}

awaitable<Result<void>> OperatorLink::open(OperatorConfig config) {
    FEDLLM_CO_TRY(const auto tls, net::make_client_context(config.tls()));
    auto connected = co_await net::connect_tls(config.host, config.port, tls, config.expected_name(),
                                               limits_.handshake_deadline);
    if (!connected) {
        co_return with_context(connected.error(),
                               "connecting to " + config.host + ":" + std::to_string(config.port));
    }
    channel_ = std::make_unique<net::Channel>(std::move(connected->stream), limits_);
    protocol::ClientMessage hello;
    hello.mutable_hello()->set_protocol_version(protocol::kProtocolVersion);
    hello.mutable_hello()->set_software("fedllm " + std::string(kVersion));
    FEDLLM_CO_TRY_VOID(co_await send(std::move(hello)));
    FEDLLM_CO_TRY([[maybe_unused]] const auto welcome, co_await answer());
    channel_->set_frame_limits(limits_.frame);
    co_return Result<void>{};
}

awaitable<Result<void>> OperatorLink::send(protocol::ClientMessage message) {
    FEDLLM_CO_TRY_VOID(session_.on_send(protocol::kind_of(message), protocol::task_of(message)));
    co_return co_await channel_->send_control(message);
}

awaitable<Result<protocol::ServerMessage>> OperatorLink::answer() {
    for (;;) {
        FEDLLM_CO_TRY(auto message, co_await channel_->receive_server_message(limits_.idle_deadline));
        FEDLLM_CO_TRY([[maybe_unused]] const auto relevance,
                      session_.on_receive(protocol::kind_of(message), protocol::task_of(message)));
        if (message.has_ping()) continue;
        if (message.has_goodbye()) {
            co_return make_error(Errc::PeerClosed, "the server said goodbye: " + message.goodbye().reason());
        }
        if (message.has_refusal()) {
            co_return make_error(protocol::errc_of(message.refusal().reason()), message.refusal().detail());
        }
        co_return std::move(message);
    }
}

awaitable<Result<protocol::ServerMessage>> OperatorLink::ask(protocol::ClientMessage request) {
    FEDLLM_CO_TRY_VOID(co_await send(std::move(request)));
    co_return co_await answer();
}

Result<JobId> OperatorLink::submit(const std::string& job, std::span<const std::byte> initial) {
    return run(submit_job(job, initial));
}

awaitable<Result<JobId>> OperatorLink::submit_job(std::string job, std::span<const std::byte> initial) {
    protocol::ClientMessage request;
    request.mutable_submit_job()->set_job(job);
    request.mutable_submit_job()->set_initial_digest(crypto::to_hex(crypto::sha256(initial)));
    request.mutable_submit_job()->set_initial_bytes(initial.size());
    FEDLLM_CO_TRY(const auto proceed, co_await ask(std::move(request)));
    FEDLLM_CO_TRY(auto transfer, protocol::OutgoingTransfer::start(initial, proceed.proceed().offset(),
                                                                   limits_.chunk_bytes));
    while (const auto chunk = transfer.next()) {
        FEDLLM_CO_TRY_VOID(session_.on_send(MessageKind::Chunk));
        FEDLLM_CO_TRY_VOID(co_await channel_->send_chunk(chunk->offset, chunk->data));
    }
    session_.upload_finished();
    FEDLLM_CO_TRY(const auto accepted, co_await answer());
    co_return JobId(accepted.job_accepted().job_id());
}

Result<protocol::JobList> OperatorLink::list_jobs() {
    protocol::ClientMessage request;
    request.mutable_list_jobs();
    FEDLLM_TRY(auto answered, run(ask(std::move(request))));
    return std::move(*answered.mutable_job_list());
}

Result<protocol::JobReport> OperatorLink::show_job(const JobId& id, RoundId from) {
    protocol::ClientMessage request;
    protocol::ShowJob& show = *request.mutable_show_job();
    show.set_job_id(id.get());
    show.set_round(from.get());
    protocol::JobReport all;
    for (;;) {
        FEDLLM_TRY(auto answered, run(ask(request)));
        auto page = std::move(*answered.mutable_job_report());
        page.mutable_rounds()->Swap(all.mutable_rounds());
        std::swap(all, page);  // now `all` has the newest summary, and the rounds of the pages before
        for (protocol::RoundReport& round : *page.mutable_rounds()) {
            const int known = all.rounds_size();
            if (known > 0 && all.rounds(known - 1).round() == round.round()) {  // it goes on
                all.mutable_rounds(known - 1)->MergeFrom(round);
            } else {
                *all.add_rounds() = std::move(round);
            }
        }
        if (!all.more()) return all;
        const auto before = std::pair(show.round(), show.after_client());
        if (!all.rounds().empty()) {
            const auto& last = all.rounds(all.rounds_size() - 1);
            show.set_round(last.round());
            show.set_after_client(last.parts().empty() ? "" : last.parts(last.parts_size() - 1).client());
        }
        if (before == std::pair(show.round(), show.after_client()))
            return make_error(Errc::OutOfOrder, "the server's pages of job " + id.get() + " do not go on");
    }
}

Result<protocol::JobSummary> OperatorLink::control_job(const JobId& id, protocol::JobAction action,
                                                       const std::string& cause) {
    protocol::ClientMessage request;
    request.mutable_control_job()->set_job_id(id.get());
    request.mutable_control_job()->set_action(action);
    request.mutable_control_job()->set_cause(cause);
    FEDLLM_TRY(auto answered, run(ask(std::move(request))));
    return std::move(*answered.mutable_job_controlled()->mutable_summary());
}

Result<protocol::Because> OperatorLink::why(const std::string& subject) {
    protocol::ClientMessage request;
    request.mutable_why()->set_subject(subject);
    FEDLLM_TRY(auto answered, run(ask(std::move(request))));
    return std::move(*answered.mutable_because());
}

Result<protocol::AuditRows> OperatorLink::audit_rows(const JobId& id) {
    protocol::AuditRows all;
    do {
        protocol::ClientMessage request;
        request.mutable_audit_job()->set_job_id(id.get());
        const int known = all.rounds_size();
        if (known > 0) {
            const auto& last = all.rounds(known - 1);
            request.mutable_audit_job()->set_round(last.round());
            request.mutable_audit_job()->set_contributions(
                static_cast<std::uint32_t>(last.contributions_size()));
        }
        FEDLLM_TRY(auto answered, run(ask(std::move(request))));
        auto page = std::move(*answered.mutable_audit_rows());
        // The page's first round goes on where the one before ended.
        auto& rounds = *page.mutable_rounds();
        if (known > 0 && !rounds.empty() && rounds[0].round() == all.rounds(known - 1).round()) {
            all.mutable_rounds(known - 1)->mutable_contributions()->MergeFrom(rounds[0].contributions());
            rounds.DeleteSubrange(0, 1);
        } else if (known > 0 && page.more()) {
            return make_error(Errc::OutOfOrder, "the server's pages of rows do not follow each other");
        }
        all.mutable_rounds()->MergeFrom(rounds);
        page.clear_rounds();
        all.MergeFrom(page);
        all.set_more(page.more());
    } while (all.more());
    return all;
}

Result<std::vector<std::byte>> OperatorLink::fetch(const std::string& digest) {
    return run(fetch_version(digest));
}

awaitable<Result<std::vector<std::byte>>> OperatorLink::fetch_version(std::string digest) {
    protocol::ClientMessage request;
    request.mutable_fetch()->set_digest(digest);
    FEDLLM_CO_TRY(const auto blob, co_await ask(std::move(request)));
    if (blob.blob().bytes() > kVersionBytesMax) {
        co_return make_error(Errc::TooLarge,
                             "the version has " + std::to_string(blob.blob().bytes()) + " bytes");
    }
    FEDLLM_CO_TRY(auto transfer, protocol::IncomingTransfer::start(digest, blob.blob().bytes()));
    std::vector<std::byte> bytes;  // grows with what arrives, not with what was announced
    while (!transfer.complete()) {
        FEDLLM_CO_TRY(const auto frame, co_await channel_->receive(limits_.idle_deadline));
        if (frame.kind != protocol::FrameKind::Chunk)
            co_return make_error(Errc::OutOfOrder, "expected a chunk");
        FEDLLM_CO_TRY([[maybe_unused]] const auto relevance, session_.on_receive(MessageKind::Chunk));
        FEDLLM_CO_TRY_VOID(transfer.accept({frame.offset, frame.bytes}));
        bytes.insert(bytes.end(), frame.bytes.begin(), frame.bytes.end());
    }
    FEDLLM_CO_TRY_VOID(transfer.verify());
    session_.download_finished();
    co_return bytes;
}

}  // namespace fedllm::tools::federation
