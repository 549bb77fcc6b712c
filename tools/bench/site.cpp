#include "tools/bench/site.hpp"

#include <utility>

namespace fedllm::tools::bench {

using client::agent::Connection;
using net::awaitable;

namespace {

protocol::ClientMessage hello() {
    protocol::ClientMessage message;
    message.mutable_hello()->set_protocol_version(protocol::kProtocolVersion);
    message.mutable_hello()->set_software("fedllm bench");
    message.mutable_hello()->set_device("none: it does not train");
    message.mutable_hello()->add_base_models("none");
    return message;
}

// What does not depend on the bytes: plausible, and the same for everybody.
void describe(const std::string& task, const ReadyUpdate& update, protocol::Offer& offer) {
    offer.set_task_id(task);
    offer.set_digest(update.digest);
    offer.set_bytes(update.bytes);
    offer.set_samples(10);
    offer.set_tokens(100);
    offer.set_train_loss(2.0);
    offer.set_train_seconds(0.1);
    offer.mutable_evaluation()->set_task_id(task);
    offer.mutable_evaluation()->set_loss_sum(200.0);
    offer.mutable_evaluation()->set_tokens(100);
}

}  // namespace

void Site::stop() {
    stopping_ = true;
    if (connection_ != nullptr) connection_->close();
}

awaitable<Result<void>> Site::run() {
    Rng rng(reinterpret_cast<std::uintptr_t>(this), "bench/site");
    net::Backoff backoff(options_.backoff);
    while (!stopping_) {
        // Named results: GCC 12 destroys a temporary across co_await twice.
        const Result<void> ended = co_await visit();
        if (stopping_) break;
        if (!ended && ended.error().code == Errc::PeerUntrusted) co_return ended;
        if (std::exchange(welcomed_, false)) backoff.reset();
        const Result<void> slept = co_await net::sleep_for(backoff.next(rng));
        if (!slept) break;
    }
    co_return Result<void>{};
}

awaitable<Result<void>> Site::visit() {
    const protocol::Limits limits;
    FEDLLM_CO_TRY(net::Connected connected, co_await net::connect_tls("127.0.0.1", options_.port, identity_,
                                                                      "127.0.0.1", std::chrono::seconds(60)));
    Connection connection(std::move(connected.stream), limits);
    net::TaskGroup group(co_await net::asio::this_coro::executor);
    const auto greeted = co_await connection.greet(hello());
    Result<void> result = greeted ? Result<void>{} : Result<void>(greeted.error());
    if (greeted && !stopping_) {
        connection_ = &connection;
        connected_ = welcomed_ = true;
        group.spawn("sender", connection.send_all());
        result = co_await listen(connection);
        connected_ = false;
        connection_ = nullptr;
    }
    connection.close();
    co_await group.wait();
    download_.reset();
    co_return result;
}

awaitable<Result<void>> Site::listen(Connection& connection) {
    for (;;) {
        FEDLLM_CO_TRY(const protocol::Frame frame, co_await connection.receive());
        if (frame.kind == protocol::FrameKind::Chunk) {
            FEDLLM_CO_TRY_VOID(on_chunk(connection, frame));
            continue;
        }
        FEDLLM_CO_TRY(const auto message, protocol::parse_server_message(frame.bytes));
        FEDLLM_CO_TRY(const auto relevance, connection.session().on_receive(protocol::kind_of(message),
                                                                            protocol::task_of(message)));
        if (relevance == protocol::Relevance::Current) FEDLLM_CO_TRY_VOID(on_message(connection, message));
    }
}

Result<void> Site::on_message(Connection& connection, const protocol::ServerMessage& message) {
    if (message.has_task()) return on_task(connection, message.task());
    if (message.has_release()) download_.reset();
    if (message.has_proceed()) {
        if (options_.on_proceed) options_.on_proceed();
        FEDLLM_TRY(MappedFile file, MappedFile::open(options_.update.file));
        connection.upload(TaskId(message.proceed().task_id()), std::move(file), message.proceed().offset());
    }
    if (message.has_verdict()) {
        if (message.verdict().outcome() == protocol::OUTCOME_REFUSED)
            last_refusal_ = message.verdict().detail();
        if (options_.on_verdict) options_.on_verdict(message.verdict());
    }
    if (message.has_goodbye()) return make_error(Errc::PeerClosed, message.goodbye().reason());
    return {};
}

Result<void> Site::on_task(Connection& connection, const protocol::Task& task) {
    task_ = task.task_id();
    if (options_.on_task) options_.on_task(task);
    if (task.kind() == protocol::TASK_KIND_EVALUATE) {
        protocol::Offer offer;
        describe(task_, options_.update, offer);
        protocol::ClientMessage message;
        *message.mutable_evaluation() = offer.evaluation();
        connection.send(std::move(message));
        return {};
    }
    if (!options_.download) {
        offer(connection);
        return {};
    }
    FEDLLM_TRY(download_, protocol::IncomingTransfer::start(task.model_digest(), task.model_bytes()));
    protocol::ClientMessage message;
    message.mutable_fetch()->set_task_id(task_);
    message.mutable_fetch()->set_digest(task.model_digest());
    connection.send(std::move(message));
    return {};
}

Result<void> Site::on_chunk(Connection& connection, const protocol::Frame& frame) {
    FEDLLM_TRY(const auto relevance, connection.session().on_receive(protocol::MessageKind::Chunk));
    if (relevance == protocol::Relevance::Stale || !download_) return {};
    FEDLLM_TRY_VOID(download_->accept({frame.offset, frame.bytes}));
    if (!download_->complete()) return {};
    FEDLLM_TRY_VOID(download_->verify());
    download_.reset();
    connection.session().download_finished();
    offer(connection);
    return {};
}

void Site::offer(Connection& connection) {
    protocol::ClientMessage message;
    describe(task_, options_.update, *message.mutable_offer());
    connection.send(std::move(message));
}

}  // namespace fedllm::tools::bench
