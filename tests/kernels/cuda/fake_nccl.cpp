// NCCL's functions as far as kernels/cuda/communicator.cpp calls them, over the host's memory.
#include <cstddef>
#include <cstring>
#include <vector>

struct ncclComm {
    int rank, ranks;
};

namespace {

constexpr int kSuccess = 0, kInvalidArgument = 4, kInvalidUsage = 5;
struct Call {
    const void* from;
    void* to;
    std::size_t count;
    int type;
    ncclComm* comm;
};
int depth = 0;
std::vector<Call> calls;

template <class T>
void add_up() {
    for (std::size_t i = 0; i < calls.front().count; ++i) {
        T sum{};
        for (const Call& call : calls) sum += static_cast<const T*>(call.from)[i];
        for (const Call& call : calls) static_cast<T*>(call.to)[i] = sum;
    }
}

}  // namespace

extern "C" {

const char* ncclGetErrorString(int status) {
    return status == kInvalidArgument ? "invalid argument" : "invalid usage";
}
int ncclCommInitAll(ncclComm** comms, int count, const int* devices) {
    for (int i = 1; i < count; ++i) {
        if (devices[i] == devices[i - 1]) return kInvalidArgument;
    }
    for (int i = 0; i < count; ++i) comms[i] = new ncclComm{i, count};
    return kSuccess;
}
int ncclCommDestroy(ncclComm* comm) {
    delete comm;
    return kSuccess;
}
int ncclCommAbort(ncclComm* comm) { return ncclCommDestroy(comm); }
int ncclGroupStart() {
    ++depth;
    return kSuccess;
}
int ncclAllReduce(const void* from, void* to, std::size_t count, int type, int operation, ncclComm* comm,
                  void* stream) {
    if (depth != 1 || operation != 0 || stream == nullptr) return kInvalidUsage;
    calls.push_back({from, to, count, type, comm});
    return kSuccess;
}
int ncclGroupEnd() {
    bool whole =
        --depth == 0 && !calls.empty() && calls.front().comm->ranks == static_cast<int>(calls.size());
    for (std::size_t rank = 0; whole && rank < calls.size(); ++rank)
        whole = calls[rank].comm->rank == static_cast<int>(rank) && calls[rank].type == calls[0].type;
    const bool known = whole && (calls[0].type == 7 || calls[0].type == 8);
    if (known) calls[0].type == 7 ? add_up<float>() : add_up<double>();
    calls.clear();
    return known ? kSuccess : kInvalidUsage;
}

}  // extern "C"
