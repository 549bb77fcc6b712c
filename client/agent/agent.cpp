#include "client/agent/agent.hpp"

#include <algorithm>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/post.hpp>
#include <cstring>
#include <utility>

#include "client/agent/download.hpp"
#include "common/base/text.hpp"
#include "common/crypto/secure_rng.hpp"
#include "common/log/log.hpp"
#include "common/net/offload.hpp"
#include "common/net/task_group.hpp"
#include "common/net/throttled_stream.hpp"
#include "common/service/version.hpp"

namespace fedllm::client::agent {

namespace asio = net::asio;
using net::awaitable;

namespace {

// A connection that held so long, or over which so much went, begins the back-off anew.
constexpr double kSteadySeconds = 10;
constexpr std::uint64_t kSteadyBytes = std::uint64_t{1} << 20;
constexpr double kProgressSeconds = 5;                   // between two lines about progress
constexpr Duration kFarewell = std::chrono::seconds(2);  // for a Goodbye to get through

Rng jitter(std::optional<std::uint64_t> given) {
    std::uint64_t seed = given.value_or(0);
    if (!given) crypto::SecureRng().fill(std::as_writable_bytes(std::span(&seed, 1)));
    return Rng(seed, "client/backoff");
}

std::string two_digits(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", value);
    return text;
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::open(asio::any_io_executor executor, const ClientConfig& config,
                                           Connector connect, AgentOptions options,
                                           const WorkerMaker& make_worker) {
    FEDLLM_TRY(VersionStore versions, VersionStore::open(config.state_directory / "versions"));
    FEDLLM_TRY(update::UpdateStore updates, update::UpdateStore::open(config.state_directory / "updates"));
    FEDLLM_TRY(auto worker, make_worker(config, versions, updates));
    std::unique_ptr<Agent> agent(new Agent(std::move(executor), config, std::move(connect), options,
                                           std::move(versions), std::move(updates), std::move(worker)));
    if (!config.admin.address.empty()) FEDLLM_TRY_VOID(agent->open_admin_page());
    return agent;
}

Agent::Agent(asio::any_io_executor executor, const ClientConfig& config, Connector connect,
             AgentOptions options, VersionStore versions, update::UpdateStore updates,
             std::unique_ptr<Worker> worker)
    : executor_(executor),
      config_(config),
      connect_(std::move(connect)),
      options_(options),
      versions_(std::move(versions)),
      updates_(std::move(updates)),
      worker_(std::move(worker)),
      pause_(executor),
      farewell_(executor) {
    if (!options_.worker_executor) worker_thread_.emplace(1);
    worker_executor_ = options_.worker_executor ? *options_.worker_executor : worker_thread_->get_executor();
}

Result<void> Agent::open_admin_page() {
    const auto readiness = [this]() -> admin::Readiness {
        if (machine_.stopping()) return {.ready = false, .reason = "shutting down"};
        if (name_.get().empty() || connection_ == nullptr)
            return {.ready = false, .reason = "no connection to the server"};
        return {.ready = true, .reason = ""};
    };
    const admin::Content content{"fedllm-client", [this] { return metrics_.render(); }, readiness};
    auto page = admin::Page::listen(executor_, config_.admin.address, config_.admin.port, content);
    if (!page) return with_context(page.error(), "admin");
    admin_ = std::move(*page);
    log::info("metrics", {{"page", "http://" + config_.admin.address + ":" + std::to_string(admin_->port()) +
                                       "/metrics"}});
    return {};
}

double Agent::seconds() const {
    return std::chrono::duration<double>(net::now(executor_).time_since_epoch()).count();
}

// -------------------------------------------------------------------------------------------------
// connections

awaitable<Result<void>> Agent::run() {
    net::TaskGroup pages(executor_);
    if (admin_) pages.spawn("admin page", admin_->serve(), [this] { admin_->close(); });
    net::Backoff backoff(options_.backoff);
    Rng rng = jitter(options_.jitter_seed);
    while (!machine_.stopping()) {
        const double began = seconds();
        moved_ = 0;
        auto stream = co_await connect_or_stop();
        Result<void> ended = stream ? Result<void>{} : Result<void>(stream.error());
        if (stream) ended = co_await converse(std::move(*stream));
        if (machine_.stopping()) break;
        if (stream && (seconds() - began > kSteadySeconds || moved_ > kSteadyBytes)) backoff.reset();
        const Duration wait = backoff.next(rng);
        log::warn(stream ? "connection lost" : "cannot connect",
                  {{"server", config_.server.host + ":" + std::to_string(config_.server.port)},
                   {"reason", ended ? "closed" : to_string(ended.error())},
                   {"retry_in_ms", wait.count()}});
        pause_.expires_after(wait);
        co_await pause_.async_wait(net::kNoThrow);
    }
    farewell_.cancel();
    co_await wait_for_worker();
    co_await pages.stop(kFarewell);
    co_return Result<void>{};
}

awaitable<Result<std::unique_ptr<net::Stream>>> Agent::connect_or_stop() {
    using namespace asio::experimental::awaitable_operators;
    pause_.expires_at(net::kNever);
    auto first = co_await (connect_() || pause_.async_wait(net::kNoThrow));
    if (first.index() == 0) co_return std::get<0>(std::move(first));
    co_return make_error(Errc::Cancelled, "stopping");
}

awaitable<void> Agent::wait_for_worker() {
    pause_.expires_after(options_.worker_grace);
    bool time_left = true;
    while (machine_.working() && time_left) {
        const auto [cancelled] = co_await pause_.async_wait(net::kNoThrow);
        time_left = static_cast<bool>(cancelled);
    }
}

protocol::ClientMessage Agent::hello() const {
    protocol::ClientMessage message;
    auto& hello = *message.mutable_hello();
    hello.set_protocol_version(protocol::kProtocolVersion);
    hello.set_software("fedllm-client " + std::string(service::version()));
    hello.set_device(worker_->device());
    for (const auto& [model, folder] : config_.models) hello.add_base_models(model);
    for (const auto& [id, codec] : config::EnumNames<codec::CodecId>::rows) {
        hello.add_codecs(std::string(codec));
    }
    return message;
}

awaitable<Result<void>> Agent::converse(std::unique_ptr<net::Stream> stream) {
    const net::Rates rates{.sent_max = config_.policy.upload_rate_max.bytes,
                           .received_max = config_.policy.download_rate_max.bytes};
    Connection connection(net::throttled(std::move(stream), rates), options_.limits);
    connection_ = &connection;
    net::TaskGroup group(executor_);
    auto ended = co_await connection.greet(hello());
    Result<void> result = ended ? Result<void>{} : Result<void>(ended.error());
    if (ended) {
        name_ = ClientId(*ended);
        log::info("connected",
                  {{"as", name_.get()}, {"server", config_.server.host}, {"port", config_.server.port}});
        metrics_.connected(true);
        apply(Welcomed{});
        group.spawn("sender", connection.send_all());
        result = co_await listen(connection);
    }
    connection.close();
    co_await group.wait();
    moved_ = connection.stats().bytes_in + connection.stats().bytes_out;
    connection_ = nullptr;
    metrics_.connected(false);
    download_.reset();
    apply(Disconnected{});
    co_return result;
}

awaitable<Result<void>> Agent::listen(Connection& connection) {
    for (;;) {
        FEDLLM_CO_TRY(const protocol::Frame frame, co_await connection.receive());
        FEDLLM_CO_TRY_VOID(on_frame(frame));
    }
}

void Agent::stop() {
    if (machine_.stopping()) return;
    log::info("stopping");
    apply(StopAsked{});
    // Before Welcome there is nobody to say Goodbye to.
    if (connection_ != nullptr && !connection_->session().greeted()) connection_->close();
    farewell_.expires_after(kFarewell);
    farewell_.async_wait([this](const boost::system::error_code& cancelled) {
        if (!cancelled && connection_ != nullptr) connection_->close();
    });
    pause_.cancel();
}

// ------------------------------------------------------------------------------------------ what the server
// says

Result<void> Agent::on_frame(const protocol::Frame& frame) {
    if (frame.kind == protocol::FrameKind::Chunk) return on_chunk(frame);
    FEDLLM_TRY(const protocol::ServerMessage message, protocol::parse_server_message(frame.bytes));
    FEDLLM_TRY(const auto relevance,
               connection_->session().on_receive(protocol::kind_of(message), protocol::task_of(message)));
    return relevance == protocol::Relevance::Current ? on_message(message) : Result<void>{};
}

Result<void> Agent::on_message(const protocol::ServerMessage& message) {
    const TaskId id{std::string(protocol::task_of(message))};
    switch (message.body_case()) {
        case protocol::ServerMessage::kTask: {
            auto task = read_task(message.task(), config_);
            apply(task ? Event{TaskArrived{std::move(*task)}} : Event{TaskRefused{id, task.error()}});
            return {};
        }
        case protocol::ServerMessage::kProceed:
            apply(ProceedArrived{id, message.proceed().offset()});
            return {};
        case protocol::ServerMessage::kVerdict: {
            measure_link();
            const auto& verdict = message.verdict();
            const Outcome outcome = verdict.outcome() == protocol::OUTCOME_ACCEPTED ? Outcome::Accepted
                                    : verdict.outcome() == protocol::OUTCOME_ALREADY_ACCEPTED
                                        ? Outcome::AlreadyAccepted
                                        : Outcome::Refused;
            apply(VerdictArrived{id, outcome, verdict.reason(), verdict.detail()});
            return {};
        }
        case protocol::ServerMessage::kRelease:
            download_.reset();
            apply(ReleaseArrived{id, message.release().reason()});
            return {};
        case protocol::ServerMessage::kGoodbye:
            return make_error(Errc::PeerClosed, "the server said goodbye: " + message.goodbye().reason());
        default: return {};  // Ping; the session lets nothing else through
    }
}

// From the first byte of an upload to its verdict, which waits for the last one: what the socket's buffer
// swallows at once proves nothing about the link.
void Agent::measure_link() {
    const double taken = seconds() - upload_.began;
    if (upload_.bytes > 0 && taken > 0) link_bytes_per_second_ = static_cast<double>(upload_.bytes) / taken;
    upload_ = {};
}

Result<void> Agent::on_chunk(const protocol::Frame& frame) {
    FEDLLM_TRY(const auto relevance, connection_->session().on_receive(protocol::MessageKind::Chunk));
    if (relevance == protocol::Relevance::Stale || !download_ || !machine_.task()) return {};
    const TaskId id = machine_.task()->id;
    if (auto written = download_->append(frame.offset, frame.bytes); !written) {
        download_.reset();
        if (written.error().code != Errc::IoFailed) return written;
        apply(WorkFailed{id, written.error()});  // our disk, not the server's fault
        return {};
    }
    if (!download_->complete()) return {};
    log::debug("received", {{"task", id.get()}, {"size", format_bytes(download_->held())}});
    download_.reset();
    connection_->session().download_finished();
    fetch_next();
    return {};
}

// ---------------------------------------------------------------------------------------- what the machine
// wants

void Agent::apply(const Event& event) {
    for (const Effect& effect : machine_.step(event)) {
        std::visit([this](const auto& concrete) { carry_out(concrete); }, effect);
    }
}

void Agent::send(protocol::ClientMessage message) {
    if (connection_ != nullptr) connection_->send(std::move(message));
}

void Agent::carry_out(const Prepare& effect) {
    const Task& task = effect.task;
    updates_.drop_all_but(task.id);
    updates_.residuals().settle_others(task.id, task.job_id, task.counted);
    if (task.kind == TaskKind::Train) {
        if (const auto claim = updates_.find(task.id)) return apply(UpdateFound{task.id, *claim});
    }
    preparing_ = effect;
    fetch_next();
}

// What is on disk decides: after each piece, and after a restart.
void Agent::fetch_next() {
    const Task& task = preparing_.task;
    const DownloadPlan plan = preparing_.whole ? plan_whole(task) : plan_download(task, versions_);
    versions_.prune(config_.versions_kept, needed_by(plan, task));
    const auto missing = std::find_if(plan.pieces.begin(), plan.pieces.end(), [this](const auto& piece) {
        return !versions_.complete(piece.digest, piece.bytes);
    });
    if (missing == plan.pieces.end()) return apply(VersionHeld{task.id});
    if (plan.base.empty() && !preparing_.whole && !initial_digest(task).empty() && seeded_ != task.job) {
        seeded_ = task.job;  // once is enough: it would be the same again
        return apply(InitialWanted{task.id});
    }
    auto writer = versions_.resume(missing->digest, missing->bytes);
    if (!writer) return apply(WorkFailed{task.id, writer.error()});
    download_.emplace(std::move(*writer));
    protocol::ClientMessage message;
    message.mutable_fetch()->set_task_id(task.id.get());
    message.mutable_fetch()->set_digest(missing->digest);
    message.mutable_fetch()->set_offset(download_->held());
    send(std::move(message));
}

void Agent::carry_out(const MakeInitial& effect) {
    const TaskId id = effect.task.id;
    auto make = [worker = worker_.get(), task = effect.task] { return worker->make_initial(task); };
    asio::co_spawn(worker_executor_, net::run_once(std::move(make)),
                   asio::bind_executor(
                       executor_, [this, id](std::exception_ptr thrown, std::optional<Result<void>> made) {
                           const bool held = !thrown && made && *made;
                           log::debug("first version from the seed",
                                      {{"task", id.get()}, {"held", held ? "yes" : "no: it is fetched"}});
                           apply(InitialMade{id});
                           if (machine_.stopping()) pause_.cancel();
                       }));
}

// The worker's thread posts what it has to say to our executor; it never touches the machine.
void Agent::carry_out(const StartWork& effect) {
    stop_work_ = std::stop_source();
    progress_said_ = seconds();
    const TaskId id = effect.task.id;
    const auto report = [this, id](const Progress& progress) {
        asio::post(executor_, [this, id, progress] { on_progress({id, progress}); });
    };
    auto work = [worker = worker_.get(), task = effect.task, name = name_, rate = link_bytes_per_second_,
                 report,
                 stop = stop_work_.get_token()] { return worker->work(task, name, rate, report, stop); };
    asio::co_spawn(
        worker_executor_, net::run_once(std::move(work)),
        asio::bind_executor(executor_, [this, id](std::exception_ptr thrown, std::optional<Event> event) {
            on_worker_done(id, thrown, std::move(event));
        }));
}

void Agent::on_worker_done(const TaskId& id, std::exception_ptr thrown, std::optional<Event> event) {
    if (thrown || !event) {
        event = WorkFailed{id, make_error(Errc::Internal,
                                          "the worker threw an exception; most likely the job needs "
                                          "more memory than this machine has")};
    }
    using observe::Metrics;
    metrics_.task_ended(std::holds_alternative<Trained>(*event)     ? Metrics::Ended::Trained
                        : std::holds_alternative<Evaluated>(*event) ? Metrics::Ended::Evaluated
                                                                    : Metrics::Ended::Failed);
    apply(*event);
    if (machine_.stopping()) pause_.cancel();
}

void Agent::on_progress(const Progressed& event) {
    const double now = seconds();
    const Progress& at = event.progress;
    metrics_.progress(at.step, at.steps, at.loss, at.tokens_per_second);
    if (at.step == at.steps || now - progress_said_ >= kProgressSeconds) {
        progress_said_ = now;
        log::info(
            "task " + event.id.get() + ": step " + std::to_string(at.step) + "/" + std::to_string(at.steps),
            {{"loss", two_digits(at.loss)},
             {"tokens_per_second", static_cast<std::uint64_t>(at.tokens_per_second)}});
    }
    apply(event);
}

void Agent::carry_out(const StopWork&) { stop_work_.request_stop(); }

void Agent::carry_out(const Upload& effect) {
    auto file = updates_.map(effect.id);
    if (!file && file.error().code == Errc::IoFailed) return carry_out(Disconnect{file.error()});
    if (!file)
        return apply(TaskRefused{effect.id, with_context(file.error(), "the finished update is gone")});
    upload_ = {seconds(), file->bytes().size() - effect.offset};
    if (connection_ != nullptr) connection_->upload(effect.id, std::move(*file), effect.offset);
}

void Agent::carry_out(const DropUpdate& effect) {
    updates_.drop(effect.id);
    const update::ResidualStore& residuals = updates_.residuals();
    switch (effect.fate) {
        case Fate::Counted: residuals.keep(effect.id); break;
        case Fate::NotCounted: residuals.drop(effect.id); break;
        case Fate::Unknown: residuals.forget(effect.id); break;
    }
}

void Agent::carry_out(const Disconnect& effect) {
    log::error("closing the connection", {{"reason", to_string(effect.error)}});
    if (connection_ != nullptr) connection_->close();
}

void Agent::carry_out(const SendGoodbye&) {
    protocol::ClientMessage message;
    message.mutable_goodbye()->set_reason("the client is stopping");
    send(std::move(message));
}

void Agent::carry_out(const Say& effect) { log::info(effect.line); }

}  // namespace fedllm::client::agent
