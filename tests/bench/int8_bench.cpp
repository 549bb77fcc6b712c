// Integer products beside the same products in f32, in one run: bench_int8 [threads]. Rates are per second of
// processor time. of_vnni is the fraction of what vpdpbusd does in registers at that moment.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/base/philox.hpp"
#include "kernels/int8_matmul/op.hpp"
#include "kernels/matmul/op.hpp"
#include "tests/bench/dot_limits.hpp"
#include "tests/bench/machine_limits.hpp"

namespace fedllm::bench {
namespace {

using namespace kernels;

struct Shape {
    std::size_t m, k, n;
};
// Linear layers of a 135M-parameter SmolLM2 at 4 x 256 tokens, and of a 1B Llama.
const Shape kShapes[] = {{1024, 576, 576},  {1024, 576, 192},   {1024, 576, 1536},
                         {1024, 1536, 576}, {1024, 2048, 2048}, {1024, 2048, 8192}};

std::vector<float> random_floats(std::size_t count) {
    Rng rng(1, "bench");
    std::vector<float> values(count);
    for (float& value : values) value = rng.uniform(-1.0f, 1.0f);
    return values;
}

// Operations per core second over at least 0.4 seconds.
template <class Work>
double rate(double operations, Work&& work) {
    work();
    double done = 0;
    const double start = core_seconds();
    do {
        work();
        done += operations;
    } while (core_seconds() - start < 0.4);
    return done / (core_seconds() - start);
}

void time_shape(ThreadPool& pool, const Shape& s) {
    const auto x = random_floats(s.m * s.k), w = random_floats(s.n * s.k), dy = random_floats(s.m * s.n);
    std::vector<float> y(s.m * s.n), dx(s.m * s.k);
    const WeightView weight{w.data(), WeightType::F32, s.n, s.k};
    const Int8Weight packed = pack_int8(pool, weight);
    const double operations = 2.0 * static_cast<double>(s.m * s.k * s.n);
    const ConstMatrix x_view(x.data(), s.m, s.k), dy_view(dy.data(), s.m, s.n);
    const Matrix y_view(y.data(), s.m, s.n), dx_view(dx.data(), s.m, s.k);
    const double vnni = vnni_operations_per_core_second(pool);
    const double f32 = rate(operations, [&] { matmul_forward(pool, x_view, weight, y_view); });
    const double forward = rate(operations, [&] { int8_matmul_forward(pool, x_view, packed, y_view); });
    const double f32_back = rate(operations, [&] { matmul_backward_input(pool, dy_view, weight, dx_view); });
    const double backward =
        rate(operations, [&] { int8_matmul_backward_input(pool, dy_view, packed, dx_view); });
    std::printf(
        "%5zu x %5zu x %5zu  f32 %6.1f  int8 %6.1f (%.2f x, of_vnni %.2f)   dX: f32 %6.1f  int8 %6.1f (%.2f "
        "x)\n",
        s.m, s.k, s.n, f32 * 1e-9, forward * 1e-9, forward / f32, vnni > 0 ? forward / vnni : 0.0,
        f32_back * 1e-9, backward * 1e-9, backward / f32_back);
}

}  // namespace
}  // namespace fedllm::bench

int main(int argc, char** argv) {
    using namespace fedllm;
    kernels::ThreadPool pool(argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 0u);
    std::printf("%u threads; GOP or GFLOP per core second; fma %.1f, vpdpbusd %.1f\n", pool.threads(),
                bench::fma_flops_per_core_second(pool) * 1e-9,
                bench::vnni_operations_per_core_second(pool) * 1e-9);
    for (const auto& shape : bench::kShapes) bench::time_shape(pool, shape);
}
