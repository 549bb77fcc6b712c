#include "server/engine/engine.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

#include "common/log/log.hpp"
#include "common/net/offload.hpp"

namespace fedllm::server::engine {
namespace {

namespace asio = boost::asio;

unsigned threads_or_cores(unsigned threads) {
    return threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
}

// Uploads, and what is done to files in the background, wait for the disk: what many of them have it sync at
// a time is one sync for it, and a version that is being computed does not stand behind them.
unsigned disk_threads(unsigned threads) { return std::max(threads, std::min(8 * threads, 64u)); }

bool is_alive(const store::JobRow& row) {
    return row.status == store::JobStatus::Running || row.status == store::JobStatus::Paused;
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
      threads_(threads_or_cores(options.threads)),
      tasks_(strand),
      timer_(strand),
      changed_(strand),
      upload_memory_(std::make_shared<ingest::UploadMemory>(options.upload_memory)),
      self_(std::make_shared<Engine*>(this)) {
    if (!options.compute) pool_.emplace(threads_);
    if (!options.compute) disk_pool_.emplace(disk_threads(threads_));
    compute_ = options.compute ? *options.compute : pool_->get_executor();
    disk_threads_ = options.compute ? *options.compute : disk_pool_->get_executor();
    if (!disk_pool_) return;
    const auto elsewhere = [this](std::function<void()> work) { asio::post(disk_threads_, std::move(work)); };
    spool_.set_in_parts([helpers = Helpers(elsewhere, 2)](std::size_t count, const auto& each) {
        helpers.in_parts(count, each);
    });
}

Engine::~Engine() = default;

Result<void> Engine::start() {
    started_ = clock_.now();
    tasks_.spawn("ticks", tick(), [this] { timer_.cancel(); });
    FEDLLM_TRY(const auto before, ledger_.jobs());
    std::map<JobId, std::optional<RoundBase>> newest;
    for (const store::JobRow& row : before) {
        if (!is_alive(row)) continue;
        FEDLLM_TRY(newest[row.id], check_newest(row));
    }
    FEDLLM_TRY(const std::set<Path> counted, counted_updates());
    FEDLLM_TRY_VOID(spool_.prune(counted, ingest::Spool::Parts::Keep));
    FEDLLM_TRY(const std::set<Path> named, named_versions());
    FEDLLM_TRY_VOID(versions_.prune(named));
    FEDLLM_TRY(const auto rows, ledger_.jobs());
    for (const store::JobRow& row : rows) {
        if (is_alive(row)) FEDLLM_TRY_VOID(activate(row, std::move(newest[row.id])));
    }
    for (const store::JobRow& row : rows) tasks_.spawn("retention", expire(row.id, Sweep::Everything));
    return {};
}

asio::awaitable<void> Engine::stop() {
    co_await tasks_.stop(std::chrono::seconds(5));
    if (disk_pool_) disk_pool_->join();
    if (pool_) pool_->join();
}

// -------------------------------------------------------------------------------------------------------------
// jobs

// Takes a job up, or, where that cannot be (its file was damaged), ends it with the reason: it must not keep
// the others from running.
Result<void> Engine::activate(const store::JobRow& row, std::optional<RoundBase> newest) {
    auto active = load(row, std::move(newest));
    if (!active) {
        // A disk that cannot be read now says nothing about the job.
        const Errc code = active.error().code;
        if (code == Errc::StoreFailed || code == Errc::IoFailed) return active.error();
        log::error("a job cannot be taken up", {{"job", row.id.get()}, {"reason", active.error().message}});
        return ledger_.finish_job(row.id, store::JobStatus::Failed, active.error().message);
    }
    const auto room = check_room((*active)->spec, (*active)->shape->layout.elements);
    if (!room) return lay_aside(row, room.error());
    const JobId id = row.id;
    log::info((*active)->state.recovered ? "job resumed" : "job started",
              {{"job", id.get()}, {"name", row.name}, {"round", row.round.get()}});
    schedule_.add(id, (*active)->spec.priority, (*active)->spec.base_model);
    version_cache_[(*active)->base.row.digest] = (*active)->base.version;
    jobs_.push_back(std::move(*active));
    begin_sum(*jobs_.back());
    tasks_.spawn("adapter", deliver(id));
    raise(id, round::Tick{});  // and with it, who is there
    return {};
}

Result<std::unique_ptr<Engine::ActiveJob>> Engine::load(const store::JobRow& row,
                                                        std::optional<RoundBase> newest) const {
    auto active = std::make_unique<ActiveJob>();
    active->id = row.id;
    active->yaml = row.yaml;
    FEDLLM_TRY(active->spec, job::parse_job(row.yaml, "job " + row.id.get()));
    if (!newest) {
        FEDLLM_TRY(const store::VersionRow version, ledger_.version(row.id, row.round));
        FEDLLM_TRY(newest, map_base(version, versions_));
    }
    active->base = std::move(*newest);
    FEDLLM_TRY(tensor::Manifest manifest, versions_.manifest(active->base.row.digest));
    active->shape = std::make_shared<const JobShape>(std::move(manifest));
    FEDLLM_TRY_VOID(check_base(active->base, active->shape->manifest));
    FEDLLM_TRY(const auto rounds, ledger_.rounds(row.id));
    const round::Rules rules = round::rules_of(row.id, active->spec);
    if (rounds.empty()) {
        active->state = round::start(rules, row.model_digest);
        if (row.status == store::JobStatus::Paused)
            active->state.paused = round::Pause{clock_.now(), row.detail};
        return active;
    }
    std::vector<store::PartRow> parts;
    for (std::uint32_t r = round::first_needed(rules, row.round).get(); r <= row.round.get(); ++r) {
        FEDLLM_TRY(const auto of_round, ledger_.parts(row.id, RoundId(r)));
        parts.insert(parts.end(), of_round.begin(), of_round.end());
    }
    active->state = round::recover(rules, row, rounds, parts, clock_.now());
    return active;
}

Engine::ActiveJob* Engine::find(const JobId& id) const {
    for (const auto& job : jobs_) {
        if (job->id == id) return job.get();
    }
    return nullptr;
}

// -------------------------------------------------------------------------------------------------------------
// events and effects

// Whoever waits for a client hears of it before anything else happens to it.
void Engine::raise(const JobId& job, round::Event event) {
    events_.emplace_back(job, std::move(event));
    if (!handling_) handle_all();
}

void Engine::handle_all() {
    handling_ = true;
    while (true) {
        if (const auto tidings = schedule_.next()) {
            if (tidings->free) {
                handle(tidings->job, round::ClientFree{tidings->client});
            } else {
                handle(tidings->job, round::ClientBusy{tidings->client});
            }
        } else if (!events_.empty()) {
            const auto [id, next] = std::move(events_.front());
            events_.pop_front();
            handle(id, next);
        } else {
            break;
        }
    }
    handling_ = false;
}

// With its answer a client may be due to another job, which it is to be free for before its own asks it anew.
void Engine::hand_over(const JobId& id, const round::Event& event) {
    if (!round::is_answer(event)) return;
    const ClientId client = *round::client_of(event);
    const JobId* const holder = schedule_.holder(client);
    if (holder == nullptr || *holder != id || schedule_.sees(id, client, true)) return;
    schedule_.told({id, client, false});
    handle(id, round::ClientBusy{client});
}

void Engine::handle(const JobId& id, const round::Event& event) {
    hand_over(id, event);
    ActiveJob* const job = find(id);
    if (job == nullptr || failed_) return;
    auto transition = round::step(std::move(job->state), event, clock_.now());
    job->state = std::move(transition.state);
    for (const round::Effect& effect : transition.effects) {
        if (!failed_) apply(*job, effect);
    }
    if (const auto client = round::client_of(event)) free_client(*job, *client);
    schedule_.update(id, round::gathers(job->state), job->last_opened);
    log_waiting(*job);
    changed_.cancel();
    if (!round::is_over(job->state)) return;
    schedule_.remove(id);
    std::erase_if(jobs_, [&](const auto& entry) { return entry.get() == job; });
}

void Engine::apply(ActiveJob& job, const round::Effect& effect) {
    struct Apply {
        Engine& engine;
        ActiveJob& job;
        void operator()(const round::OpenRound& e) { engine.open_round(job, e); }
        void operator()(const round::AskClient& e) {
            engine.schedule_.take(job.id, e.client);
            engine.ask(job, e);
        }
        void operator()(const round::RecordPart& e) { engine.record(job, e); }
        void operator()(const round::RecordEvaluation& e) { engine.record(job, e); }
        void operator()(const round::Release& e) {
            engine.release(job, e);
            engine.free_client(job, e.client);
        }
        void operator()(const round::CloseRound& e) { engine.begin_closing(job, e); }
        void operator()(const round::FinishJob& e) { engine.finish(job, e); }
        void operator()(const round::FailJob& e) { engine.fail(job, e); }
        void operator()(const round::StopJob& e) {
            if (!engine.hold(engine.ledger_.finish_job(job.id, store::JobStatus::Stopped, e.cause))) return;
            engine.metrics_.job_ended(job.id, "stopped");
            log::warn("job stopped", {{"job", job.id.get()}, {"cause", e.cause}});
        }
        void operator()(const round::PauseJob& e) {
            engine.hold(engine.ledger_.mark_job(job.id, store::JobStatus::Paused, e.cause));
        }
        void operator()(const round::ResumeJob&) {
            engine.hold(engine.ledger_.mark_job(job.id, store::JobStatus::Running, ""));
        }
        void operator()(const round::WakeAt& e) {
            job.wake = e.when;
            engine.timer_.cancel();
        }
    };
    std::visit(Apply{*this, job}, effect);
}

// Once the job wants nothing more of its client, the others may have it.
void Engine::free_client(const ActiveJob& job, const ClientId& client) {
    if (!round::is_asked(job.state, client)) schedule_.release(job.id, client);
}

void Engine::open_round(ActiveJob& job, const round::OpenRound& effect) {
    store::RoundRow row;
    row.job = job.id;
    row.round = effect.round;
    row.model_digest = effect.model_digest;
    row.opened = clock_.now();
    job.last_opened = row.opened;
    job.live.clear();
    begin_sum(job);
    if (!hold(ledger_.open_round(row, effect.clients))) return;
    metrics_.round_opened(job.id, effect.round.get(), job.spec.rounds, effect.clients.size());
    log::info(effect.kind == round::TaskKind::Train ? "round opened" : "final evaluation opened",
              {{"job", job.id.get()},
               {"round", effect.round.get()},
               {"rounds", job.spec.rounds},
               {"clients", effect.clients.size()}});
}

void Engine::release(const ActiveJob& job, const round::Release& effect) {
    const auto link = links_.find(effect.client);
    if (link == links_.end()) return;
    protocol::ServerMessage message;
    message.mutable_release()->set_task_id(store::task_id(job.id, effect.round, effect.client).get());
    message.mutable_release()->set_reason(effect.reason);
    say(*link->second, std::move(message));
}

void Engine::say(Link& link, protocol::ServerMessage message) {
    once_committed([&link, message = std::move(message)] { link.post(message); });
}

void Engine::once_committed(std::function<void()> tell) {
    if (untold_) {
        untold_->push_back(std::move(tell));
    } else {
        tell();
    }
}

void Engine::record(const ActiveJob& job, const round::RecordPart& effect) {
    store::PartRow row;
    row.job = job.id;
    row.round = effect.round;
    row.client = effect.client;
    row.task = store::task_id(row.job, row.round, row.client);
    row.status = effect.status;
    row.reason = effect.reason;
    row.detail = effect.detail;
    hold(ledger_.record_part(row));
}

void Engine::record(ActiveJob& job, const round::RecordEvaluation& effect) {
    store::PartRow row;
    row.job = job.id;
    row.round = effect.round;
    row.client = effect.client;
    row.task = store::task_id(row.job, row.round, row.client);
    row.status = store::PartStatus::Evaluated;
    row.eval_loss_sum = effect.loss_sum;
    row.eval_tokens = effect.tokens;
    row.bytes_down = job.live[effect.client].bytes_down;
    hold(ledger_.record_evaluation(row));
}

void Engine::finish(const ActiveJob& job, const round::FinishJob& effect) {
    const JobId& id = job.id;
    const auto parts = ledger_.parts(id, effect.round);
    if (!parts) {
        hold(parts.error());
        return;
    }
    const store::RoundResult result{clock_.now(), eval_loss_of(*parts), store::kNoLoss};
    const std::string cause = "all " + std::to_string(job.spec.rounds) + " rounds are done";
    if (!hold(ledger_.finish_job(id, store::JobStatus::Finished, cause, result))) return;
    if (!std::isnan(result.eval_loss)) metrics_.evaluated(id, result.eval_loss);
    metrics_.job_ended(id, "finished");
    log::info("job finished", {{"job", id.get()},
                               {"eval_loss", result.eval_loss},
                               {"version", job.state.model_digest.substr(0, 12)}});
}

void Engine::fail(const ActiveJob& job, const round::FailJob& effect) {
    if (!hold(ledger_.finish_job(job.id, store::JobStatus::Failed, effect.cause))) return;
    metrics_.job_ended(job.id, "failed");
    log::error("job failed", {{"job", job.id.get()}, {"cause", effect.cause}});
}

std::optional<Timestamp> Engine::next_wake() const {
    std::optional<Timestamp> next;
    for (const auto& job : jobs_) {
        if (job->wake && (!next || *job->wake < *next)) next = job->wake;
    }
    return next;
}

asio::awaitable<Result<void>> Engine::tick() {
    while (!tasks_.stopping()) {
        const auto next = next_wake();
        timer_.expires_after(next ? std::max(Duration(0), *next - clock_.now()) : Duration(3'600'000));
        [[maybe_unused]] auto [woken] = co_await timer_.async_wait(net::kNoThrow);
        std::vector<JobId> due;
        for (const auto& job : jobs_) {
            if (!job->wake || clock_.now() < *job->wake) continue;
            job->wake.reset();
            due.push_back(job->id);
        }
        for (const JobId& id : due) raise(id, round::Tick{});
    }
    co_return Result<void>{};
}

bool Engine::hold(const Result<void>& done) {
    if (done) return true;
    failed_ = true;
    changed_.cancel();
    on_fatal_(done.error());
    return false;
}

}  // namespace fedllm::server::engine
