#include "client/observe/metrics.hpp"

#include <prometheus/text_serializer.h>

#include "common/base/memory.hpp"
#include "common/base/version.hpp"

namespace fedllm::client::observe {
namespace {

prometheus::Family<prometheus::Gauge>& gauges(prometheus::Registry& registry, const char* name,
                                              const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
prometheus::Gauge& gauge(prometheus::Registry& registry, const char* name, const char* help) {
    return gauges(registry, name, help).Add({});
}

}  // namespace

Metrics::Metrics(const char* nvml)
    : gpus_(nvml),
      connected_(gauge(registry_, "fedllm_client_connected", "1 while the server is connected")),
      step_(gauge(registry_, "fedllm_client_train_step", "Optimiser steps done of the current task")),
      steps_(gauge(registry_, "fedllm_client_train_steps", "Optimiser steps of the current task")),
      loss_(gauge(registry_, "fedllm_client_train_loss", "Loss of the last step, in nats a token")),
      tokens_per_second_(
          gauge(registry_, "fedllm_client_tokens_per_second", "Training speed of the current task")),
      resident_bytes_(
          gauge(registry_, "fedllm_client_resident_memory_bytes", "Resident memory of the client")),
      tasks_(prometheus::BuildCounter()
                 .Name("fedllm_client_tasks_total")
                 .Help("Tasks that ended here, by outcome")
                 .Register(registry_)),
      gpu_utilisation_(gauges(registry_, "fedllm_gpu_utilisation_ratio",
                              "Share of the last sampling period in which a kernel ran")),
      gpu_memory_used_(gauges(registry_, "fedllm_gpu_memory_used_bytes", "GPU memory in use, by anyone")),
      gpu_memory_total_(gauges(registry_, "fedllm_gpu_memory_total_bytes", "Memory of the GPU")),
      gpu_temperature_(gauges(registry_, "fedllm_gpu_temperature_celsius", "Temperature of the GPU")),
      gpu_power_(gauges(registry_, "fedllm_gpu_power_watts", "Power that the GPU draws")) {
    gauges(registry_, "fedllm_client_info", "The running version")
        .Add({{"version", std::string(kVersion)}})
        .Set(1);
}

void Metrics::connected(bool is) { connected_.Set(is ? 1 : 0); }

void Metrics::progress(std::uint32_t step, std::uint32_t steps, double loss, double tokens_per_second) {
    step_.Set(step);
    steps_.Set(steps);
    loss_.Set(loss);
    tokens_per_second_.Set(tokens_per_second);
}

void Metrics::task_ended(Ended how) {
    const char* outcome = how == Ended::Trained     ? "trained"
                          : how == Ended::Evaluated ? "evaluated"
                                                    : "failed";
    tasks_.Add({{"outcome", outcome}}).Increment();
}

void Metrics::read_gpus() {
    for (const kernels::GpuReading& gpu : gpus_.read()) {
        const prometheus::Labels labels{{"gpu", std::to_string(gpu.index)}, {"name", gpu.name}};
        gpu_utilisation_.Add(labels).Set(gpu.utilisation);
        gpu_memory_used_.Add(labels).Set(static_cast<double>(gpu.memory_used_bytes));
        gpu_memory_total_.Add(labels).Set(static_cast<double>(gpu.memory_total_bytes));
        gpu_temperature_.Add(labels).Set(gpu.temperature_celsius);
        gpu_power_.Add(labels).Set(gpu.power_watts);
    }
}

std::string Metrics::render() {
    resident_bytes_.Set(static_cast<double>(resident_memory()));
    read_gpus();
    return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace fedllm::client::observe
