// Communicator: sums over several GPUs of this process. As runtime.hpp, implemented twice: by NCCL, which is
// found when the program runs (machines with one GPU need none), and for tests by the emulation.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/runtime.hpp"

namespace fedllm::kernels::cuda {

// What one GPU adds, in its own memory, in order with its stream's other work.
template <class T>
struct Addend {
    const Stream* stream = nullptr;
    T* values = nullptr;
};

// Lifecycle: unmovable; takes some hundred MB of each GPU. Streams' work is done before it goes, or abort()
// was called. Concurrency: one call at a time. Errors: GpuError, as in runtime.hpp.
class Communicator {
public:
    static constexpr const char* kLibrary = "libnccl.so.2";

    // `devices`, each once. GpuError in words where NCCL is missing or does not start.
    explicit Communicator(std::vector<unsigned> devices, const char* library = kLibrary);
    ~Communicator();
    Communicator(const Communicator&) = delete;
    Communicator& operator=(const Communicator&) = delete;

    // One addend of each device, in the order of `devices`; each of its `count` values becomes the sum over
    // all, the same bits everywhere. Enqueued on the streams, which must not be recording.
    void sum(std::span<const Addend<float>> addends, std::size_t count) const;
    void sum(std::span<const Addend<double>> addends, std::size_t count) const;

    // Ends sums that wait for a GPU which has failed: the others' streams would wait for ever. No sums come
    // after it.
    void abort() noexcept;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace fedllm::kernels::cuda
