#include "client/agent/connection.hpp"

#include <utility>

#include "common/protocol/chunker.hpp"

namespace fedllm::client::agent {

using net::awaitable;
using protocol::MessageKind;

Connection::Connection(std::unique_ptr<net::Stream> stream, const protocol::Limits& limits)
    : limits_(limits), wake_(stream->executor()), channel_(std::move(stream), limits) {}

awaitable<Result<std::string>> Connection::greet(protocol::ClientMessage hello) {
    FEDLLM_CO_TRY_VOID(session_.on_send(MessageKind::Hello));
    FEDLLM_CO_TRY_VOID(co_await channel_.send_control(hello));
    FEDLLM_CO_TRY(const protocol::ServerMessage answer,
                  co_await channel_.receive_server_message(limits_.greeting_deadline));
    FEDLLM_CO_TRY([[maybe_unused]] const auto relevance, session_.on_receive(protocol::kind_of(answer)));
    if (answer.has_goodbye()) {
        co_return make_error(Errc::PeerClosed, "the server said goodbye: " + answer.goodbye().reason());
    }
    channel_.set_frame_limits(limits_.frame);
    co_return answer.welcome().peer_name();
}

void Connection::send(protocol::ClientMessage message) {
    messages_.push_back(std::move(message));
    wake_.cancel();
}

void Connection::upload(TaskId id, MappedFile file, std::uint64_t offset) {
    upload_.reset(new UploadOrder{std::move(id), std::move(file), offset});
    wake_.cancel();
}

void Connection::close() {
    channel_.close();
    wake_.cancel();
}

awaitable<Result<void>> Connection::send_all() {
    auto result = co_await send_queued();
    close();  // wakes the receiving side
    co_return result;
}

awaitable<Result<void>> Connection::send_queued() {
    while (!channel_.closed()) {
        FEDLLM_CO_TRY_VOID(co_await send_messages());
        if (upload_) {
            FEDLLM_CO_TRY_VOID(co_await send_upload());
            continue;
        }
        if (channel_.closed()) break;
        wake_.expires_after(limits_.ping_every);
        const auto [stopped] = co_await wake_.async_wait(net::kNoThrow);
        if (!stopped && channel_.silent_for() >= limits_.ping_every) {
            protocol::ClientMessage ping;
            ping.mutable_ping();
            messages_.push_back(std::move(ping));
        }
    }
    co_return Result<void>{};
}

awaitable<Result<void>> Connection::send_messages() {
    while (!messages_.empty() && !channel_.closed()) {
        const protocol::ClientMessage message = std::move(messages_.front());
        messages_.pop_front();
        const std::string task(protocol::task_of(message));
        if (session_.over() || (!task.empty() && task != session_.task())) continue;
        FEDLLM_CO_TRY_VOID(session_.on_send(protocol::kind_of(message), task));
        FEDLLM_CO_TRY_VOID(co_await channel_.send_control(message));
        if (message.has_goodbye()) co_await channel_.shutdown(std::chrono::seconds(1));
    }
    co_return Result<void>{};
}

// Between two chunks other messages get their turn, and a Release or Verdict ends the upload.
awaitable<Result<void>> Connection::send_upload() {
    const std::unique_ptr<UploadOrder> order = std::move(upload_);
    FEDLLM_CO_TRY(auto transfer,
                  protocol::OutgoingTransfer::start(order->file.bytes(), order->offset, limits_.chunk_bytes));
    while (const auto chunk = transfer.next()) {
        if (session_.over() || session_.task() != order->id.get()) co_return Result<void>{};
        FEDLLM_CO_TRY_VOID(session_.on_send(MessageKind::Chunk));
        FEDLLM_CO_TRY_VOID(co_await channel_.send_chunk(chunk->offset, chunk->data));
        FEDLLM_CO_TRY_VOID(co_await send_messages());
    }
    if (session_.task() == order->id.get()) session_.upload_finished();
    co_return Result<void>{};
}

}  // namespace fedllm::client::agent
