// The server's engine on a simulated disk, with truthful sites beside it, life after life until a job is
// done.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/codec/codec.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"
#include "common/formats/peft.hpp"
#include "common/net/timer.hpp"
#include "server/engine/engine.hpp"
#include "tools/world/disk/simulated_disk.hpp"
#include "tools/world/host.hpp"

namespace fedllm::tools::world::test {

namespace asio = boost::asio;
using server::engine::Engine;
using server::engine::Link;

inline const Path kState = "/srv/state";
inline const std::vector<std::string> kSites{"ash", "fir", "oak"};
constexpr std::uint32_t kRounds = 3;

// One connection of a site.
class Site final : public Link {
public:
    explicit Site(std::string name) : name_(std::move(name)) {}
    void post(protocol::ServerMessage message) override { inbox_.push_back(std::move(message)); }
    void end(const std::string&) override { ended_ = true; }

    const ClientId client() const { return ClientId(name_); }
    std::vector<protocol::ServerMessage> take() { return std::exchange(inbox_, {}); }
    bool ended() const { return ended_; }

private:
    std::string name_;
    std::vector<protocol::ServerMessage> inbox_;
    bool ended_ = false;
};

// What outlives the server: the sites' memory and the operator's.
struct Memory {
    std::map<std::string, std::string> promised;  // by task: the digest of an update said to be accepted
    bool job_accepted = false;
    enum class Stop { Never, AtAVersion, AfterACrash } stop = Stop::Never;  // the operator, the job
    int lives = 0;
    std::uint64_t stopped_at = 0;  // after which operation of the disk
    std::string final_digest;      // once the job is over
    std::vector<std::string> complaints;
};

// One process, from its start until it ends or the job does.
class ServerLife {
public:
    ServerLife(SimulatedDisk& disk, Memory& memory) : disk_(disk), memory_(memory) { time_.rule(io_); }

    // Until the job is over, the process says that it must end, or the disk is dead.
    Result<void> run() {
        ++memory_.lives;
        server::engine::EngineOptions options{.state_directory = kState, .compute = io_.get_executor()};
        if (memory_.stop != Memory::Stop::Never)
            options.compute = SlowExecutor(io_, slowness_);  // the wish comes before its work
        auto opened = Engine::open(io_.get_executor(), options, clock_, metrics_,
                                   [this](const Error& error) { fatal_ = error; });
        if (!opened) return opened.error();
        engine_ = std::move(*opened);
        auto result = engine_->start();
        if (result) result = serve();
        stop();
        return result;
    }

private:
    class WorldClock final : public Clock {
    public:
        explicit WorldClock(const net::VirtualTime& time) : time_(time) {}
        Timestamp now() const override {
            return Timestamp(std::chrono::duration_cast<Duration>(time_.now().time_since_epoch()) +
                             Duration(1'000'000));
        }

    private:
        const net::VirtualTime& time_;
    };

    bool dying() const { return fatal_ || disk_.crashed(); }
    void complain(const std::string& what) { memory_.complaints.push_back(what); }

    Result<void> serve() {
        for (int turns = 0; turns < 20'000; ++turns) {
            if (fatal_) return *fatal_;
            if (disk_.crashed()) return make_error(Errc::IoFailed, "the machine has lost power");
            FEDLLM_TRY(const auto jobs, engine_->ledger().jobs());
            if (jobs.empty() && memory_.job_accepted) complain("an accepted job is gone");
            if (jobs.empty() && !submitting_) spawn(submit());
            if (!jobs.empty() && jobs[0].status != server::store::JobStatus::Running) return finish(jobs[0]);
            if (!jobs.empty() && wants_it_stopped(jobs[0]) && !std::exchange(stopping_, true)) {
                memory_.stopped_at = disk_.operations();
                spawn(stop_job(jobs[0].id));
            }
            for (const std::string& name : kSites) meet(name);
            io_.restart();
            if (io_.poll() > 0) continue;
            if (time_.next()) time_.advance();
        }
        const auto list = engine_->list_jobs();
        return make_error(Errc::Timeout,
                          "no end: " + (list ? list->ShortDebugString() : list.error().message));
    }

    bool wants_it_stopped(const server::store::JobRow& job) const {
        if (memory_.stop == Memory::Stop::AtAVersion) return job.round.get() > 0;
        return memory_.stop == Memory::Stop::AfterACrash && memory_.lives > 1;
    }

    void stop() {
        bool stopped = false;
        for (auto& [name, joined] : sites_) engine_->leave(joined.site->client(), joined.session);
        asio::co_spawn(io_, engine_->stop(), [&](std::exception_ptr) { stopped = true; });
        for (int turns = 0; (!stopped || busy_ > 0) && turns < 20'000; ++turns) {
            io_.restart();
            if (io_.poll() == 0 && time_.next()) time_.advance();
        }
        EXPECT_TRUE(stopped && busy_ == 0) << "the process cannot end";
    }

    Result<void> finish(const server::store::JobRow& job) {
        memory_.final_digest =
            job.status == server::store::JobStatus::Finished ? job.model_digest : job.detail;
        return {};
    }

    void spawn(asio::awaitable<void> work) {
        ++busy_;
        asio::co_spawn(io_, std::move(work), [this](std::exception_ptr thrown) {
            --busy_;
            EXPECT_FALSE(thrown);
        });
    }

    // ------------------------------------------------------------------------------------------ the operator

    asio::awaitable<void> submit() {
        submitting_ = true;
        protocol::SubmitJob request;
        request.set_job(yaml());
        const auto bytes = initial_version();
        request.set_initial_digest(crypto::to_hex(crypto::sha256(bytes)));
        request.set_initial_bytes(bytes.size());
        auto upload = engine_->begin_submission("anna", request);
        if (upload) {
            const auto rest = std::span(bytes).subspan(upload->held());
            const Result<void> sent = upload->append(rest);
            if (sent) {
                const auto id = co_await engine_->submit(request, std::move(*upload));
                if (id) memory_.job_accepted = true;
            }
        }
        submitting_ = false;
    }

    asio::awaitable<void> stop_job(JobId id) {
        protocol::ControlJob request;
        request.set_job_id(id.get());
        request.set_action(protocol::JOB_ACTION_STOP);
        const auto stopped = co_await engine_->control("anna", request);
        if (!stopped && !dying()) complain("the job cannot be stopped: " + stopped.error().message);
    }

    static tensor::Manifest manifest() {
        const std::string module = "base_model.model.model.layers.0.self_attn.q_proj.";
        return *tensor::Manifest::create(
            {{module + "lora_A.weight", {2, 150}}, {module + "lora_B.weight", {150, 2}}});
    }
    static std::string yaml() {
        return "name: tiny\nbase_model: none\nseed: 3\nlora: {rank: 2, alpha: 4, target_modules: "
               "[q_proj]}\nrounds: " +
               std::to_string(kRounds) +
               "\nclients_per_round: 3\nclients_minimum: 3\nsamples_max: 1000\nupdate: {codec: none, "
               "clip_norm: 10}\n"
               "download: {codec: deadzone}\ntrain: {local_steps: 1}\n";
    }
    static std::vector<std::byte>
    initial_version() {  // written on a disk of its own: not this process's work
        SimulatedDisk elsewhere(1);
        const ScopedDisk scope(elsewhere);
        EXPECT_TRUE(formats::write_param_set("/initial", tensor::ParamSet(manifest())));
        const auto file = *MappedFile::open("/initial");
        return {file.bytes().begin(), file.bytes().end()};
    }

    // --------------------------------------------------------------------------------------------- the sites

    struct Joined {
        std::unique_ptr<Site> site;
        server::registry::SessionId session;
        bool working = false;
    };

    void meet(const std::string& name) {
        auto found = sites_.find(name);
        if (found != sites_.end() && found->second.site->ended() && !found->second.working) {
            engine_->leave(ClientId(name), found->second.session);
            gone_.push_back(
                std::move(found->second.site));  // the engine may still hold what it last posted to
            sites_.erase(found);
            found = sites_.end();
        }
        if (found == sites_.end()) {
            protocol::Hello hello;
            hello.add_base_models("none");
            found = sites_.emplace(name, Joined{std::make_unique<Site>(name), {}}).first;
            found->second.session = engine_->join(ClientId(name), hello, *found->second.site);
        }
        for (const auto& message : found->second.site->take()) {
            if (message.has_task()) spawn(work(found->second, message.task()));
            if (message.has_verdict()) hear(message.verdict());
        }
    }

    void hear(const protocol::Verdict& verdict) {
        if (verdict.outcome() == protocol::OUTCOME_REFUSED) {
            complain("refused: " + verdict.ShortDebugString());
        } else if (const auto offered = offered_.find(verdict.task_id()); offered != offered_.end()) {
            memory_.promised[verdict.task_id()] = offered->second;
        }
    }

    asio::awaitable<void> work(Joined& joined, protocol::Task task) {
        joined.working = true;
        const auto version = co_await engine_->version(task.model_digest());
        if (!version && version.error().code != Errc::IoFailed && !dying()) {
            complain("the task's version cannot be had: " + version.error().message);
        }
        if (!version) {
            joined.site->end("no version");
        } else if (task.kind() == protocol::TASK_KIND_EVALUATE) {
            co_await engine_->on_evaluation(joined.site->client(), offer(task, {}).evaluation(),
                                            *joined.site);
        } else {
            if (memory_.promised.contains(task.task_id()))
                complain(task.task_id() + " is asked for after its verdict");
            co_await upload(*joined.site, task);
        }
        joined.working = false;
    }

    asio::awaitable<void> upload(Site& site, protocol::Task task) {
        Rng rng(11, task.task_id());
        std::vector<float> values(manifest().elements());
        for (float& value : values) value = rng.uniform(-0.1f, 0.1f);
        const auto update = *codec::encode({}, codec::layout_of(manifest()), values, 0);
        const protocol::Offer claim = offer(task, update);
        offered_[task.task_id()] = claim.digest();
        auto intake = co_await engine_->on_offer(site.client(), claim, site);
        while (intake && !intake->complete()) {
            const auto rest = std::span(update).subspan(intake->held());
            const auto piece = rest.first(std::min<std::size_t>(rest.size(), 1'000));
            const Result<void> taken = co_await engine_->take(*intake, intake->held(), piece);
            if (!taken) {
                co_await engine_->refuse_upload(std::move(intake), taken.error(), site);
                co_return;
            }
        }
        if (intake) co_await engine_->finish_upload(std::move(intake), site);
    }

    static protocol::Offer offer(const protocol::Task& task, const std::vector<std::byte>& update) {
        protocol::Offer offer;
        offer.set_task_id(task.task_id());
        offer.set_digest(crypto::to_hex(crypto::sha256(update)));
        offer.set_bytes(update.size());
        offer.set_samples(10 + task.task_id().back() % 7);
        offer.set_tokens(100);
        offer.set_train_loss(2.0);
        offer.set_train_seconds(0.1);
        offer.mutable_evaluation()->set_task_id(task.task_id());
        offer.mutable_evaluation()->set_loss_sum(200.0);
        offer.mutable_evaluation()->set_tokens(100);
        return offer;
    }

    SimulatedDisk& disk_;
    Memory& memory_;
    net::VirtualTime time_;
    asio::io_context io_{1};
    WorldClock clock_{time_};
    server::observe::Metrics metrics_;
    std::optional<Error> fatal_;
    std::unique_ptr<Engine> engine_;
    std::map<std::string, Joined> sites_;
    std::vector<std::unique_ptr<Site>> gone_;
    std::map<std::string, std::string> offered_;
    Slowness slowness_{Rng(5, "pool"), std::chrono::microseconds(1000)};
    int busy_ = 0;
    bool submitting_ = false;
    bool stopping_ = false;
};

}  // namespace fedllm::tools::world::test
