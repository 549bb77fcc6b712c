// ops_bench [--tiny] [PART_OF_NAME]: each CUDA operation over the shapes of Llama-3.1-8B and Llama-3.2-1B (4
// x 2048 tokens), its rates as shares of what the same GPU reached in the same run.
#include <cstdio>
#include <cstring>

#include "tests/bench/cuda/models.hpp"

int main(int argc, char** argv) {
    using namespace fedllm::bench;
    bool tiny = false;
    std::string filter;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--tiny") == 0)
            tiny = true;
        else
            filter = argv[i];
    }
    if (cuda::device_count() == 0) {
        std::printf("skipped: no GPU\n");
        return 77;
    }
    try {
        Meter meter(filter, tiny);
        meter.print_header();
        for (const Model& model : tiny ? std::vector{kTiny} : std::vector{kLlama8B, kLlama1B}) {
            measure_products(meter, model);
            measure_weights(meter, model);
            measure_rows(meter, model);
            measure_attention(meter, model);
            measure_training(meter, model);
        }
        return meter.failed() ? 1 : 0;
    } catch (const cuda::GpuError& error) {
        std::printf("FAILED: %s\n", error.what());
        return 1;
    }
}
