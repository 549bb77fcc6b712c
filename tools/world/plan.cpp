#include "tools/world/plan.hpp"

#include <cmath>

namespace fedllm::tools::world {
namespace {

// Each kind of mishap is there in half of the worlds, so that every mixture comes up: a kind may hide another
// (Groce et al., ISSTA 2012, "Swarm testing").
class Draw {
public:
    explicit Draw(std::uint64_t seed) : rng_(seed, "world/plan") {}

    bool half() { return rng_.below(2) == 0; }
    std::uint64_t between(std::uint64_t low, std::uint64_t high) { return low + rng_.below(high - low + 1); }
    // As often small as large: the logarithm is uniform.
    double scale(double low, double high) {
        return low * std::pow(high / low, static_cast<double>(rng_.uniform()));
    }
    Duration time(double low_seconds, double high_seconds) {
        return Duration(static_cast<std::int64_t>(1000 * scale(low_seconds, high_seconds)));
    }
    Duration sometimes(double low_seconds, double high_seconds) {
        return half() ? time(low_seconds, high_seconds) : Duration(0);
    }
    double rarely(double low, double high) { return half() ? scale(low, high) : 0; }
    std::uint64_t one_in(double low, double high) {
        return half() ? static_cast<std::uint64_t>(scale(low, high)) : 0;
    }
    std::string codec() {
        static constexpr const char* kCodecs[] = {"none", "none", "bf16", "int8", "int4", "topk", "deadzone"};
        return kCodecs[rng_.below(std::size(kCodecs))];
    }

private:
    Rng rng_;
};

JobPlan draw_job(Draw& draw, std::uint32_t number, std::uint32_t clients) {
    JobPlan job;
    job.name = "job-" + std::to_string(number);
    job.seed = draw.between(1, 1000);
    job.rounds = static_cast<std::uint32_t>(draw.between(1, 4));
    job.clients = static_cast<std::uint32_t>(draw.between(1, clients));
    job.minimum = static_cast<std::uint32_t>(draw.between(1, job.clients));
    job.update_codec = draw.codec();
    job.download_codec = draw.codec();
    job.error_feedback = draw.half();
    job.server_learning_rate = draw.half() ? 1.0 : 0.7;
    job.submitted = draw.time(0.01, 60);
    if (draw.half()) {
        job.buffer = static_cast<std::uint32_t>(draw.between(job.minimum, job.clients));
        job.rounds = static_cast<std::uint32_t>(draw.between(1, 8));
        job.staleness_power = draw.half() ? 0.5 : draw.scale(0.1, 4);
        job.staleness_max = static_cast<std::uint32_t>(draw.between(0, 4));
    }
    return job;
}

Weather draw_weather(Draw& draw) {
    Weather weather;
    weather.delay = draw.time(0.001, 2);
    weather.jitter = draw.sometimes(0.001, 5);
    weather.bytes_per_second = draw.scale(1e3, 1e8);
    weather.loss = draw.rarely(0.001, 0.3);
    weather.refused = draw.rarely(0.01, 0.5);
    weather.reset = draw.rarely(0.001, 0.1);
    weather.half_open = draw.rarely(0.001, 0.05);
    weather.silence = draw.rarely(0.001, 0.02);
    weather.window_bytes = draw.between(256, 65536);
    weather.segment_bytes = draw.between(1, 1460);
    return weather;
}

Mishaps draw_mishaps(Draw& draw) {
    Mishaps mishaps;
    mishaps.partition = draw.sometimes(5, 300);
    mishaps.server_kill = draw.sometimes(10, 300);
    mishaps.server_stop = draw.sometimes(30, 300);
    mishaps.client_kill = draw.sometimes(5, 300);
    mishaps.server_power_loss = draw.sometimes(10, 300);
    mishaps.client_power_loss = draw.sometimes(5, 300);
    mishaps.weather_change = draw.sometimes(10, 100);
    mishaps.operator_acts = draw.sometimes(3, 100);
    mishaps.kill_per_event = draw.rarely(1e-5, 1e-3);
    mishaps.server_disk_error = draw.one_in(100, 10'000);
    mishaps.server_disk_full = draw.one_in(100, 10'000);
    mishaps.server_disk_crash = draw.one_in(50, 5'000);
    mishaps.client_disk_error = draw.one_in(30, 3'000);
    mishaps.client_disk_full = draw.one_in(30, 3'000);
    mishaps.client_disk_crash = draw.one_in(30, 3'000);
    return mishaps;
}

}  // namespace

std::string JobPlan::yaml() const {
    const std::string asynchronous = buffer == 0
                                         ? ""
                                         : "aggregation: {mode: async, buffer: " + std::to_string(buffer) +
                                               ", staleness_power: " + std::to_string(staleness_power) +
                                               ", staleness_max: " + std::to_string(staleness_max) + "}\n";
    return "name: " + name + "\nbase_model: tiny\nseed: " + std::to_string(seed) +
           "\nlora: {rank: 2, alpha: 4, target_modules: [q_proj]}\nrounds: " + std::to_string(rounds) +
           "\nclients_per_round: " + std::to_string(clients) +
           "\nclients_minimum: " + std::to_string(minimum) +
           "\nsamples_max: 100\nserver_learning_rate: " + std::to_string(server_learning_rate) +
           "\nupdate: {codec: " + update_codec +
           ", clip_norm: 4, error_feedback: " + (error_feedback ? "true" : "false") +
           "}\ndownload: {codec: " + download_codec + "}\ntrain: {local_steps: 1}\n" + asynchronous;
}

Plan draw_plan(std::uint64_t seed) {
    Draw draw(seed);
    Plan plan;
    plan.seed = seed;
    plan.clients = static_cast<std::uint32_t>(draw.between(1, 8));
    const auto jobs = static_cast<std::uint32_t>(draw.between(1, 3));
    for (std::uint32_t job = 0; job < jobs; ++job) plan.jobs.push_back(draw_job(draw, job, plan.clients));
    plan.limits.chunk_bytes = draw.between(64, 2048);
    plan.limits.rate_bytes_min = 64;
    plan.weather = draw_weather(draw);
    plan.mishaps = draw_mishaps(draw);
    plan.mishaps_until = draw.time(10, 600);
    plan.patience = std::chrono::hours(2);
    plan.versions_kept = static_cast<std::uint32_t>(draw.between(3, 10));
    const auto buffer = protocol::FrameLimits{}.chunk_bytes_max;
    if (draw.half()) plan.upload_memory = draw.between(buffer / 2, 4 * buffer);  // of some uploads, or of one
    plan.server_slowness = std::chrono::microseconds(static_cast<std::int64_t>(draw.scale(1, 1e6)));
    plan.training = draw.time(0.01, 60);
    return plan;
}

Plan crowd_plan(std::uint32_t clients, std::uint32_t rounds) {
    Plan plan;
    plan.clients = clients;
    JobPlan job;
    job.name = "crowd";
    job.seed = 1;
    job.rounds = rounds;
    job.clients = clients;
    job.minimum = clients - clients / 10;  // so that there is a deadline to be kept, too
    job.submitted = 1ms;
    plan.jobs = {job};
    plan.weather.delay = 20ms;
    plan.weather.jitter = 200ms;
    plan.patience = std::chrono::hours(24);
    plan.server_slowness = std::chrono::microseconds(1);
    plan.training = 5s;
    plan.one_host = true;
    return plan;
}

}  // namespace fedllm::tools::world
