#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/base/philox.hpp"
#include "tests/fuzz/corpus.hpp"
#include "tests/support/safetensors_bytes.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fedllm {
namespace {

using test::safetensors_bytes;

void run(const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

std::vector<std::string> seeds() {
    const std::string data(24, '\x3f');
    return {"", safetensors_bytes("{}", ""),
            safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})", data),
            safetensors_bytes(
                R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[4],"data_offsets":[8,16]},)"
                R"("a":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
                R"("c":{"dtype":"F16","shape":[0,9],"data_offsets":[16,16]},)"
                R"("d":{"dtype":"I64","shape":[1],"data_offsets":[16,24]}}   )",
                data),
            safetensors_bytes(~std::uint64_t{7}, "{}", data)};
}

// Flips, overwrites with telling values, removes or doubles a piece; the length field is often repaired so
// that the header is reached.
std::string mutate(std::string bytes, Rng& rng) {
    constexpr std::string_view kTelling("0123456789-.,:[]{}\"\\ \0\xff", 22);
    const auto times = 1 + rng.below(3);
    for (std::uint64_t i = 0; i < times && !bytes.empty(); ++i) {
        const auto at = static_cast<std::size_t>(rng.below(bytes.size()));
        const auto count = static_cast<std::size_t>(rng.below(bytes.size() - at + 1));
        switch (rng.below(4)) {
            case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8))); break;
            case 1: bytes[at] = kTelling[static_cast<std::size_t>(rng.below(kTelling.size()))]; break;
            case 2: bytes.erase(at, count); break;
            default: bytes.insert(at, bytes.substr(at, count)); break;
        }
    }
    const auto end = bytes.rfind('}');
    if (rng.below(2) == 0 && end != std::string::npos && end >= 8) {
        return safetensors_bytes(std::string_view(bytes).substr(8, end - 7),
                                 std::string_view(bytes).substr(end + 1));
    }
    return bytes;
}

TEST(SafetensorsFuzz, SeedsAndTheirMutationsNeverCrash) {
    Rng rng(1, "fuzz/safetensors");
    for (const std::string& seed : seeds()) {
        run(seed);
        for (int i = 0; i < 5000; ++i) run(mutate(seed, rng));
    }
}

TEST(SafetensorsFuzz, TheCorpusNeverCrashes) {
    for (const std::string& seed : fuzz::corpus("safetensors")) run(seed);
}

}  // namespace
}  // namespace fedllm
