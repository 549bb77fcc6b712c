#include "server/edge/client_session.hpp"

#include "common/base/version.hpp"
#include "common/log/log.hpp"
#include "common/protocol/chunker.hpp"

namespace fedllm::server::edge {

using net::awaitable;
using protocol::MessageKind;

ClientSession::ClientSession(std::unique_ptr<net::Stream> stream, net::PeerIdentity peer,
                             const protocol::Limits& limits, engine::Engine& engine)
    : executor_(stream->executor()),
      peer_(std::move(peer)),
      limits_(limits),
      engine_(engine),
      channel_(std::move(stream), limits),
      tasks_(executor_),
      outbox_(channel_, session_, executor_),
      taken_(executor_) {}

void ClientSession::end(const std::string& reason) {
    protocol::ServerMessage message;
    message.mutable_goodbye()->set_reason(protocol::sendable(reason));
    outbox_.push(std::move(message));
    outbox_.close();
    tasks_.spawn("goodbye", [](net::Channel& channel) -> awaitable<Result<void>> {
        co_await channel.shutdown(std::chrono::seconds(1));
        co_return Result<void>{};
    }(channel_));
}

awaitable<Result<void>> ClientSession::run() {
    // Whoever cancels this ends its waits; but it must not leave while chunks are on their way out of its
    // buffers.
    co_await net::asio::this_coro::throw_if_cancelled(false);
    tasks_.spawn("writer", write(), [this] { outbox_.close(); });
    Result<void> ended = co_await greet();
    if (ended) ended = co_await listen();
    co_await taken_but(0);
    if (joined_) engine_.leave(peer_.name, session_id_);
    const bool offence =
        !ended && (ended.error().code == Errc::Malformed || ended.error().code == Errc::TooLarge ||
                   ended.error().code == Errc::OutOfOrder);
    if (offence) end(to_string(ended.error()));
    co_await tasks_.stop(offence ? std::chrono::seconds(1) : std::chrono::seconds(0));
    channel_.close();
    // A started upload stays in the spool: the client resumes it at the byte when it returns.
    co_return ended;
}

// A session that cannot write is over, whatever its peer still says.
awaitable<Result<void>> ClientSession::write() {
    auto written = co_await outbox_.run();
    if (!written) channel_.close();
    co_return written;
}

awaitable<Result<void>> ClientSession::greet() {
    FEDLLM_CO_TRY(const auto message, co_await channel_.receive_client_message(limits_.greeting_deadline));
    FEDLLM_CO_TRY([[maybe_unused]] const auto relevance, session_.on_receive(protocol::kind_of(message)));
    if (message.hello().protocol_version() != protocol::kProtocolVersion) {
        end("this server speaks protocol version " + std::to_string(protocol::kProtocolVersion));
        co_return make_error(Errc::Unsupported,
                             "protocol version " + std::to_string(message.hello().protocol_version()));
    }
    protocol::ServerMessage welcome;
    welcome.mutable_welcome()->set_peer_name(peer_.name.get());
    welcome.mutable_welcome()->set_software("fedllm-server " + std::string(kVersion));
    outbox_.push(std::move(welcome));
    channel_.set_frame_limits(limits_.frame);
    tasks_.spawn("keep alive", keep_alive(channel_, outbox_, limits_.ping_every));
    log::info("client connected", {{"client", peer_.name.get()},
                                   {"from", channel_.remote()},
                                   {"software", message.hello().software()},
                                   {"device", message.hello().device()}});
    session_id_ = engine_.join(peer_.name, message.hello(), *this);
    joined_ = true;
    co_return Result<void>{};
}

awaitable<Result<void>> ClientSession::listen() {
    while (!session_.over()) {
        FEDLLM_CO_TRY(const protocol::Frame frame, co_await channel_.receive(limits_.idle_deadline));
        engine_.heard_of(peer_.name);
        if (frame.kind == protocol::FrameKind::Chunk) {
            FEDLLM_CO_TRY_VOID(co_await on_chunk(frame.offset, frame.bytes));
        } else {
            co_await taken_but(0);
            FEDLLM_CO_TRY_VOID(co_await on_control(frame.bytes));
        }
    }
    co_return Result<void>{};
}

awaitable<Result<void>> ClientSession::on_control(std::span<const std::byte> bytes) {
    FEDLLM_CO_TRY(const auto message, protocol::parse_client_message(bytes));
    FEDLLM_CO_TRY(const auto relevance,
                  session_.on_receive(protocol::kind_of(message), protocol::task_of(message)));
    // An Offer about a task of an earlier connection still deserves its verdict, out of the ledger.
    if (message.has_offer()) co_return co_await on_offer(message.offer());
    if (relevance == protocol::Relevance::Stale) co_return Result<void>{};
    if (message.has_fetch()) on_fetch(message.fetch());
    if (message.has_progress()) engine_.on_progress(peer_.name, message.progress());
    if (message.has_decline()) engine_.on_decline(peer_.name, message.decline());
    if (message.has_evaluation()) co_await engine_.on_evaluation(peer_.name, message.evaluation(), *this);
    co_return Result<void>{};
}

// -----------------------------------------------------------------------------------------------------------
// upload

awaitable<Result<void>> ClientSession::on_offer(protocol::Offer offer) {
    intake_.reset();  // a new Offer takes the place of one that was cut
    const std::string task = offer.task_id();
    intake_ = co_await engine_.on_offer(peer_.name, std::move(offer), *this);
    if (!intake_) co_return Result<void>{};
    arrived_ = intake_->held();
    protocol::ServerMessage proceed;
    proceed.mutable_proceed()->set_task_id(task);
    proceed.mutable_proceed()->set_offset(intake_->held());
    outbox_.push(std::move(proceed));
    if (intake_->complete()) {  // every byte had arrived before the cut
        session_.upload_finished();
        co_await engine_.finish_upload(std::move(intake_), *this);
    }
    co_return Result<void>{};
}

awaitable<Result<void>> ClientSession::on_chunk(std::uint64_t offset, std::span<const std::byte> bytes) {
    FEDLLM_CO_TRY(const auto relevance, session_.on_receive(MessageKind::Chunk));
    if (relevance == protocol::Relevance::Stale || !intake_) {
        co_await taken_but(0);
        channel_.release();
        co_return Result<void>{};
    }
    arrived_ += bytes.size();
    ++taking_;
    tasks_.spawn("take", take(*intake_, offset, bytes));
    const bool last = arrived_ >= intake_->claim().bytes;
    if (!last && bytes.size() <= limits_.chunk_bytes) {
        const std::size_t in_hand = engine_.chunks_in_hand();
        co_await taken_but(in_hand - 1);
        channel_.set_frames_in_hand(in_hand);
        co_return Result<void>{};
    }
    co_await taken_but(0);
    channel_.release();
    if (last && intake_ && intake_->complete()) {
        session_.upload_finished();
        co_await engine_.finish_upload(std::move(intake_), *this);
    }
    co_return Result<void>{};
}

// Chunks that are on their way behind one that was refused are refused too, but that was said already.
awaitable<Result<void>> ClientSession::take(engine::Intake& intake, std::uint64_t offset,
                                            std::span<const std::byte> bytes) {
    const auto taken = co_await engine_.take(intake, offset, bytes);
    if (!taken && intake_.get() == &intake)
        co_await engine_.refuse_upload(std::move(intake_), taken.error(), *this);
    --taking_;
    taken_.cancel();
    co_return Result<void>{};
}

// Until no more than so many chunks that have arrived are still to be taken.
awaitable<void> ClientSession::taken_but(std::size_t some) {
    while (taking_ > some) (void)co_await taken_.async_wait(net::kNoThrow);
}

// ---------------------------------------------------------------------------------------------------------
// download

void ClientSession::on_fetch(const protocol::Fetch& fetch) { tasks_.spawn("download", download(fetch)); }

awaitable<Result<void>> ClientSession::download(protocol::Fetch fetch) {
    const std::string task = session_.task();
    auto version = co_await engine_.version(fetch.digest());
    if (version) {
        auto transfer =
            protocol::OutgoingTransfer::start((*version)->bytes(), fetch.offset(), limits_.chunk_bytes);
        if (transfer) {
            if (transfer->remaining() == 0) session_.download_finished();
            engine_.begin_download(fetch.digest());
            while (const auto chunk = transfer->next()) {
                if (session_.task() != task) co_return Result<void>{};  // released meanwhile
                FEDLLM_CO_TRY_VOID(session_.on_send(MessageKind::Chunk));
                // Before the last chunk leaves: the Fetch of the next step may come before we hear that it
                // did.
                if (transfer->remaining() == 0) session_.download_finished();
                FEDLLM_CO_TRY_VOID(co_await channel_.send_chunk(chunk->offset, chunk->data));
                engine_.count_download(peer_.name, chunk->data.size());
            }
            co_return Result<void>{};
        }
        version = transfer.error();
    }
    // The client asked for what it was not told to fetch: nothing sensible can follow on this connection.
    end("cannot send version: " + version.error().message);
    co_return version.error();
}

}  // namespace fedllm::server::edge
