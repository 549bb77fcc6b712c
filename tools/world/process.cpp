#include "tools/world/process.hpp"

#include <algorithm>

#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"
#include "common/protocol/messages.hpp"
#include "tools/world/worker.hpp"

namespace fedllm::tools::world {

using net::awaitable;

namespace {

constexpr const char* kState = "/state";

// The bytes of a job's first version, as its operator has them.
std::string initial_file(std::uint64_t seed) {
    SimulatedDisk desk(0);
    const ScopedDisk scope(desk);
    const auto written = formats::write_param_set("/initial.safetensors", initial_version(seed));
    FEDLLM_CHECK(written.has_value());
    return read_file("/initial.safetensors").value();
}

void rethrow(std::exception_ptr thrown) {
    if (thrown) std::rethrow_exception(thrown);  // ends the world: nothing in it may throw
}

}  // namespace

Process::Process(std::string name, Surroundings& world, Rng rng)
    : name_(std::move(name)),
      world_(world),
      disk_(rng.next_u64()),
      host_(world.time, Rng(rng.next_u64(), name_)) {}

bool Process::start() {
    disk_.reboot();
    const ScopedDisk scope(disk_);
    const auto begun = begin();
    world_.trace.say(name_, begun ? "starts" : "cannot start: " + to_string(begun.error()));
    up_ = begun.has_value();
    if (!up_) kill(Death::Killed, Network::Farewell::Close);
    return up_;
}

bool Process::run_one() {
    const ScopedDisk scope(disk_);
    return host_.run_one();
}

// First its disk and its connections are gone; then its memory goes without any of it being able to act.
void Process::kill(Death how, Network::Farewell farewell) {
    up_ = false;
    if (!disk_.crashed())
        disk_.crash(how == Death::Killed ? SimulatedDisk::Unsynced::Kept : SimulatedDisk::Unsynced::Drawn);
    leave_network(farewell);
    const ScopedDisk scope(disk_);
    host_.crash([this] { drop(); });
}

// ------------------------------------------------------------------------------------------------- the
// server

ServerProcess::ServerProcess(Surroundings& world, Rng rng) : Process("server", world, rng) {
    host().set_slowness(world.plan.server_slowness);
}

ServerProcess::~ServerProcess() { kill(Death::Killed, Network::Farewell::Nothing); }

Result<void> ServerProcess::begin() {
    fatal_ = submitting_ = stopped_ = false;
    FEDLLM_TRY_VOID(make_directories(kState));
    metrics_ = std::make_unique<server::observe::Metrics>();
    const server::engine::EngineOptions options{.state_directory = kState,
                                                .upload_bytes_max = std::uint64_t{1} << 30,
                                                .upload_memory = world().plan.upload_memory,
                                                .threads = 1,
                                                .retention = {.versions = world().plan.versions_kept},
                                                .compute = host().slow_executor()};
    const auto on_fatal = [this](const Error& error) {
        if (!fatal_) world().trace.say(name(), "cannot go on: " + to_string(error));
        fatal_ = true;
    };
    FEDLLM_TRY(engine_,
               server::engine::Engine::open(host().executor(), options, world().clock, *metrics_, on_fatal));
    FEDLLM_TRY_VOID(engine_->start());
    world().network.listen(host().executor(), [this](std::unique_ptr<net::Stream> stream, ClientId client) {
        asio::co_spawn(host().context(), serve(*this, std::move(stream), std::move(client)), rethrow);
    });
    return {};
}

void ServerProcess::drop() {
    sessions_.clear();
    engine_.reset();
    metrics_.reset();
}

void ServerProcess::leave_network(Network::Farewell farewell) {
    world().network.vanish(Side::Server, std::nullopt, farewell);
}

awaitable<void> ServerProcess::serve(ServerProcess& server, std::unique_ptr<net::Stream> stream,
                                     ClientId client) {
    const net::PeerIdentity peer{.name = std::move(client), .role = net::Role::Client, .fingerprint = ""};
    server::edge::ClientSession session(std::move(stream), peer, server.world().plan.limits, *server.engine_);
    const std::uint64_t number = ++server.last_session_;
    server.sessions_[number] = &session;
    const Result<void> ended = co_await session.run();
    server.sessions_.erase(number);
    server.world().trace.say(peer.name.get(),
                             ended ? "session over" : "session over: " + to_string(ended.error()));
}

void ServerProcess::submit(const JobPlan& job) {
    if (std::exchange(submitting_, true)) return;
    asio::co_spawn(host().context(), submit_job(*this, job), [this](std::exception_ptr thrown) {
        submitting_ = false;
        rethrow(thrown);
    });
}

awaitable<void> ServerProcess::submit_job(ServerProcess& server, JobPlan job) {
    const std::string text = initial_file(job.seed);
    const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    protocol::SubmitJob request;
    request.set_job(job.yaml());
    request.set_initial_digest(crypto::to_hex(crypto::sha256(bytes)));
    request.set_initial_bytes(bytes.size());
    auto upload = server.engine_->begin_submission("operator", request);
    Result<void> taken =
        upload ? upload->append(bytes.subspan(upload->held())) : Result<void>(upload.error());
    if (taken) {
        const Result<JobId> id = co_await server.engine_->submit(std::move(request), std::move(*upload));
        taken = id ? Result<void>{} : Result<void>(id.error());
    }
    server.world().trace.say("operator",
                             "submits " + job.name + (taken ? "" : ": " + to_string(taken.error())));
}

void ServerProcess::control(const std::string& job, protocol::JobAction action) {
    asio::co_spawn(host().context(), control_job(*this, job, action), rethrow);
}

awaitable<void> ServerProcess::control_job(ServerProcess& server, std::string job,
                                           protocol::JobAction action) {
    const auto rows = server.engine_->ledger().jobs();
    if (!rows) co_return;
    const auto row = std::ranges::find(*rows, job, &server::store::JobRow::name);
    if (row == rows->end()) co_return;
    Truth& truth = server.world().truth;
    protocol::ControlJob request;
    request.set_job_id(row->id.get());
    request.set_action(action);
    truth.asked_for(row->id, action);
    const auto done = co_await server.engine_->control("operator", request);
    server.world().trace.say("operator",
                             protocol::JobAction_Name(action) + " " + job +
                                 (done ? ": it is " + done->state() : ": " + to_string(done.error())));
    if (done && !server.is_ending()) truth.controlled(row->id, done->state());
    if (!done || done->state() == server::store::name(row->status)) co_return;
    server.world().trace.count(action == protocol::JOB_ACTION_PAUSE    ? Trouble::Paused
                               : action == protocol::JOB_ACTION_RESUME ? Trouble::Resumed
                                                                       : Trouble::Stopped);
}

void ServerProcess::stop() { asio::co_spawn(host().context(), shut_down(*this), rethrow); }

// As app::Server does it.
awaitable<void> ServerProcess::shut_down(ServerProcess& server) {
    server.world().network.stop_listening();
    const auto sessions = server.sessions_;  // one that is asked may end at once
    for (const auto& [number, session] : sessions) session->end("the server is shutting down");
    for (int turn = 0; turn < 20 && !server.sessions_.empty(); ++turn) {
        const auto slept = co_await net::sleep_for(100ms);
        if (!slept) co_return;
    }
    co_await server.engine_->stop();
    server.stopped_ = true;
}

// ------------------------------------------------------------------------------------------------- a client

ClientProcess::ClientProcess(std::vector<std::string> sites, Surroundings& world, Rng rng)
    : Process(sites.front(), world, rng), sites_(std::move(sites)), rng_(rng.next_u64(), "jitter") {
    host().set_slowness(world.plan.training);
}

ClientProcess::~ClientProcess() { kill(Death::Killed, Network::Farewell::Nothing); }

Result<void> ClientProcess::begin() {
    for (const std::string& site : sites_) {
        FEDLLM_TRY(auto agent, open(site));
        agents_.push_back(std::move(agent));
        asio::co_spawn(host().context(), agents_.back()->run(),
                       [](std::exception_ptr thrown, const Result<void>&) { rethrow(thrown); });
    }
    return {};
}

Result<std::unique_ptr<client::agent::Agent>> ClientProcess::open(const std::string& site) {
    client::agent::ClientConfig config;
    config.server.host = "world";
    config.models["tiny"] = "/models/tiny";
    config.state_directory = Path(kState) / site;
    config.admin.address = "";
    client::agent::AgentOptions options;
    options.limits = world().plan.limits;
    options.worker_executor = host().slow_executor();
    options.jitter_seed = rng_.next_u64();
    FEDLLM_TRY_VOID(make_directories(config.state_directory));
    const auto connect = [this, site] { return world().network.connect(ClientId(site)); };
    const auto make_worker =
        [this](const client::agent::ClientConfig&, client::agent::VersionStore versions,
               client::update::UpdateStore updates) -> Result<std::unique_ptr<client::agent::Worker>> {
        return std::unique_ptr<client::agent::Worker>(
            new SimulatedWorker(world().truth, std::move(versions), std::move(updates)));
    };
    return client::agent::Agent::open(host().executor(), config, connect, options, make_worker);
}

void ClientProcess::drop() { agents_.clear(); }

void ClientProcess::leave_network(Network::Farewell farewell) {
    for (const std::string& site : sites_) world().network.vanish(Side::Client, ClientId(site), farewell);
}

}  // namespace fedllm::tools::world
