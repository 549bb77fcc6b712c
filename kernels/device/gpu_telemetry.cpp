#include "kernels/device/gpu_telemetry.hpp"

#include <dlfcn.h>

#include <limits>

namespace fedllm::kernels {
namespace {

// NVML's interface, version 2 of the functions that have one: stable since driver 450.
using Device = struct nvmlDevice*;
constexpr int kSuccess = 0;
constexpr unsigned kGpuSensor = 0;
constexpr unsigned kNameBytes = 96;
struct Utilisation {
    unsigned gpu, memory;  // percent
};
struct Memory {
    unsigned long long total, free, used;
};

template <class F>
bool find(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(::dlsym(library, name));
    return function != nullptr;
}

}  // namespace

struct GpuTelemetry::Nvml {
    void* library = nullptr;
    int (*initialise)() = nullptr;
    int (*shut_down)() = nullptr;
    int (*count)(unsigned*) = nullptr;
    int (*device)(unsigned, Device*) = nullptr;
    int (*name)(Device, char*, unsigned) = nullptr;
    int (*utilisation)(Device, Utilisation*) = nullptr;
    int (*memory)(Device, Memory*) = nullptr;
    int (*temperature)(Device, unsigned, unsigned*) = nullptr;
    int (*power)(Device, unsigned*) = nullptr;  // milliwatts

    bool bind() {
        return find(library, "nvmlInit_v2", initialise) && find(library, "nvmlShutdown", shut_down) &&
               find(library, "nvmlDeviceGetCount_v2", count) &&
               find(library, "nvmlDeviceGetHandleByIndex_v2", device) &&
               find(library, "nvmlDeviceGetName", name) &&
               find(library, "nvmlDeviceGetUtilizationRates", utilisation) &&
               find(library, "nvmlDeviceGetMemoryInfo", memory) &&
               find(library, "nvmlDeviceGetTemperature", temperature) &&
               find(library, "nvmlDeviceGetPowerUsage", power);
    }
};

GpuTelemetry::GpuTelemetry(const char* library) {
    auto nvml = std::make_unique<Nvml>();
    nvml->library = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (nvml->library == nullptr) {
        none_because_ = std::string(library) + " is not here: no NVIDIA driver";
    } else if (!nvml->bind()) {
        none_because_ = std::string(library) + " is too old; drivers from 450 on are read";
    } else if (const int status = nvml->initialise(); status != kSuccess) {
        none_because_ = "NVML does not start (error " + std::to_string(status) + ")";
    } else {
        nvml_ = std::move(nvml);
        return;
    }
    if (nvml->library != nullptr) ::dlclose(nvml->library);
}

GpuTelemetry::~GpuTelemetry() {
    if (!nvml_) return;
    nvml_->shut_down();
    ::dlclose(nvml_->library);
}

std::vector<GpuReading> GpuTelemetry::read() const {
    std::vector<GpuReading> readings;
    unsigned count = 0;
    if (!nvml_ || nvml_->count(&count) != kSuccess) return readings;
    constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
    for (unsigned index = 0; index < count; ++index) {
        Device device = nullptr;
        char name[kNameBytes] = "";
        Memory memory{};
        if (nvml_->device(index, &device) != kSuccess || nvml_->memory(device, &memory) != kSuccess) continue;
        if (nvml_->name(device, name, kNameBytes) != kSuccess) name[0] = 0;
        Utilisation busy{};
        unsigned celsius = 0, milliwatts = 0;
        const bool has_busy = nvml_->utilisation(device, &busy) == kSuccess;
        const bool has_heat = nvml_->temperature(device, kGpuSensor, &celsius) == kSuccess;
        const bool has_power = nvml_->power(device, &milliwatts) == kSuccess;
        readings.push_back({index, name, has_busy ? busy.gpu / 100.0 : kUnknown, memory.used, memory.total,
                            has_heat ? celsius : kUnknown, has_power ? milliwatts / 1000.0 : kUnknown});
    }
    return readings;
}

}  // namespace fedllm::kernels
