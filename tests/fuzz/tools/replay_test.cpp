#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/base/philox.hpp"
#include "tests/fuzz/corpus.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fedllm {
namespace {

void run(const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

std::vector<std::string> seeds(char kind) {
    const std::string sha1(40, 'a');
    switch (kind) {
        case 0:
            return {R"({"sha": ")" + sha1 +
                    R"(", "siblings": [{"rfilename": "a/../b.json", "size": 3, "blobId": ")" + sha1 +
                    R"("}, {"rfilename": "w.safetensors", "size": 9, "lfs": {"sha256": ")" +
                    std::string(64, 'b') + R"(", "size": 9}}]})"};
        case 1:
            return {
                "{\"question\": \"a\", \"choices\": [\"x\", \"y\"], \"answer\": 1}\n"
                "{\"question\": \"b\", \"choices\": {\"text\": [\"x\", \"y\"], \"label\": [\"A\", \"B\"]}, "
                "\"answerKey\": \"B\"}\n",
                R"([{"instruction": "Answer format: a/b/c", "input": "", "answer": "b"}])"};
        case 2: return {"Q,a,b,\"c, \"\"d\"\"\nline\",D\r\nR,1,2,3,4,A\n"};
        default:
            return {
                R"j({"q_proj": 4, "layers\\.[0-9]+\\.(self_attn|mlp)\\..*proj": 8, "^model.*(a{2,3}|b)?$": 2})j"};
    }
}

std::string mutate(std::string bytes, Rng& rng) {
    constexpr std::string_view kTelling("0123456789-.,:[]{}()*+?|^$\"\\/ \n\0\xff", 33);
    for (std::uint64_t times = 1 + rng.below(4); times > 0 && !bytes.empty(); --times) {
        const auto at = static_cast<std::size_t>(rng.below(bytes.size()));
        const auto count = static_cast<std::size_t>(rng.below(bytes.size() - at + 1));
        switch (rng.below(4)) {
            case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8))); break;
            case 1: bytes[at] = kTelling[static_cast<std::size_t>(rng.below(kTelling.size()))]; break;
            case 2: bytes.erase(at, count); break;
            default: bytes.insert(at, bytes.substr(at, count)); break;
        }
    }
    return bytes;
}

TEST(ToolsFuzz, SeedsAndTheirMutationsNeverCrash) {
    Rng rng(1, "fuzz/tools");
    for (const char kind : {0, 1, 2, 3}) {
        for (const std::string& seed : seeds(kind)) {
            run(kind + seed);
            for (int i = 0; i < 3000; ++i) run(kind + mutate(seed, rng));
        }
    }
}

TEST(ToolsFuzz, TheCorpusNeverCrashes) {
    for (const std::string& seed : fuzz::corpus("tools")) run(seed);
}

}  // namespace
}  // namespace fedllm
