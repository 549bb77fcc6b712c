// How busy, full and hot the GPUs of this machine are, asked of NVML: the driver's own library, found when
// the program runs. Machines without it have no readings.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace fedllm::kernels {

struct GpuReading {
    unsigned index = 0;  // as NVML counts: by PCI bus, whatever CUDA_VISIBLE_DEVICES says
    std::string name;
    double utilisation = 0;  // share of the last sampling period with a kernel running, 0 to 1
    std::uint64_t memory_used_bytes = 0;
    std::uint64_t memory_total_bytes = 0;
    double temperature_celsius = 0;
    double power_watts = 0;  // NaN where a figure cannot be had
};

// Lifecycle: the library stays loaded until the end. Concurrency: one call at a time.
class GpuTelemetry {
public:
    static constexpr const char* kLibrary = "libnvidia-ml.so.1";

    explicit GpuTelemetry(const char* library = kLibrary);
    ~GpuTelemetry();
    GpuTelemetry(const GpuTelemetry&) = delete;
    GpuTelemetry& operator=(const GpuTelemetry&) = delete;

    const std::string& none_because() const { return none_because_; }  // empty: there are readings
    // A GPU that does not answer, because it fell off the bus, is left out.
    std::vector<GpuReading> read() const;

private:
    struct Nvml;
    std::unique_ptr<Nvml> nvml_;
    std::string none_because_;
};

}  // namespace fedllm::kernels
