#include "kernels/device/gpu.hpp"

namespace fedllm::kernels {

GpuList list_gpus() { return {{}, "this build has no CUDA support"}; }

}  // namespace fedllm::kernels
