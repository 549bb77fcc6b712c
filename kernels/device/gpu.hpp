// The GPUs of this machine, for the start-up report. A build without CUDA, or a machine without a driver, has
// none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fedllm::kernels {

struct GpuInfo {
    std::string name;
    std::uint64_t memory_bytes = 0;
    int compute_major = 0;
    int compute_minor = 0;
};

struct GpuList {
    std::vector<GpuInfo> gpus;
    std::string none_because;  // empty when there are GPUs
};

GpuList list_gpus();

}  // namespace fedllm::kernels
