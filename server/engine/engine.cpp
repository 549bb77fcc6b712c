#include "server/engine/engine.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

#include "common/log/log.hpp"
#include "common/net/offload.hpp"
#include "server/engine/commit.hpp"

namespace fedllm::server::engine {
namespace {

namespace asio = boost::asio;

unsigned threads_or_cores(unsigned threads) {
    return threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
}

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

store::VersionRow row_of(const NewVersion& made, const store::VersionRow& base, Timestamp now) {
    store::VersionRow row{made.file.digest, base.job, RoundId(base.round.get() + 1), made.file.bytes, now};
    if (made.step.bytes > 0) row.base_digest = base.digest;
    row.encoded_digest = made.step.digest;
    row.encoded_bytes = made.step.bytes;
    row.residual_digest = made.residual.digest;
    return row;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::open(asio::any_io_executor strand, const EngineOptions& options,
                                             const Clock& clock, observe::Metrics& metrics,
                                             std::function<void(const Error&)> on_fatal) {
    FEDLLM_TRY(store::StateDirectory directory, store::StateDirectory::open(options.state_directory));
    FEDLLM_TRY(store::Ledger ledger, store::Ledger::open(options.state_directory));
    FEDLLM_TRY(store::Versions versions, store::Versions::open(options.state_directory));
    FEDLLM_TRY(ingest::Spool spool, ingest::Spool::open(options.state_directory));
    return std::unique_ptr<Engine>(new Engine(std::move(strand), options, clock, metrics, std::move(on_fatal),
                                              std::move(directory), std::move(ledger), std::move(versions),
                                              std::move(spool)));
}

Engine::Engine(asio::any_io_executor strand, const EngineOptions& options, const Clock& clock,
               observe::Metrics& metrics, std::function<void(const Error&)> on_fatal,
               store::StateDirectory directory, store::Ledger ledger, store::Versions versions,
               ingest::Spool spool)
    : strand_(strand),
      options_(options),
      clock_(clock),
      metrics_(metrics),
      on_fatal_(std::move(on_fatal)),
      directory_(std::move(directory)),
      ledger_(std::move(ledger)),
      versions_(std::move(versions)),
      spool_(std::move(spool)),
      pool_(threads_or_cores(options.threads)),
      tasks_(strand),
      timer_(strand) {}

Engine::~Engine() = default;

Result<void> Engine::start() {
    tasks_.spawn("ticks", tick(), [this] { timer_.cancel(); });
    return activate_next();
}

asio::awaitable<void> Engine::stop() {
    co_await tasks_.stop(std::chrono::seconds(5));
    pool_.join();
}

// -------------------------------------------------------------------------------------------------------------
// jobs

Result<void> Engine::activate_next() {
    active_.reset();
    FEDLLM_TRY(const auto rows, ledger_.jobs());
    for (const store::JobRow& row : rows) {
        if (row.status != store::JobStatus::Running) continue;
        if (auto active = activate(row); active || active.error().code == Errc::StoreFailed)
            return active;
        else {
            // A job that cannot be read again (its file was damaged) must not keep the others from running.
            log::error("a job cannot be taken up",
                       {{"job", row.id.get()}, {"reason", active.error().message}});
            FEDLLM_TRY_VOID(ledger_.finish_job(row.id, store::JobStatus::Failed, active.error().message));
        }
    }
    return {};
}

Result<void> Engine::activate(const store::JobRow& row) {
    auto active = std::make_unique<ActiveJob>();
    active->id = row.id;
    active->yaml = row.yaml;
    FEDLLM_TRY(active->spec, job::parse_job(row.yaml, "job " + row.id.get()));
    FEDLLM_TRY(const tensor::ParamSet params, versions_.read(row.model_digest));
    active->manifest = params.manifest();
    FEDLLM_TRY(const auto rounds, ledger_.rounds(row.id));
    const round::Rules rules = round::rules_of(row.id, active->spec);
    std::vector<store::PartRow> parts;
    if (!rounds.empty()) {
        FEDLLM_TRY(parts, ledger_.parts(row.id, rounds.back().round));
    }
    active->state = rounds.empty() ? round::start(rules, row.model_digest)
                                   : round::recover(rules, row, rounds, parts, clock_.now());
    // The spool keeps what the open round counts; uploads cut in the middle stay, to be resumed.
    std::set<Path> counted;
    for (const store::PartRow& part : parts) {
        if (part.status == store::PartStatus::Accepted) {
            counted.insert(spool_.update_path(part.task, part.update_digest));
        }
    }
    FEDLLM_TRY_VOID(spool_.prune(counted, ingest::Spool::Parts::Keep));
    active_ = std::move(active);
    log::info(rounds.empty() ? "job started" : "job resumed",
              {{"job", row.id.get()}, {"name", row.name}, {"round", row.round.get()}});
    raise(round::Tick{});
    for (const auto& [client, member] : registry_.members()) {
        raise(round::ClientJoined{client, member.base_models});
    }
    return {};
}

void Engine::raise(round::Event event) {
    if (!active_) return;
    const JobId id = active_->id;
    auto transition = round::step(std::move(active_->state), event, clock_.now());
    active_->state = std::move(transition.state);
    for (const round::Effect& effect : transition.effects) {
        apply(effect);
        if (!active_ || active_->id != id) return;
    }
    log_waiting();
    if (round::is_over(active_->state)) {
        hold(activate_next());
    }
}

void Engine::apply(const round::Effect& effect) {
    struct Apply {
        Engine& engine;
        void operator()(const round::OpenRound& e) { engine.open_round(e); }
        void operator()(const round::AskClient& e) { engine.ask(e); }
        void operator()(const round::RecordPart& e) { engine.record(e); }
        void operator()(const round::RecordEvaluation& e) { engine.record(e); }
        void operator()(const round::Release& e) {
            const auto link = engine.links_.find(e.client);
            if (link == engine.links_.end()) return;
            protocol::ServerMessage message;
            message.mutable_release()->set_task_id(
                store::task_id(engine.active_->id, e.round, e.client).get());
            message.mutable_release()->set_reason(e.reason);
            link->second->post(std::move(message));
        }
        void operator()(const round::CloseRound& e) {
            engine.tasks_.spawn("close round", engine.close_round(e));
        }
        void operator()(const round::FinishJob& e) { engine.finish(e); }
        void operator()(const round::FailJob& e) { engine.fail(e); }
        void operator()(const round::StopJob& e) {
            const JobId& id = engine.active_->id;
            if (!engine.hold(engine.ledger_.finish_job(id, store::JobStatus::Stopped, e.cause))) return;
            engine.metrics_.job_ended(id, "stopped");
            log::warn("job stopped", {{"job", id.get()}, {"cause", e.cause}});
        }
        void operator()(const round::PauseJob& e) {
            engine.hold(engine.ledger_.mark_job(engine.active_->id, store::JobStatus::Paused, e.cause));
        }
        void operator()(const round::ResumeJob&) {
            engine.hold(engine.ledger_.mark_job(engine.active_->id, store::JobStatus::Running, ""));
        }
        void operator()(const round::WakeAt& e) {
            engine.active_->wake = e.when;
            engine.timer_.cancel();
        }
    };
    std::visit(Apply{*this}, effect);
}

void Engine::open_round(const round::OpenRound& effect) {
    store::RoundRow row;
    row.job = active_->id;
    row.round = effect.round;
    row.model_digest = effect.model_digest;
    row.opened = clock_.now();
    active_->live.clear();
    if (!hold(ledger_.open_round(row, effect.clients))) return;
    metrics_.round_opened(active_->id, effect.round.get(), active_->spec.rounds, effect.clients.size());
    log::info(effect.kind == round::TaskKind::Train ? "round opened" : "final evaluation opened",
              {{"job", active_->id.get()},
               {"round", effect.round.get()},
               {"rounds", active_->spec.rounds},
               {"clients", effect.clients.size()}});
}

void Engine::record(const round::RecordPart& effect) {
    store::PartRow row;
    row.job = active_->id;
    row.round = effect.round;
    row.client = effect.client;
    row.task = store::task_id(row.job, row.round, row.client);
    row.status = effect.status;
    row.reason = effect.reason;
    row.detail = effect.detail;
    hold(ledger_.record_part(row));
}

void Engine::record(const round::RecordEvaluation& effect) {
    store::PartRow row;
    row.job = active_->id;
    row.round = effect.round;
    row.client = effect.client;
    row.task = store::task_id(row.job, row.round, row.client);
    row.status = store::PartStatus::Evaluated;
    row.eval_loss_sum = effect.loss_sum;
    row.eval_tokens = effect.tokens;
    row.bytes_down = active_->live[effect.client].bytes_down;
    hold(ledger_.record_evaluation(row));
}

asio::awaitable<Result<void>> Engine::close_round(round::CloseRound effect) {
    const double started = monotonic_seconds();
    const JobId id = active_->id;
    const job::JobSpec spec = active_->spec;
    const Timestamp opened = active_->state.opened;
    FEDLLM_CO_TRY_VOID(ledger_.close_round(id, effect.round));
    FEDLLM_CO_TRY(const auto parts, ledger_.parts(id, effect.round));
    FEDLLM_CO_TRY(const store::VersionRow base, ledger_.version(id, effect.round));
    std::vector<Contribution> contributions;
    for (const store::PartRow& part : parts) {
        if (part.status != store::PartStatus::Accepted) continue;
        // A client may always send plain values; anything else that was accepted is in the job's codec.
        const bool plain = part.codec == codec::name(codec::CodecId::None);
        contributions.push_back({part.task, part.update_digest, part.bytes, part.weight,
                                 plain ? codec::CodecId::None : spec.update.codec.id});
    }
    const auto build = [&]() -> Result<NewVersion> {
        FEDLLM_TRY(auto version, compute_version(spec, base, contributions, versions_, spool_));
        FEDLLM_TRY([[maybe_unused]] const Path folder,
                   write_adapter(spec, id, effect.round.get() + 1, version.file.digest, versions_,
                                 options_.state_directory));
        return version;
    };
    const auto version = co_await net::offload(pool_.get_executor(), build);
    if (!active_ || active_->id != id) co_return Result<void>{};
    if (!version) {
        raise(round::AggregationFailed{to_string(version.error())});
        co_return version.error();
    }
    const Timestamp now = clock_.now();
    const store::RoundResult result{now, eval_loss_of(parts), train_loss_of(parts)};
    const store::VersionRow next = row_of(*version, base, now);
    if (!hold(ledger_.commit_round(id, effect.round, result, next))) co_return Result<void>{};
    if (base.residual_digest != next.residual_digest) {  // nothing will start from it again
        versions_.remove(store::Attachment::Residual, base.residual_digest);
    }
    for (const store::PartRow& part : parts) {  // also what dropped clients had begun to send
        if (auto gone = spool_.remove(part.task); !gone)
            log::warn("spool", {{"reason", gone.error().message}});
    }
    metrics_.round_committed(id, seconds(now - opened), monotonic_seconds() - started, contributions.size());
    if (!std::isnan(result.eval_loss)) metrics_.evaluated(id, result.eval_loss);
    if (!std::isnan(result.train_loss)) metrics_.trained(id, result.train_loss);
    log::info("round committed", {{"job", id.get()},
                                  {"round", effect.round.get()},
                                  {"accepted", contributions.size()},
                                  {"eval_loss", result.eval_loss},
                                  {"train_loss", result.train_loss},
                                  {"version", next.digest.substr(0, 12)},
                                  {"step_bytes", next.encoded_bytes}});
    raise(round::RoundCommitted{effect.round, next.digest});
    co_return Result<void>{};
}

void Engine::finish(const round::FinishJob& effect) {
    const JobId id = active_->id;
    const auto parts = ledger_.parts(id, effect.round);
    if (!parts) {
        hold(parts.error());
        return;
    }
    const store::RoundResult result{clock_.now(), eval_loss_of(*parts), store::kNoLoss};
    if (!hold(ledger_.finish_job(id, store::JobStatus::Finished, "", result))) return;
    if (!std::isnan(result.eval_loss)) metrics_.evaluated(id, result.eval_loss);
    metrics_.job_ended(id, "finished");
    log::info("job finished", {{"job", id.get()},
                               {"eval_loss", result.eval_loss},
                               {"version", active_->state.model_digest.substr(0, 12)}});
}

void Engine::fail(const round::FailJob& effect) {
    if (!hold(ledger_.finish_job(active_->id, store::JobStatus::Failed, effect.cause))) return;
    metrics_.job_ended(active_->id, "failed");
    log::error("job failed", {{"job", active_->id.get()}, {"cause", effect.cause}});
}

asio::awaitable<Result<void>> Engine::tick() {
    while (!tasks_.stopping()) {
        const bool set = active_ && active_->wake;
        timer_.expires_after(set ? std::max(Duration(0), *active_->wake - clock_.now())
                                 : Duration(3'600'000));
        auto [ec] = co_await timer_.async_wait(net::kNoThrow);
        if (ec || !active_ || !active_->wake || clock_.now() < *active_->wake) continue;
        active_->wake.reset();
        raise(round::Tick{});
    }
    co_return Result<void>{};
}

void Engine::log_waiting() {
    if (!active_ || active_->state.phase == round::Phase::Finished) return;
    std::string wait = round::waiting_for(active_->state, clock_.now());
    if (wait == active_->last_wait) return;
    log::debug("waiting", {{"job", active_->id.get()}, {"for", wait}});
    active_->last_wait = std::move(wait);
}

bool Engine::hold(const Result<void>& done) {
    if (!done) on_fatal_(done.error());
    return done.has_value();
}

// ----------------------------------------------------------------------------------------------------------
// clients

registry::SessionId Engine::join(const ClientId& client, const protocol::Hello& hello, Link& link) {
    registry::Member member;
    member.client = client;
    member.session = registry_.next_session();
    member.software = hello.software();
    member.device = hello.device();
    member.base_models.assign(hello.base_models().begin(), hello.base_models().end());
    member.codecs.assign(hello.codecs().begin(), hello.codecs().end());
    member.since = clock_.now();
    const auto session = member.session;
    const auto base_models = member.base_models;
    if (registry_.join(std::move(member)))
        links_.at(client)->end("a newer connection of this client took over");
    links_[client] = &link;
    raise(round::ClientJoined{client, base_models});
    return session;
}

void Engine::leave(const ClientId& client, registry::SessionId session) {
    if (!registry_.leave(client, session)) return;
    links_.erase(client);
    raise(round::ClientLeft{client});
}

void Engine::on_progress(const ClientId& client, const protocol::Progress& progress) {
    const auto parsed = parse_task(client, progress.task_id());
    if (!parsed || !active_ || active_->id != parsed->job) return;  // about work that is over
    LivePart& live = active_->live[client];
    live.step = progress.step();
    live.steps = progress.steps();
    live.loss = progress.loss();
    metrics_.task_progress(active_->id, client,
                           live.steps > 0 ? static_cast<double>(live.step) / live.steps : 0.0);
}

void Engine::on_decline(const ClientId& client, const protocol::Decline& decline) {
    log::warn("client declined its task", {{"client", client.get()},
                                           {"task", decline.task_id()},
                                           {"reason", decline.reason()},
                                           {"detail", decline.detail()}});
    const auto parsed = parse_task(client, decline.task_id());
    if (!parsed || !active_ || active_->id != parsed->job) return;
    raise(round::ClientDeclined{client, parsed->round, decline.reason(), decline.detail()});
}

// "<job>/<round>/<client>": the client part must be the one of the certificate.
Result<Engine::ParsedTask> Engine::parse_task(const ClientId& client, const std::string& task) const {
    const auto first = task.find('/');
    const auto second = first == std::string::npos ? first : task.find('/', first + 1);
    if (second == std::string::npos) return make_error(Errc::Malformed, "'" + task + "' is no task");
    const auto number = config::parse_unsigned(task.substr(first + 1, second - first - 1));
    if (!number || *number > 0xFFFFFFFFu) return make_error(Errc::Malformed, "'" + task + "' is no task");
    if (task.substr(second + 1) != client.get()) {
        return make_error(Errc::PermissionDenied, "task '" + task + "' belongs to another client");
    }
    return ParsedTask{JobId(task.substr(0, first)), RoundId(static_cast<std::uint32_t>(*number))};
}

}  // namespace fedllm::server::engine
