#include "kernels/cuda/runtime.hpp"

#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include <map>

namespace fedllm::kernels::cuda {
namespace {

void check(cudaError_t status, const char* doing) {
    if (status != cudaSuccess) throw GpuError(std::string(doing) + ": " + cudaGetErrorString(status));
}
cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }
cudaEvent_t native(const Event& event) { return static_cast<cudaEvent_t>(event.handle()); }

DeviceProperties read_properties() {
    int device = 0;
    check(cudaGetDevice(&device), "asking for the current GPU");
    cudaDeviceProp found{};
    check(cudaGetDeviceProperties(&found, device), "asking for the GPU's properties");
    return {found.name,
            found.totalGlobalMem,
            free_memory_bytes(),
            found.sharedMemPerBlockOptin,
            static_cast<std::size_t>(found.l2CacheSize),
            static_cast<unsigned>(found.multiProcessorCount),
            found.major,
            found.minor};
}

}  // namespace

unsigned device_count() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? static_cast<unsigned>(count) : 0;
}
void use_device(unsigned device) { check(cudaSetDevice(static_cast<int>(device)), "choosing a GPU"); }
const DeviceProperties& device_properties() {
    thread_local std::map<int, DeviceProperties> known;
    int device = 0;
    check(cudaGetDevice(&device), "asking for the current GPU");
    const auto found = known.find(device);
    return found != known.end() ? found->second : known.emplace(device, read_properties()).first->second;
}
std::size_t free_memory_bytes() {
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for the GPU's free memory");
    return free;
}

Stream::Stream() : handle_(nullptr) {
    cudaStream_t made = nullptr;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "making a stream");
    handle_ = made;
}
Stream::~Stream() {
    if (handle_ == nullptr) return;
    cudaStreamSynchronize(native(*this));
    cudaStreamDestroy(native(*this));
}
void Stream::synchronize() const { check(cudaStreamSynchronize(native(*this)), "waiting for the GPU"); }
void Stream::wait(const Event& event) const {
    check(cudaStreamWaitEvent(native(*this), native(event)), "making a stream wait");
}

Event::Event() : handle_(nullptr) {
    cudaEvent_t made = nullptr;
    check(cudaEventCreate(&made), "making an event");
    handle_ = made;
}
Event::~Event() {
    if (handle_ != nullptr) cudaEventDestroy(native(*this));
}
void Event::record(const Stream& stream) {
    check(cudaEventRecord(native(*this), native(stream)), "recording an event");
}
void Event::synchronize() const { check(cudaEventSynchronize(native(*this)), "waiting for the GPU"); }
bool Event::reached() const {
    const cudaError_t status = cudaEventQuery(native(*this));
    if (status != cudaErrorNotReady) check(status, "waiting for the GPU");
    return status == cudaSuccess;
}
float Event::milliseconds_since(const Event& begin) const {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, native(begin), native(*this)), "reading an event's time");
    return milliseconds;
}

void* allocate(std::size_t bytes, MemoryKind kind) {
    if (bytes == 0) return nullptr;
    void* data = nullptr;
    const bool device = kind == MemoryKind::Device;
    const cudaError_t status = device ? cudaMalloc(&data, bytes) : cudaMallocHost(&data, bytes);
    if (status == cudaSuccess) return data;
    std::string what = "taking " + std::to_string(bytes) + " bytes of " + (device ? "GPU" : "pinned host") +
                       " memory: " + cudaGetErrorString(status);
    std::size_t free = 0;
    std::size_t total = 0;
    if (device && cudaMemGetInfo(&free, &total) == cudaSuccess) {
        what += "; " + std::to_string(free) + " of " + std::to_string(total) + " bytes are free";
    }
    cudaGetLastError();  // or the next call would report it again
    throw GpuError(what);
}
void release(void* data, MemoryKind kind) noexcept {
    if (data == nullptr) return;
    kind == MemoryKind::Device ? cudaFree(data) : cudaFreeHost(data);
}

void copy_to_device(const Stream& stream, void* device, const void* host, std::size_t bytes) {
    check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, native(stream)), "copying to the GPU");
}
void copy_to_host(const Stream& stream, void* host, const void* device, std::size_t bytes) {
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, native(stream)),
          "copying from the GPU");
}
void copy_on_device(const Stream& stream, void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, native(stream)), "copying on the GPU");
}
void fill_bytes(const Stream& stream, void* device, int byte, std::size_t bytes) {
    check(cudaMemsetAsync(device, byte, bytes, native(stream)), "filling GPU memory");
}

Graph Graph::record(const Stream& stream, const std::function<void()>& enqueue) {
    struct Recording {  // ends whatever happens
        cudaStream_t of;
        cudaGraph_t graph = nullptr;
        cudaError_t end() { return cudaStreamEndCapture(std::exchange(of, nullptr), &graph); }
        ~Recording() {
            if (of != nullptr) end();
            if (graph != nullptr) cudaGraphDestroy(graph);
        }
    };
    check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal), "recording a graph");
    Recording recording{native(stream)};
    enqueue();
    check(recording.end(), "recording a graph");
    cudaGraphExec_t ready = nullptr;
    check(cudaGraphInstantiate(&ready, recording.graph, 0), "making a graph ready");
    Graph made;
    made.handle_ = ready;
    return made;
}
Graph::~Graph() {
    if (handle_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_));
}
void Graph::launch(const Stream& stream) const {
    check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), native(stream)), "launching a graph");
}

Range::Range(const char* name) { nvtxRangePushA(name); }
Range::~Range() { nvtxRangePop(); }

}  // namespace fedllm::kernels::cuda
