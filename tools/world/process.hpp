// The two programs of the world as processes that can be killed at any event: the real engine and sessions,
// and the real agent, on a simulated network and disk.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/agent/agent.hpp"
#include "server/edge/client_session.hpp"
#include "server/engine/engine.hpp"
#include "tools/world/disk/simulated_disk.hpp"
#include "tools/world/host.hpp"
#include "tools/world/plan.hpp"
#include "tools/world/truth.hpp"

namespace fedllm::tools::world {

// What all processes share.
struct Surroundings {
    net::VirtualTime& time;
    const Clock& clock;
    Network& network;
    Truth& truth;
    Trace& trace;
    const Plan& plan;
};

// Lifecycle: start(), then events by run_one() until kill(); then start() again.
class Process {
public:
    Process(std::string name, Surroundings& world, Rng rng);
    virtual ~Process() = default;
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    bool start();
    bool up() const { return up_; }
    bool run_one();  // one event, on this process's disk
    // Whether it has to end now: its disk is gone, or it says that it cannot go on.
    virtual bool is_ending() const { return disk_.crashed(); }

    enum class Death { Killed, PowerLost };
    void kill(Death how, Network::Farewell farewell);

    const std::string& name() const { return name_; }
    SimulatedDisk& disk() { return disk_; }
    Host& host() { return host_; }

protected:
    virtual Result<void> begin() = 0;  // opens what it has on disk, and runs
    virtual void drop() = 0;           // all that it has in memory
    virtual void leave_network(Network::Farewell farewell) = 0;
    Surroundings& world() { return world_; }

private:
    std::string name_;
    Surroundings& world_;
    SimulatedDisk disk_;
    Host host_;
    bool up_ = false;
};

class ServerProcess final : public Process {
public:
    ServerProcess(Surroundings& world, Rng rng);
    ~ServerProcess() override;

    bool is_ending() const override { return Process::is_ending() || fatal_ || stopped_; }
    bool stopped() const { return stopped_; }
    server::engine::Engine* engine() { return engine_.get(); }

    // What its operator does; the outcome shows in the ledger.
    void submit(const JobPlan& job);
    void control(const std::string& job, protocol::JobAction action);
    void stop();  // SIGTERM: stopped() follows

private:
    Result<void> begin() override;
    void drop() override;
    void leave_network(Network::Farewell farewell) override;
    static net::awaitable<void> serve(ServerProcess& server, std::unique_ptr<net::Stream> stream,
                                      ClientId client);
    static net::awaitable<void> control_job(ServerProcess& server, std::string job,
                                            protocol::JobAction action);
    static net::awaitable<void> submit_job(ServerProcess& server, JobPlan job);
    static net::awaitable<void> shut_down(ServerProcess& server);

    std::unique_ptr<server::observe::Metrics> metrics_;
    std::unique_ptr<server::engine::Engine> engine_;
    std::map<std::uint64_t, server::edge::ClientSession*> sessions_;  // by age: an order that stays the same
    std::uint64_t last_session_ = 0;
    bool fatal_ = false;
    bool submitting_ = false;
    bool stopped_ = false;
};

// One site, or a crowd of them that live and die together.
class ClientProcess final : public Process {
public:
    ClientProcess(std::vector<std::string> sites, Surroundings& world, Rng rng);
    ~ClientProcess() override;

private:
    Result<void> begin() override;
    void drop() override;
    void leave_network(Network::Farewell farewell) override;

    Result<std::unique_ptr<client::agent::Agent>> open(const std::string& site);

    std::vector<std::string> sites_;
    Rng rng_;
    std::vector<std::unique_ptr<client::agent::Agent>> agents_;
};

}  // namespace fedllm::tools::world
