#include "tools/world/world.hpp"

#include <algorithm>
#include <cmath>

namespace fedllm::tools::world {

using net::awaitable;

namespace {

void rethrow(std::exception_ptr thrown) {
    if (thrown) std::rethrow_exception(thrown);
}

std::string site(std::uint32_t number) { return "site-" + std::to_string(number); }

}  // namespace

World::World(Plan plan, Trace::Sink sink)
    : plan_(std::move(plan)),
      rng_(plan_.seed, "world"),
      clock_(time_),
      trace_(time_, std::move(sink)),
      network_(time_, trace_, truth_, Rng(plan_.seed, "world/network")),
      surroundings_{time_, clock_, network_, truth_, trace_, plan_},
      fate_(time_, Rng(plan_.seed, "world/fate")),
      fair_from_(TimePoint{} + plan_.mishaps_until) {
    network_.set_weather(plan_.weather);
    server_ = std::make_unique<ServerProcess>(surroundings_, Rng(plan_.seed, "world/server"));
    std::vector<std::string> sites;
    for (std::uint32_t number = 0; number < plan_.clients; ++number) {
        sites.push_back(site(number));
        if (plan_.one_host && number + 1 < plan_.clients) continue;
        Rng own(plan_.seed, "world/" + sites.front());
        clients_.push_back(std::make_unique<ClientProcess>(std::exchange(sites, {}), surroundings_, own));
    }
}

World::~World() = default;

Outcome World::run() {
    server_->start();
    for (const auto& client : clients_) client->start();
    set_disk_rates(true);
    asio::co_spawn(fate_.context(), operate(), rethrow);
    start_mishap(plan_.mishaps.partition, &World::partition);
    start_mishap(plan_.mishaps.server_kill, &World::kill_server);
    start_mishap(plan_.mishaps.server_stop, &World::stop_server);
    start_mishap(plan_.mishaps.client_kill, &World::kill_client);
    start_mishap(plan_.mishaps.server_power_loss, &World::cut_server_power);
    start_mishap(plan_.mishaps.client_power_loss, &World::cut_client_power);
    start_mishap(plan_.mishaps.weather_change, &World::change_weather);
    start_mishap(plan_.mishaps.operator_acts, &World::operator_acts);
    const TimePoint end = fair_from_ + plan_.patience;
    while (!done_ && !truth_.violation()) {
        if (!fair_ && !mishaps_last()) make_fair();
        if (!step()) truth_.violated("nothing happens any more, and not all jobs are finished");
        if (time_.now() > end) truth_.violated("the jobs do not end although nothing befalls them any more");
    }
    if (!truth_.violation()) check(Truth::Thoroughness::Everything);
    collect_disk_troubles();
    trace_.count(Trouble::Stale, truth_.stale());
    return {.violation = truth_.violation(),
            .events = events_,
            .virtual_seconds = std::chrono::duration<double>(time_.now().time_since_epoch()).count(),
            .hash = trace_.hash(),
            .troubles = trace_.counts(),
            .acknowledged = truth_.acknowledged(),
            .rounds = truth_.rounds_checked(),
            .update_bytes = truth_.bytes_made(),
            .uploaded_bytes = truth_.bytes_uploaded()};
}

// Of those that have something to do, anyone; when none has, time goes on.
bool World::step() {
    const std::size_t count = clients_.size() + 2;
    const std::size_t first = rng_.below(count);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t number = (first + i) % count;
        if (number == 0) {
            if (!fate_.run_one()) continue;
            ++events_;
            return true;
        }
        Process& process = number == 1 ? static_cast<Process&>(*server_) : *clients_[number - 2];
        if (!process.up() || !process.run_one()) continue;
        ++events_;
        after_event(process);
        return true;
    }
    if (!time_.next()) return false;
    time_.advance();
    return true;
}

void World::after_event(Process& process) {
    if (&process == server_.get() && server_->engine() != nullptr) {
        const std::size_t waiting = truth_.check_memory(*server_->engine());
        if (waiting > uploads_waiting_) trace_.count(Trouble::UploadWaits);
        uploads_waiting_ = waiting;
    }
    if (process.is_ending()) {
        bury(process, process.disk().crashed() ? Process::Death::PowerLost : Process::Death::Killed);
    } else if (mishaps_last() && plan_.mishaps.kill_per_event > 0 &&
               rng_.uniform() < plan_.mishaps.kill_per_event) {
        bury(process, rng_.below(2) == 0 ? Process::Death::Killed : Process::Death::PowerLost);
    } else if (truth_.curious()) {
        check(Truth::Thoroughness::News);
    }
}

void World::check(Truth::Thoroughness how) {
    if (!server_->up() || server_->is_ending() || server_->engine() == nullptr) return;
    server_->disk().set_rates({});  // our own looking must not fail, and not change the dice
    {
        const ScopedDisk scope(server_->disk());
        truth_.check(*server_->engine(), how);
    }
    set_disk_rates(mishaps_last());
}

// ------------------------------------------------------------------------------------------- deaths and
// births

void World::bury(Process& process, Process::Death how) {
    const bool lost = how == Process::Death::PowerLost;
    const bool server = &process == server_.get();
    const bool stopped = server && !lost && server_->stopped();
    trace_.count(stopped  ? Trouble::ServerStop
                 : server ? (lost ? Trouble::ServerPowerLoss : Trouble::ServerKill)
                          : (lost ? Trouble::ClientPowerLoss : Trouble::ClientKill));
    trace_.say(process.name(), stopped ? "has stopped" : lost ? "loses its power" : "is killed");
    const auto farewell = lost                 ? Network::Farewell::Nothing
                          : rng_.below(2) == 0 ? Network::Farewell::Close
                                               : Network::Farewell::Reset;
    process.kill(how, farewell);
    asio::co_spawn(fate_.context(), revive(process), rethrow);
}

awaitable<void> World::revive(Process& process) {
    do {
        const Duration down(static_cast<std::int64_t>(1 + rng_.below(10'000)));
        const auto slept = co_await net::sleep_for(down);
        if (!slept) co_return;
    } while (!process.start());
    if (&process == server_.get()) check(Truth::Thoroughness::Everything);
}

awaitable<void> World::operate() {
    for (;;) {
        const auto slept = co_await net::sleep_for(1s);
        if (!slept) co_return;
        done_ = all_done();
    }
}

// Submits what the ledger does not have yet, and in the end resumes what is paused, on the way.
bool World::all_done() {
    if (!server_->up() || server_->is_ending()) return false;
    const ScopedDisk scope(server_->disk());
    server_->disk().set_rates({});
    const auto rows = server_->engine()->ledger().jobs();
    set_disk_rates(mishaps_last());
    if (!rows) return false;
    bool done = true;
    for (const JobPlan& job : plan_.jobs) {
        const auto found = std::find_if(rows->begin(), rows->end(), [&](const server::store::JobRow& row) {
            return row.name == job.name;
        });
        if (found == rows->end()) {
            done = false;
            if (time_.now() >= TimePoint{} + job.submitted) server_->submit(job);
        } else if (found->status == server::store::JobStatus::Failed) {
            truth_.violated(job.name + " failed: " + found->detail);
        } else {
            const bool stopped = found->status == server::store::JobStatus::Stopped;
            done = done && (stopped || found->status == server::store::JobStatus::Finished);
            const bool paused = found->status == server::store::JobStatus::Paused;
            if (paused && !mishaps_last()) server_->control(job.name, protocol::JOB_ACTION_RESUME);
        }
    }
    return done;
}

// --------------------------------------------------------------------------------------------------- mishaps

void World::start_mishap(Duration mean, void (World::*mishap)()) {
    if (mean > Duration(0)) asio::co_spawn(fate_.context(), befall(mean, mishap), rethrow);
}

awaitable<void> World::befall(Duration mean, void (World::*mishap)()) {
    for (;;) {
        const double factor = -std::log(1.0 - static_cast<double>(rng_.uniform()));
        const Duration wait(1 + static_cast<std::int64_t>(factor * static_cast<double>(mean.count())));
        const auto slept = co_await net::sleep_for(wait);
        if (!slept || !mishaps_last()) co_return;
        (this->*mishap)();
    }
}

Process& World::any_client() { return *clients_[rng_.below(clients_.size())]; }

void World::partition() {
    const Duration length(static_cast<std::int64_t>(100 + rng_.below(120'000)));
    network_.partition(ClientId(any_client().name()), time_.now() + length);
}

void World::kill_server() {
    if (server_->up()) bury(*server_, Process::Death::Killed);
}

void World::stop_server() {
    if (server_->up() && !server_->is_ending()) server_->stop();
}

void World::kill_client() {
    Process& client = any_client();
    if (client.up()) bury(client, Process::Death::Killed);
}

void World::cut_server_power() {
    if (server_->up()) bury(*server_, Process::Death::PowerLost);
}

void World::cut_client_power() {
    Process& client = any_client();
    if (client.up()) bury(client, Process::Death::PowerLost);
}

void World::change_weather() {
    Weather weather = draw_plan(rng_.next_u64()).weather;
    weather.window_bytes = plan_.weather.window_bytes;
    network_.set_weather(weather);
}

void World::operator_acts() {
    if (!server_->up() || server_->is_ending()) return;
    const JobPlan& job = plan_.jobs[rng_.below(plan_.jobs.size())];
    const std::uint64_t drawn = rng_.below(20);
    server_->control(job.name, drawn == 0   ? protocol::JOB_ACTION_STOP
                               : drawn < 10 ? protocol::JOB_ACTION_PAUSE
                                            : protocol::JOB_ACTION_RESUME);
}

void World::make_fair() {
    fair_ = true;
    trace_.say("world", "fair weather from now on");
    network_.set_weather({});
    set_disk_rates(false);
}

void World::set_disk_rates(bool mishaps) {
    const Mishaps& rates = plan_.mishaps;
    server_->disk().set_rates(mishaps ? SimulatedDisk::Rates{rates.server_disk_error, rates.server_disk_full,
                                                             rates.server_disk_crash}
                                      : SimulatedDisk::Rates{});
    for (const auto& client : clients_) {
        client->disk().set_rates(mishaps
                                     ? SimulatedDisk::Rates{rates.client_disk_error, rates.client_disk_full,
                                                            rates.client_disk_crash}
                                     : SimulatedDisk::Rates{});
    }
}

void World::collect_disk_troubles() {
    const auto add = [this](const SimulatedDisk& disk) {
        trace_.count(Trouble::DiskTorn, disk.seen().files_torn);
        trace_.count(Trouble::DiskLost, disk.seen().files_lost + disk.seen().names_lost);
        trace_.count(Trouble::DiskError, disk.seen().io_errors);
        trace_.count(Trouble::DiskFull, disk.seen().full);
    };
    add(server_->disk());
    for (const auto& client : clients_) add(client->disk());
}

}  // namespace fedllm::tools::world
