// A block of a CUDA kernel on the CPU: its threads are fibers, and between two points where they meet
// (barriers, warp functions) they run in an order drawn from a seed. So a missing barrier, a wrong index or a
// read of what nobody wrote shows in a test, above all under AddressSanitizer.
//
// Blocks of a grid run one after the other, in drawn order too. FEDLLM_EMULATION_SEED chooses the seed.
// Limits: warp functions take the full mask; a thread that ends while others wait for it is an error that
// names kernel, block and thread.
#pragma once

#include <cstddef>
#include <functional>

namespace fedllm::kernels::cuda {
class Stream;
}

namespace fedllm::kernels::cuda::emulation {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

// What a running thread of the emulated GPU knows of itself.
struct Thread {
    Index thread_index, block_index, block_dim, grid_dim;
    unsigned char* shared = nullptr;
};
Thread& thread();

// Runs `body` for every thread of every block.
void run(Index grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& body);

// Runs now, or becomes part of the graph that the stream records.
void enqueue(const Stream& stream, std::function<void()> work);
bool records(const Stream& stream);  // a graph, now
unsigned device_of(const Stream& stream);

// Where `count` threads of a block meet: barrier 0 is __syncthreads().
void barrier(unsigned id = 0, unsigned count = 0);  // count 0: the whole block

// Where the `size` (32, 128) neighbours of a thread meet to do something together: the last to come does it
// for all, given what each brought, by rank in the group.
void meet(unsigned size, void* brought, void (*together)(void* const* all));

}  // namespace fedllm::kernels::cuda::emulation
