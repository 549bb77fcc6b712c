// kernels/cuda/runtime.hpp on the CPU: a stream does its work at once, or keeps it for the graph it records.
// FEDLLM_EMULATION_GPUS (1) says how many GPUs there are. Each refuses streams and events of another.
#include "kernels/cuda/runtime.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "kernels/cuda/emulated_block.hpp"
#include "kernels/cuda/emulated_failures.hpp"

namespace fedllm::kernels::cuda {
namespace {

using Work = std::vector<std::function<void()>>;
struct Recording;
Recording* recording_now = nullptr;
thread_local unsigned current_device = 0;
struct StreamState {
    unsigned device = current_device;
    Recording* recording = nullptr;
};
StreamState& state(const Stream& stream) { return *static_cast<StreamState*>(stream.handle()); }

// Other streams take part from where they wait for an event of a stream that does. Ends whatever happens.
struct Recording {
    Work& work;
    std::vector<StreamState*> streams{};
    std::uint64_t number = next_number++;

    static inline std::uint64_t next_number = 1;
    void join(StreamState& stream) {
        if (stream.recording == nullptr) streams.push_back(&stream);
        stream.recording = this;
    }
    ~Recording() {
        for (StreamState* stream : streams) stream->recording = nullptr;
        recording_now = nullptr;
    }
};
struct EventState {
    unsigned device = current_device;
    std::uint64_t recording = 0;  // its number; 0: none
};
EventState& state(const Event& event) { return *static_cast<EventState*>(event.handle()); }

void expect(unsigned device, unsigned expected, const char* what) {
    if (device != expected)
        throw GpuError(std::string(what) + " of GPU " + std::to_string(device) + " is used on GPU " +
                       std::to_string(expected));
}

constexpr std::align_val_t kAlignment{256};

std::uint64_t calls_left = emulation::kNever;
void may_fail() {
    if (calls_left == 0) throw GpuError("the emulation fails on demand");
    if (calls_left != emulation::kNever) --calls_left;
}

}  // namespace

namespace emulation {

void fail_after(std::uint64_t calls) { calls_left = calls; }

void enqueue(const Stream& stream, std::function<void()> work) {
    expect(state(stream).device, current_device, "a stream");
    may_fail();
    if (const Recording* recording = state(stream).recording; recording != nullptr)
        return recording->work.push_back(std::move(work));
    work();
}
bool records(const Stream& stream) { return state(stream).recording != nullptr; }
unsigned device_of(const Stream& stream) { return state(stream).device; }

}  // namespace emulation

unsigned device_count() {
    const char* const gpus = std::getenv("FEDLLM_EMULATION_GPUS");
    return gpus == nullptr ? 1 : static_cast<unsigned>(std::clamp(std::atoi(gpus), 0, 64));
}
void use_device(unsigned device) {
    if (device >= device_count()) {
        throw GpuError("GPU " + std::to_string(device) + ": the emulation has " +
                       std::to_string(device_count()));
    }
    current_device = device;
}
const DeviceProperties& device_properties() {
    static const DeviceProperties properties{
        "CPU emulation of a GPU", std::size_t{4} << 30, std::size_t{4} << 30, 227 * 1024, 50 << 20, 4, 9, 0};
    return properties;
}
std::size_t free_memory_bytes() { return device_properties().memory_free_bytes; }

Stream::Stream() : handle_(new StreamState) {}
Stream::~Stream() { delete static_cast<StreamState*>(handle_); }
void Stream::synchronize() const {
    may_fail();
    if (state(*this).recording != nullptr)
        throw GpuError("a stream that records a graph cannot be waited for");
}
// What streams do at once is done in the order of the calls: there is nothing to wait for.
void Stream::wait(const Event& event) const {
    const std::uint64_t recorded_in = state(event).recording;
    if (recorded_in == 0) return;
    if (recording_now == nullptr || recorded_in != recording_now->number)
        throw GpuError("a stream waits for an event of a graph that was recorded before");
    recording_now->join(state(*this));
}

Event::Event() : handle_(new EventState) {}
Event::~Event() { delete static_cast<EventState*>(handle_); }
void Event::record(const Stream& stream) {
    expect(state(*this).device, state(stream).device, "an event");
    const Recording* recording = state(stream).recording;
    state(*this).recording = recording == nullptr ? 0 : recording->number;
}
void Event::synchronize() const {}
bool Event::reached() const { return true; }
float Event::milliseconds_since(const Event&) const { return 0.0f; }

// What nobody wrote is NaN, or an index out of every range.
void* allocate(std::size_t bytes, MemoryKind) {
    if (bytes == 0) return nullptr;
    may_fail();
    void* data = ::operator new(bytes, kAlignment);
    std::memset(data, 0xFF, bytes);
    return data;
}
void release(void* data, MemoryKind) noexcept { ::operator delete(data, kAlignment); }

void copy_to_device(const Stream& stream, void* device, const void* host, std::size_t bytes) {
    copy_on_device(stream, device, host, bytes);
}
void copy_to_host(const Stream& stream, void* host, const void* device, std::size_t bytes) {
    copy_on_device(stream, host, device, bytes);
}
void copy_on_device(const Stream& stream, void* to, const void* from, std::size_t bytes) {
    if (bytes != 0) emulation::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}
void fill_bytes(const Stream& stream, void* device, int byte, std::size_t bytes) {
    if (bytes != 0) emulation::enqueue(stream, [=] { std::memset(device, byte, bytes); });
}

Graph Graph::record(const Stream& stream, const std::function<void()>& enqueue) {
    auto work = std::make_unique<Work>();
    {
        Recording recording{*work};
        recording_now = &recording;
        recording.join(state(stream));
        enqueue();
    }
    Graph made;
    made.handle_ = work.release();
    return made;
}
Graph::~Graph() { delete static_cast<Work*>(handle_); }
void Graph::launch(const Stream& stream) const {
    expect(state(stream).device, current_device, "a stream");
    for (const auto& work : *static_cast<const Work*>(handle_)) work();
}

Range::Range(const char*) {}
Range::~Range() = default;

}  // namespace fedllm::kernels::cuda
