#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "common/base/philox.hpp"
#include "common/codec/codec.hpp"
#include "tests/fuzz/codec/layouts.hpp"
#include "tests/fuzz/corpus.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fedllm {
namespace {

void run(const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

std::string seed(codec::CodecId id, unsigned choice) {
    const codec::Layout layout = fuzz::codec_layout(choice);
    std::vector<float> values(layout.elements);
    Rng rng(2, "seed");
    for (float& value : values) value = rng.normal() * rng.uniform();
    const codec::Spec spec{.id = id, .step = 0.7, .density = 0.1};
    const auto bytes = codec::encode(spec, layout, values, 1).value();
    std::string input(1, static_cast<char>(0x80u | choice << 3 | static_cast<unsigned>(id)));
    input.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return input;
}

// Flips, telling values, pieces removed or doubled: mostly near the front, where the structure is.
std::string mutate(std::string bytes, Rng& rng) {
    constexpr unsigned char kTelling[] = {0x00, 0x01, 0x7F, 0x80, 0xFF};
    const auto times = 1 + rng.below(3);
    for (std::uint64_t i = 0; i < times && !bytes.empty(); ++i) {
        const std::uint64_t reach =
            rng.below(2) == 0 ? std::min<std::uint64_t>(80, bytes.size()) : bytes.size();
        const auto at = static_cast<std::size_t>(rng.below(reach));
        const auto count =
            static_cast<std::size_t>(rng.below(std::min<std::size_t>(9, bytes.size() - at + 1)));
        switch (rng.below(5)) {
            case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8))); break;
            case 1: bytes[at] = static_cast<char>(kTelling[rng.below(std::size(kTelling))]); break;
            case 2: bytes.erase(at, count); break;
            case 3: bytes.insert(at, bytes.substr(at, count)); break;
            default: bytes.resize(at + 1); break;
        }
    }
    return bytes;
}

TEST(CodecFuzz, SeedsAndTheirMutationsNeverCrash) {
    Rng rng(1, "fuzz/codec");
    run("");
    for (unsigned id = 0; id < 7; ++id) {
        for (unsigned choice = 0; choice < 4; ++choice) {
            const std::string input = seed(static_cast<codec::CodecId>(id), choice);
            run(input);
            const int times = choice == 2 ? 60 : 3000;
            for (int i = 0; i < times; ++i) run(mutate(input, rng));
        }
    }
}

TEST(CodecFuzz, TheCorpusNeverCrashes) {
    for (const std::string& seed : fuzz::corpus("codec")) run(seed);
}

}  // namespace
}  // namespace fedllm
