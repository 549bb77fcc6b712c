#include <gtest/gtest.h>

#include "common/base/philox.hpp"
#include "tests/fuzz/corpus.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fedllm {
namespace {

void run(const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

std::string mutate(std::string text, Rng& rng) {
    constexpr std::string_view kTelling("0123456789-.,:[]{}&*!|>'\"# \n\t\0\xff", 34);
    for (std::uint64_t times = 1 + rng.below(4); times > 0 && !text.empty(); --times) {
        const auto at = static_cast<std::size_t>(rng.below(text.size()));
        const auto count = static_cast<std::size_t>(rng.below(text.size() - at + 1));
        switch (rng.below(4)) {
            case 0: text[at] = static_cast<char>(text[at] ^ (1 << rng.below(8))); break;
            case 1: text[at] = kTelling[static_cast<std::size_t>(rng.below(kTelling.size()))]; break;
            case 2: text.erase(at, count); break;
            default: text.insert(at, text.substr(at, count)); break;
        }
    }
    return text;
}

TEST(JobFuzz, TheCorpusAndItsMutationsNeverCrash) {
    Rng rng(1, "fuzz/job");
    for (const std::string& seed : fuzz::corpus("job")) {
        run(seed);
        for (int i = 0; i < 100; ++i) run(mutate(seed, rng));
    }
}

}  // namespace
}  // namespace fedllm
