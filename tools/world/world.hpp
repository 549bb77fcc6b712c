// A whole federation in one thread and in virtual time, from one seed: the same seed gives the same world,
// event by event.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/world/process.hpp"

namespace fedllm::tools::world {

struct Outcome {
    std::optional<std::string> violation;  // what must never be; none: all is well
    std::uint64_t events = 0;
    double virtual_seconds = 0;
    std::uint64_t hash = 0;  // of everything that happened
    std::array<std::uint64_t, kTroubles> troubles{};
    std::uint64_t acknowledged = 0;
    std::uint64_t rounds = 0;
    std::uint64_t update_bytes = 0;    // offered
    std::uint64_t uploaded_bytes = 0;  // sent, some of them again
};

class VirtualClock final : public Clock {
public:
    explicit VirtualClock(const net::VirtualTime& time) : time_(time) {}
    Timestamp now() const override {
        return Timestamp(std::chrono::seconds(1'700'000'000)) +
               std::chrono::duration_cast<Duration>(time_.now().time_since_epoch());
    }

private:
    const net::VirtualTime& time_;
};

// Lifecycle: run() once. Concurrency: one thread; several worlds may run in several.
class World {
public:
    explicit World(Plan plan, Trace::Sink sink = {});
    ~World();

    Outcome run();

private:
    bool step();  // one event; false: nothing will ever happen again
    void after_event(Process& process);
    void bury(Process& process, Process::Death how);
    void check(Truth::Thoroughness how);
    bool all_done();
    void make_fair();
    void set_disk_rates(bool mishaps);
    void collect_disk_troubles();
    bool mishaps_last() const { return time_.now() < fair_from_; }
    Process& any_client();

    net::awaitable<void> revive(Process& process);
    net::awaitable<void> befall(Duration mean, void (World::*mishap)());
    net::awaitable<void> operate();
    void start_mishap(Duration mean, void (World::*mishap)());
    void partition();
    void kill_server();
    void stop_server();
    void kill_client();
    void cut_server_power();
    void cut_client_power();
    void change_weather();
    void operator_acts();

    Plan plan_;
    Rng rng_;
    net::VirtualTime time_;
    VirtualClock clock_;
    Trace trace_;
    Truth truth_;
    Network network_;
    Surroundings surroundings_;
    Host fate_;  // mishaps, revivals, the operator
    TimePoint fair_from_{};
    std::unique_ptr<ServerProcess> server_;
    std::vector<std::unique_ptr<ClientProcess>> clients_;
    std::uint64_t events_ = 0;
    std::size_t uploads_waiting_ = 0;  // for memory
    bool fair_ = false;
    bool done_ = false;
};

}  // namespace fedllm::tools::world
