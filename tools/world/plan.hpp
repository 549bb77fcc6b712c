// A world before it begins: who lives in it, what they are to do, and what will befall them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/protocol/limits.hpp"
#include "tools/world/network.hpp"

namespace fedllm::tools::world {

struct JobPlan {
    std::string name;
    std::uint64_t seed = 0;
    std::uint32_t rounds = 1;
    std::uint32_t clients = 1;
    std::uint32_t minimum = 1;
    std::string update_codec = "none";
    std::string download_codec = "none";
    bool error_feedback = true;
    double server_learning_rate = 1;
    std::uint32_t buffer = 0;  // asynchronous: updates per version
    double staleness_power = 0.5;
    std::uint32_t staleness_max = 16;
    Duration submitted{};  // after the world began

    std::string yaml() const;
};

// Mean times between two mishaps of a kind; 0: never.
struct Mishaps {
    Duration partition{};
    Duration server_kill{};
    Duration server_stop{};
    Duration client_kill{};
    Duration server_power_loss{};
    Duration client_power_loss{};
    Duration weather_change{};
    Duration operator_acts{};   // pauses, resumes or, rarely, stops a job
    double kill_per_event = 0;  // at any event, whoever has it
    // One in so many operations of the disk.
    std::uint64_t server_disk_error = 0;
    std::uint64_t server_disk_full = 0;
    std::uint64_t server_disk_crash = 0;
    std::uint64_t client_disk_error = 0;
    std::uint64_t client_disk_full = 0;
    std::uint64_t client_disk_crash = 0;
};

struct Plan {
    std::uint64_t seed = 0;
    std::uint32_t clients = 1;
    std::vector<JobPlan> jobs;
    protocol::Limits limits;
    std::uint32_t versions_kept = 10;
    std::uint64_t upload_memory = std::uint64_t{256} << 20;
    Weather weather;  // while mishaps last
    Mishaps mishaps;
    Duration mishaps_until{};  // from then on the weather is fair
    Duration patience{};       // for the jobs to end after that
    std::chrono::microseconds server_slowness{};
    Duration training{};    // the longest that a client's work takes
    bool one_host = false;  // all clients share a host and a disk: crowds without mishaps
};

Plan draw_plan(std::uint64_t seed);

// Fair weather, no mishaps.
Plan crowd_plan(std::uint32_t clients, std::uint32_t rounds);

}  // namespace fedllm::tools::world
