// kernels/cuda/communicator.hpp on the CPU: sums in the order of the devices.
#include "kernels/cuda/communicator.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/cuda/emulated_block.hpp"

namespace fedllm::kernels::cuda {

struct Communicator::State {
    std::vector<unsigned> devices;  // none once aborted

    template <class T>
    void sum(std::span<const Addend<T>> addends, std::size_t count) const {
        if (addends.size() != devices.size() || devices.empty())
            throw GpuError("a sum over " + std::to_string(addends.size()) + " GPUs by a communicator of " +
                           std::to_string(devices.size()));
        for (std::size_t rank = 0; rank < devices.size(); ++rank) {
            if (emulation::device_of(*addends[rank].stream) != devices[rank])
                throw GpuError("a stream of another GPU than the communicator's");
            if (emulation::records(*addends[rank].stream)) throw GpuError("a sum cannot be recorded");
        }
        for (std::size_t i = 0; i < count; ++i) {
            T sum = addends[0].values[i];
            for (std::size_t rank = 1; rank < addends.size(); ++rank) sum += addends[rank].values[i];
            for (const Addend<T>& addend : addends) addend.values[i] = sum;
        }
    }
};

Communicator::Communicator(std::vector<unsigned> devices, const char*)
    : state_(new State{std::move(devices)}) {
    std::vector<unsigned> sorted = state_->devices;
    std::sort(sorted.begin(), sorted.end());
    if (sorted.empty() || sorted.back() >= device_count() ||
        std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
        throw GpuError("joining GPUs: one is not there, or named twice");
}
Communicator::~Communicator() = default;

void Communicator::sum(std::span<const Addend<float>> addends, std::size_t count) const {
    state_->sum(addends, count);
}
void Communicator::sum(std::span<const Addend<double>> addends, std::size_t count) const {
    state_->sum(addends, count);
}
void Communicator::abort() noexcept { state_->devices.clear(); }

}  // namespace fedllm::kernels::cuda
