// The exact sum against this machine's memory: bench_sum [MILLIONS_OF_VALUES]. Each update's values come from
// memory and go into the sum; what that moves (a value read, a sum read and written: 20 bytes, or 12 with
// 32-bit sums) is printed as a fraction of what copying moves in the same processor time. The issue asks for
// 0.60.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "common/base/philox.hpp"
#include "server/aggregate/accumulator.hpp"
#include "tests/bench/machine_limits.hpp"

namespace fedllm::bench {
namespace {

using server::aggregate::Accumulator;
using tensor::FixedPoint;
using tensor::SumBits;

constexpr std::size_t kSliceValues = 4096;  // as codec::Decoder hands them over

// Bytes moved per second of processor time, over at least half a second.
double rate(Accumulator& sum, std::span<const float> values, double bytes_per_value,
            kernels::ThreadPool& pool) {
    const std::size_t slices = (values.size() + kSliceValues - 1) / kSliceValues;
    const auto add_all = [&] {
        pool.parallel_for(pool.threads(), [&](std::size_t part) {  // a client each, in its own range
            const std::size_t end = (part + 1) * slices / pool.threads();
            for (std::size_t i = part * slices / pool.threads(); i < end; ++i) {
                const std::size_t at = i * kSliceValues;
                sum.add(at, values.subspan(at, std::min(kSliceValues, values.size() - at)), 3);
            }
        });
    };
    add_all();
    double moved = 0;
    const double start = core_seconds();
    do {
        add_all();
        moved += bytes_per_value * static_cast<double>(values.size());
    } while (core_seconds() - start < 0.5);
    return moved / (core_seconds() - start);
}

void run(std::size_t elements) {
    std::vector<float> values(elements);
    Rng rng(1, "bench/sum");
    for (float& value : values) value = rng.uniform(-1.0f, 1.0f) * 1e-2f;
    std::printf("%zu values, %s\n", elements, instruction_set().c_str());
    for (const unsigned threads : {1u, 2u}) {
        kernels::ThreadPool pool(threads);
        for (const SumBits bits : {SumBits::Bits64, SumBits::Bits32}) {
            Accumulator sum(elements, *FixedPoint::choose(1.0, 48, bits), bits);
            const double copy = copy_bytes_per_core_second(pool);
            const double moved = rate(sum, values, bits == SumBits::Bits64 ? 20 : 12, pool);
            std::printf(
                "sum_bits %d, %u threads: accumulate %6.2f GB/s per core of %6.2f copied: fraction %.2f\n",
                static_cast<int>(bits), threads, moved * 1e-9, copy * 1e-9, moved / copy);
            std::fflush(stdout);
        }
    }
}

}  // namespace
}  // namespace fedllm::bench

int main(int argc, char** argv) {
    const double millions = argc > 1 ? std::atof(argv[1]) : 16;
    fedllm::bench::run(static_cast<std::size_t>(millions * 1e6));
    return 0;
}
