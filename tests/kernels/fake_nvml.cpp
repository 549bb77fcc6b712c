// A library with the part of NVML's interface that kernels/device/gpu_telemetry.cpp calls: three GPUs, of
// which the second tells no power and no utilisation and the third does not answer.
#include <cstdio>

struct nvmlDevice {
    unsigned index;
};

namespace {
nvmlDevice devices[3] = {{0}, {1}, {2}};
constexpr int kNotSupported = 3;
constexpr int kLost = 15;
}  // namespace

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) {
    *count = 3;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice** device) {
    *device = &devices[index];
    return index == 2 ? kLost : 0;
}
int nvmlDeviceGetName(nvmlDevice* device, char* name, unsigned bytes) {
    std::snprintf(name, bytes, "%s GPU", device->index == 0 ? "First" : "Second");
    return 0;
}
int nvmlDeviceGetUtilizationRates(nvmlDevice* device, unsigned* gpu_then_memory) {
    gpu_then_memory[0] = 87;
    gpu_then_memory[1] = 40;
    return device->index == 0 ? 0 : kNotSupported;
}
int nvmlDeviceGetMemoryInfo(nvmlDevice*, unsigned long long* total_free_used) {
    total_free_used[0] = 80'000'000'000;
    total_free_used[1] = 70'000'000'000;
    total_free_used[2] = 10'000'000'000;
    return 0;
}
int nvmlDeviceGetTemperature(nvmlDevice* device, unsigned sensor, unsigned* celsius) {
    *celsius = device->index == 0 ? 54 : 31;
    return sensor == 0 ? 0 : kNotSupported;
}
int nvmlDeviceGetPowerUsage(nvmlDevice* device, unsigned* milliwatts) {
    *milliwatts = 312'500;
    return device->index == 0 ? 0 : kNotSupported;
}

}  // extern "C"
