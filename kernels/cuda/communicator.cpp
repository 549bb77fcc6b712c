#include "kernels/cuda/communicator.hpp"

#include <dlfcn.h>

#include <string>
#include <utility>

namespace fedllm::kernels::cuda {
namespace {

// NCCL's interface, version 2, which is stable; of its enumerations what is used. The library stays loaded:
// it is not made to be unloaded.
using Comm = struct ncclComm*;
constexpr int kSuccess = 0;
constexpr int kSum = 0;
constexpr int kFloat32 = 7, kFloat64 = 8;

struct Nccl {
    void* library = nullptr;
    const char* (*error_text)(int) = nullptr;
    int (*start)(Comm*, int count, const int* devices) = nullptr;
    int (*stop)(Comm) = nullptr;
    int (*abort)(Comm) = nullptr;
    int (*group_start)() = nullptr;
    int (*group_end)() = nullptr;
    int (*all_reduce)(const void* from, void* to, std::size_t count, int type, int operation, Comm,
                      void* stream) = nullptr;

    explicit Nccl(const char* name) : library(::dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
        if (library == nullptr) {
            throw GpuError(std::string(name) +
                           " is not here: several GPUs need NVIDIA's NCCL 2 (package libnccl2), built for "
                           "the driver's CUDA");
        }
        if (!bind()) throw GpuError(std::string(name) + " is too old; NCCL from 2.4 on is used");
    }

    void check(int status, const char* doing) const {
        if (status != kSuccess) throw GpuError(std::string(doing) + ": " + error_text(status) + " (NCCL)");
    }

private:
    template <class F>
    bool find(const char* name, F& function) {
        function = reinterpret_cast<F>(::dlsym(library, name));
        return function != nullptr;
    }
    bool bind() {
        return find("ncclGetErrorString", error_text) && find("ncclCommInitAll", start) &&
               find("ncclCommDestroy", stop) && find("ncclCommAbort", abort) &&
               find("ncclGroupStart", group_start) && find("ncclGroupEnd", group_end) &&
               find("ncclAllReduce", all_reduce);
    }
};

}  // namespace

struct Communicator::State {
    Nccl nccl;
    std::vector<Comm> ranks{};  // none once aborted

    template <class T>
    void sum(std::span<const Addend<T>> addends, std::size_t count, int type) const {
        if (addends.size() != ranks.size() || ranks.empty())
            throw GpuError("a sum over " + std::to_string(addends.size()) + " GPUs by a communicator of " +
                           std::to_string(ranks.size()));
        nccl.check(nccl.group_start(), "summing over GPUs");
        int status = kSuccess;
        for (std::size_t rank = 0; rank < ranks.size() && status == kSuccess; ++rank) {
            T* const values = addends[rank].values;
            status = nccl.all_reduce(values, values, count, type, kSum, ranks[rank],
                                     addends[rank].stream->handle());
        }
        const int ended = nccl.group_end();  // whatever happened
        nccl.check(status != kSuccess ? status : ended, "summing over GPUs");
    }
    void leave(int (*by)(Comm)) noexcept {
        for (const Comm rank : ranks) by(rank);
        ranks.clear();
    }
};

Communicator::Communicator(std::vector<unsigned> devices, const char* library)
    : state_(new State{Nccl(library)}) {
    const std::vector<int> list(devices.begin(), devices.end());
    std::vector<Comm> ranks(list.size());
    state_->nccl.check(state_->nccl.start(ranks.data(), static_cast<int>(list.size()), list.data()),
                       "joining GPUs");
    state_->ranks = std::move(ranks);
}
Communicator::~Communicator() { state_->leave(state_->nccl.stop); }

void Communicator::sum(std::span<const Addend<float>> addends, std::size_t count) const {
    state_->sum(addends, count, kFloat32);
}
void Communicator::sum(std::span<const Addend<double>> addends, std::size_t count) const {
    state_->sum(addends, count, kFloat64);
}
void Communicator::abort() noexcept { state_->leave(state_->nccl.abort); }

}  // namespace fedllm::kernels::cuda
