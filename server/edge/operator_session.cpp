#include "server/edge/operator_session.hpp"

#include "common/base/version.hpp"
#include "common/protocol/chunker.hpp"

namespace fedllm::server::edge {

using net::awaitable;
using protocol::MessageKind;

OperatorSession::OperatorSession(std::unique_ptr<net::Stream> stream, net::PeerIdentity peer,
                                 const protocol::Limits& limits, engine::Engine& engine)
    : peer_(std::move(peer)), limits_(limits), engine_(engine), channel_(std::move(stream), limits) {}

awaitable<Result<void>> OperatorSession::run() {
    FEDLLM_CO_TRY_VOID(co_await greet());
    while (!session_.over()) {
        FEDLLM_CO_TRY(auto request, co_await channel_.receive_client_message(limits_.idle_deadline));
        FEDLLM_CO_TRY([[maybe_unused]] const auto relevance,
                      session_.on_receive(protocol::kind_of(request), protocol::task_of(request)));
        FEDLLM_CO_TRY_VOID(co_await serve(std::move(request)));
    }
    co_return Result<void>{};
}

awaitable<Result<void>> OperatorSession::greet() {
    FEDLLM_CO_TRY(const auto hello, co_await channel_.receive_client_message(limits_.greeting_deadline));
    FEDLLM_CO_TRY([[maybe_unused]] const auto relevance, session_.on_receive(protocol::kind_of(hello)));
    protocol::ServerMessage message;
    if (hello.hello().protocol_version() != protocol::kProtocolVersion) {
        message.mutable_goodbye()->set_reason("this server speaks protocol version " +
                                              std::to_string(protocol::kProtocolVersion));
        co_return co_await send(std::move(message));
    }
    message.mutable_welcome()->set_peer_name(peer_.name.get());
    message.mutable_welcome()->set_software("fedllm-server " + std::string(kVersion));
    channel_.set_frame_limits(limits_.frame);
    co_return co_await send(std::move(message));
}

awaitable<Result<void>> OperatorSession::serve(protocol::ClientMessage request) {
    if (request.has_submit_job()) co_return co_await submit(request.submit_job());
    if (request.has_fetch()) co_return co_await fetch(request.fetch());
    protocol::ServerMessage answer;
    if (request.has_list_jobs()) {
        auto list = engine_.list_jobs();
        if (!list) co_return co_await refuse(list.error());
        *answer.mutable_job_list() = std::move(*list);
        co_return co_await send(std::move(answer));
    }
    if (request.has_show_job()) {
        auto report = engine_.report(request.show_job());
        if (!report) co_return co_await refuse(report.error());
        *answer.mutable_job_report() = std::move(*report);
        co_return co_await send(std::move(answer));
    }
    if (request.has_control_job()) {
        auto summary = co_await engine_.control(peer_.name.get(), request.control_job());
        if (!summary) co_return co_await refuse(summary.error());
        *answer.mutable_job_controlled()->mutable_summary() = std::move(*summary);
        co_return co_await send(std::move(answer));
    }
    if (request.has_why()) {
        auto because = engine_.why(request.why().subject());
        if (!because) co_return co_await refuse(because.error());
        *answer.mutable_because() = std::move(*because);
        co_return co_await send(std::move(answer));
    }
    if (request.has_audit_job()) {
        auto rows = engine_.audit_rows(request.audit_job());
        if (!rows) co_return co_await refuse(rows.error());
        *answer.mutable_audit_rows() = std::move(*rows);
        co_return co_await send(std::move(answer));
    }
    co_return Result<void>{};  // Ping, Goodbye
}

awaitable<Result<void>> OperatorSession::submit(protocol::SubmitJob request) {
    auto upload = engine_.begin_submission(peer_.name.get(), request);
    if (!upload) co_return co_await refuse(upload.error());
    protocol::ServerMessage proceed;
    proceed.mutable_proceed()->set_offset(upload->held());
    FEDLLM_CO_TRY_VOID(co_await send(std::move(proceed)));
    FEDLLM_CO_TRY_VOID(co_await receive_initial(*upload));
    auto id = co_await engine_.submit(std::move(request), std::move(*upload));
    if (!id) co_return co_await refuse(id.error());
    protocol::ServerMessage accepted;
    accepted.mutable_job_accepted()->set_job_id(id->get());
    co_return co_await send(std::move(accepted));
}

awaitable<Result<void>> OperatorSession::receive_initial(ingest::Upload& upload) {
    while (upload.held() < upload.bytes_total()) {
        FEDLLM_CO_TRY(const auto frame, co_await channel_.receive(limits_.idle_deadline));
        if (frame.kind != protocol::FrameKind::Chunk || frame.offset != upload.held()) {
            co_return make_error(Errc::OutOfOrder,
                                 "expected the chunk at byte " + std::to_string(upload.held()));
        }
        FEDLLM_CO_TRY([[maybe_unused]] const auto relevance, session_.on_receive(MessageKind::Chunk));
        FEDLLM_CO_TRY_VOID(upload.append(frame.bytes));
    }
    session_.upload_finished();
    co_return Result<void>{};
}

awaitable<Result<void>> OperatorSession::fetch(protocol::Fetch request) {
    auto version = co_await engine_.version(request.digest());
    if (!version) co_return co_await refuse(version.error());
    auto transfer =
        protocol::OutgoingTransfer::start((*version)->bytes(), request.offset(), limits_.chunk_bytes);
    if (!transfer) co_return co_await refuse(transfer.error());
    protocol::ServerMessage blob;
    blob.mutable_blob()->set_digest(request.digest());
    blob.mutable_blob()->set_bytes((*version)->bytes().size());
    FEDLLM_CO_TRY_VOID(co_await send(std::move(blob)));
    while (const auto chunk = transfer->next()) {
        FEDLLM_CO_TRY_VOID(session_.on_send(MessageKind::Chunk));
        FEDLLM_CO_TRY_VOID(co_await channel_.send_chunk(chunk->offset, chunk->data));
    }
    session_.download_finished();
    co_return Result<void>{};
}

awaitable<Result<void>> OperatorSession::send(protocol::ServerMessage message) {
    FEDLLM_CO_TRY_VOID(session_.on_send(protocol::kind_of(message), protocol::task_of(message)));
    co_return co_await channel_.send_control(message);
}

awaitable<Result<void>> OperatorSession::refuse(Error error) {
    protocol::ServerMessage message;
    message.mutable_refusal()->set_reason(std::string(name(error.code)));
    message.mutable_refusal()->set_detail(protocol::sendable(error.message));
    co_return co_await send(std::move(message));
}

}  // namespace fedllm::server::edge
