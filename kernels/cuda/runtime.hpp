// Streams, events, memory and graphs of the current GPU, owned. Two libraries implement this:
// fedllm::kernels_cuda (CUDA's runtime) and, for tests on machines without a GPU, fedllm::kernels_emulation.
//
// Errors: GpuError is thrown by everything here; the engine catches it at its own boundary. Memory that
// cannot be had is a GpuError that says how much was asked for and how much is free. Concurrency: work on one
// stream runs in order. An object belongs to the GPU that was current when it was made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace fedllm::kernels::cuda {

class GpuError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

struct DeviceProperties {
    std::string name;
    std::size_t memory_bytes = 0;
    std::size_t memory_free_bytes = 0;
    std::size_t shared_bytes_max = 0;  // dynamic shared memory a block may ask for
    std::size_t l2_bytes = 0;
    unsigned multiprocessors = 0;
    int compute_major = 0;
    int compute_minor = 0;
};

unsigned device_count();                      // 0 without a driver or a GPU; never throws
void use_device(unsigned device);             // for this thread, from now on
const DeviceProperties& device_properties();  // of the current GPU, as they were when first asked for
std::size_t free_memory_bytes();

class Event;

// Lifecycle: move-only; waits for its work before it goes.
class Stream {
public:
    Stream();
    ~Stream();
    Stream(Stream&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Stream& operator=(Stream&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }

    void synchronize() const;
    void wait(const Event& event) const;      // later work on this stream waits; the host does not
    void* handle() const { return handle_; }  // cudaStream_t

private:
    void* handle_;
};

class Event {
public:
    Event();
    ~Event();
    Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Event& operator=(Event&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }

    void record(const Stream& stream);
    void synchronize() const;                            // the host waits
    bool reached() const;                                // now, without waiting
    float milliseconds_since(const Event& begin) const;  // both recorded and reached
    void* handle() const { return handle_; }

private:
    void* handle_;
};

enum class MemoryKind { Device, Pinned };            // pinned: of the host, reached by asynchronous copies
void* allocate(std::size_t bytes, MemoryKind kind);  // aligned to 256 bytes; contents undefined
void release(void* data, MemoryKind kind) noexcept;

// Lifecycle: move-only.
template <class T, MemoryKind kKind>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(std::size_t size)
        : data_(static_cast<T*>(allocate(size * sizeof(T), kKind))), size_(size) {}
    ~Buffer() { release(data_, kKind); }
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }

    T* data() const { return data_; }
    std::size_t size() const { return size_; }  // elements
    std::size_t bytes() const { return size_ * sizeof(T); }

private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
};
template <class T>
using DeviceBuffer = Buffer<T, MemoryKind::Device>;
template <class T>
using PinnedBuffer = Buffer<T, MemoryKind::Pinned>;

// In order with the stream's other work. Host memory must be pinned to be copied while the host goes on, and
// must stay until the copy is done.
void copy_to_device(const Stream& stream, void* device, const void* host, std::size_t bytes);
void copy_to_host(const Stream& stream, void* host, const void* device, std::size_t bytes);
void copy_on_device(const Stream& stream, void* to, const void* from, std::size_t bytes);
void fill_bytes(const Stream& stream, void* device, int byte, std::size_t bytes);

// What was enqueued on a stream, to be enqueued again at the cost of one launch: same kernels, same
// arguments. Work that the recording sends to other streams through events is part of it. Lifecycle:
// move-only; buffers it names must outlive it.
class Graph {
public:
    Graph() = default;
    static Graph record(const Stream& stream, const std::function<void()>& enqueue);
    ~Graph();
    Graph(Graph&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Graph& operator=(Graph&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }

    bool empty() const { return handle_ == nullptr; }
    void launch(const Stream& stream) const;

private:
    void* handle_ = nullptr;
};

// A named stretch of this thread's time, which NVIDIA's profilers show (NVTX) with the work that was enqueued
// in it. Next to nothing where none looks.
class Range {
public:
    explicit Range(const char* name);
    ~Range();
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;
};

}  // namespace fedllm::kernels::cuda
