// Writes tests/golden/engine.txt, what CpuEngine makes of the scenarios; with --check compares with it
// instead.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string_view>

#include "client/engine/cpu_engine.hpp"
#include "tests/client/cuda_engine/outcome.hpp"

namespace {

using namespace fedllm::client::cuda_engine::cases;

constexpr const char* kFile = "tests/golden/engine.txt";
constexpr double kTolerance = 1e-4;  // f32 by another compiler or instruction set

std::map<std::string, Outcome> outcomes() {
    fedllm::kernels::ThreadPool pool(2);
    fedllm::client::engine::CpuBackend backend(pool);
    std::map<std::string, Outcome> all;
    for (const Scenario& scenario : scenarios()) {
        const Setting setting(scenario);
        const auto engine = backend.make(setting.network(), setting.limits(), setting.frozen()).value();
        all[scenario.name] = measure(*engine, setting);
    }
    return all;
}

bool same(const Outcome& a, const Outcome& b) {
    for (const auto& [name, numbers] : a) {
        const auto found = b.find(name);
        if (found == b.end() || found->second.size() != numbers.size()) return false;
        double size = 0, difference = 0;
        for (std::size_t i = 0; i < numbers.size(); ++i) {
            size = std::max(size, std::fabs(numbers[i]));
            difference = std::max(difference, std::fabs(numbers[i] - found->second[i]));
        }
        if (difference > kTolerance * size) {
            std::printf("%s differs by %g of %g\n", name.c_str(), difference, size);
            return false;
        }
    }
    return a.size() == b.size();
}

}  // namespace

int main(int argc, char** argv) {
    const auto fresh = outcomes();
    if (argc < 2 || std::string_view(argv[1]) != "--check") {
        std::ofstream out(kFile);
        write(out, fresh);
        return out.good() ? 0 : 1;
    }
    std::ifstream in(kFile);
    const auto stored = read(in);
    for (const auto& [name, outcome] : fresh) {
        const auto found = stored.find(name);
        if (found != stored.end() && same(outcome, found->second)) continue;
        std::printf("%s: %s is not what CpuEngine computes; run this program without --check\n", name.c_str(),
                    kFile);
        return 1;
    }
    return fresh.size() == stored.size() ? 0 : 1;
}
