// Sums over GPUs: by the emulation, or (FEDLLM_NCCL) by communicator.cpp over fake_nccl.cpp, or over GPUs.
#include "kernels/cuda/communicator.hpp"

#include <cstdlib>

#include "tests/kernels/cuda/harness.hpp"

#ifndef FEDLLM_NCCL
#define FEDLLM_NCCL Communicator::kLibrary
#endif

namespace fedllm::kernels::cuda::cases {
namespace {

template <class Body>
void fails(Harness& harness, const char* what, const Body& body) {
    try {
        body();
        harness.check(false, std::string(what) + " does not fail");
    } catch (const GpuError& error) {
        std::printf("  %s\n", error.what());
    }
}

template <class T>
struct Rank {
    Stream stream;
    DeviceBuffer<T> buffer;
};

template <class T>
void sum_case(Harness& harness, const Communicator& communicator, std::size_t ranks, std::size_t count) {
    harness.begin("sum of " + std::to_string(count) + " values of " + std::to_string(sizeof(T)) + " bytes");
    std::vector<Rank<T>> all;
    std::vector<Addend<T>> addends;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
        use_device(static_cast<unsigned>(rank));
        Rank<T>& made = all.emplace_back();
        std::vector<T> host(count);
        for (std::size_t i = 0; i < count; ++i) host[i] = static_cast<T>(i * ranks + rank);
        made.buffer = to_device<T>(made.stream, host);
    }
    for (const Rank<T>& rank : all) addends.push_back({&rank.stream, rank.buffer.data()});
    communicator.sum(addends, count);
    for (std::size_t rank = 0; rank < ranks; ++rank) {
        use_device(static_cast<unsigned>(rank));
        const std::vector<T> got = to_host(all[rank].stream, all[rank].buffer.data(), count);
        bool right = true;  // small whole numbers: exact
        for (std::size_t i = 0; i < count; ++i)
            right = right && got[i] == static_cast<T>(i * ranks * ranks + ranks * (ranks - 1) / 2);
        harness.check(right, "the sum on GPU " + std::to_string(rank));
    }
    fails(harness, "a sum without one of the GPUs",
          [&] { communicator.sum(std::span<const Addend<T>>(addends).first(ranks - 1), count); });
}

void cases(Harness& harness) {
    harness.begin("refusals");
    const std::size_t ranks = device_count() < 3 ? device_count() : 3;
    if (ranks < 2) return static_cast<void>(std::printf("one GPU: nothing to sum\n"));
    fails(harness, "a GPU twice", [] { Communicator({0, 0}, FEDLLM_NCCL); });
    std::vector<unsigned> devices;
    for (unsigned device = 0; device < ranks; ++device) devices.push_back(device);
    Communicator communicator(devices, FEDLLM_NCCL);
    sum_case<float>(harness, communicator, ranks, 1001);
    sum_case<double>(harness, communicator, ranks, 1);
    harness.begin("abort");
    communicator.abort();
    fails(harness, "a sum afterwards", [&] { communicator.sum(std::span<const Addend<float>>(), 0); });
#ifdef FEDLLM_FAKE
    fails(harness, "a library that is missing", [] { Communicator({0, 1}, "libnone.so.2"); });
    fails(harness, "a library that is another", [] { Communicator({0, 1}, "libm.so.6"); });
#endif
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    setenv("FEDLLM_EMULATION_GPUS", "3", 1);
    return fedllm::kernels::cuda::cases::run(
        [](auto& harness) { fedllm::kernels::cuda::cases::cases(harness); });
}
