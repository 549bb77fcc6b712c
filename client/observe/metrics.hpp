// What a client counts, for its own operator: nothing of this leaves the site. Names follow Prometheus'
// conventions.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <string>

#include "common/base/ids.hpp"
#include "kernels/device/gpu_telemetry.hpp"

namespace fedllm::client::observe {

// Concurrency: render() by one thread at a time; the others by any.
class Metrics {
public:
    explicit Metrics(const char* nvml = kernels::GpuTelemetry::kLibrary);
    Metrics(const Metrics&) = delete;
    Metrics& operator=(const Metrics&) = delete;

    void connected(bool is);
    void progress(std::uint32_t step, std::uint32_t steps, double loss, double tokens_per_second);
    enum class Ended { Trained, Evaluated, Failed };
    void task_ended(Ended how);

    std::string render();  // with memory and GPUs read just now

private:
    void read_gpus();

    kernels::GpuTelemetry gpus_;
    prometheus::Registry registry_;
    prometheus::Gauge& connected_;
    prometheus::Gauge& step_;
    prometheus::Gauge& steps_;
    prometheus::Gauge& loss_;
    prometheus::Gauge& tokens_per_second_;
    prometheus::Gauge& resident_bytes_;
    prometheus::Family<prometheus::Counter>& tasks_;
    prometheus::Family<prometheus::Gauge>& gpu_utilisation_;
    prometheus::Family<prometheus::Gauge>& gpu_memory_used_;
    prometheus::Family<prometheus::Gauge>& gpu_memory_total_;
    prometheus::Family<prometheus::Gauge>& gpu_temperature_;
    prometheus::Family<prometheus::Gauge>& gpu_power_;
};

}  // namespace fedllm::client::observe
