// Real tokenizers against the reference ids in the shared assets.
#include <sstream>

#include "client/data/normalizer.hpp"
#include "tests/client/data/support.hpp"

namespace fedllm::client::data {
namespace {

using testing::assets;

std::vector<std::string> read_cases(const Path& path) {
    const std::string text = read_file(path).value();
    const std::string separator = "\n__ggml_vocab_test__\n";
    std::vector<std::string> cases;
    std::size_t begin = 0;
    for (auto end = text.find(separator); end != std::string::npos; end = text.find(separator, begin)) {
        cases.push_back(text.substr(begin, end - begin));
        begin = end + separator.size();
    }
    if (begin < text.size()) cases.push_back(text.substr(begin));
    return cases;
}

std::vector<std::vector<std::int32_t>> read_ids(const Path& path) {
    std::istringstream lines(read_file(path).value());
    std::vector<std::vector<std::int32_t>> all;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream numbers(line);
        all.emplace_back();
        for (std::int32_t id = 0; numbers >> id;) all.back().push_back(id);
    }
    return all;
}

void expect_vectors(const Tokenizer& tokenizer, const std::string& name) {
    const Path stem = assets() / "tokenizers" / "vectors" / ("ggml-vocab-" + name + ".gguf");
    const auto cases = read_cases(stem.string() + ".inp");
    const auto ids = read_ids(stem.string() + ".out");
    ASSERT_EQ(cases.size(), ids.size());
    ASSERT_GT(cases.size(), 40u);
    for (std::size_t i = 0; i < cases.size(); ++i) EXPECT_EQ(tokenizer.encode(cases[i]), ids[i]) << cases[i];
}

// The tokenizer.json that a vocabulary and a list of merges make together with a known split expression.
Tokenizer assemble(const Path& vocabulary, const Path& merges, const std::string& regex, bool nfc,
                   bool ignore_merges) {
    nlohmann::json list = nlohmann::json::array();
    std::istringstream lines(read_file(merges).value());
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty() && !line.starts_with("#version")) list.push_back(line);
    }
    const nlohmann::json split{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
    const nlohmann::json bytes{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
    const nlohmann::json json{{"normalizer", nfc ? nlohmann::json{{"type", "NFC"}} : nlohmann::json()},
                              {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
                              {"decoder", bytes},
                              {"model",
                               {{"type", "BPE"},
                                {"ignore_merges", ignore_merges},
                                {"vocab", nlohmann::json::parse(read_file(vocabulary).value())},
                                {"merges", list}}}};
    return Tokenizer::parse(json.dump()).value();
}

class TokenizerAssets : public ::testing::Test {
protected:
    void SetUp() override {
        if (!std::filesystem::exists(assets() / "tokenizers")) {
            GTEST_SKIP() << "no shared assets at " << assets() << "; set FEDLLM_ASSETS to run this";
        }
    }
};

TEST_F(TokenizerAssets, Gpt2) {
    expect_vectors(Tokenizer::load(assets() / "tokenizers/gpt2/tokenizer.json").value(), "gpt-2");
}

TEST_F(TokenizerAssets, SmolLm2) {
    expect_vectors(Tokenizer::load(assets() / "tokenizers/smollm2/tokenizer.json").value(), "smollm");
}

TEST_F(TokenizerAssets, Llama2) {
    const auto tokenizer = Tokenizer::load(assets() / "tokenizers/llama2/tokenizer.json").value();
    expect_vectors(tokenizer, "llama-spm");
    EXPECT_EQ(tokenizer.bos(), 1);
    EXPECT_EQ(tokenizer.vocab_size(), 32000u);
    EXPECT_EQ(tokenizer.encode("Hello", AddSpecial::Yes), (std::vector<std::int32_t>{1, 15043}));
    EXPECT_EQ(tokenizer.decode(tokenizer.encode("Hello, 🦙 world", AddSpecial::Yes)), "Hello, 🦙 world");
}

constexpr const char* kTail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kHead = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";

TEST_F(TokenizerAssets, Llama3) {
    const Path folder = assets() / "tokenizers/llama3";
    const std::string regex = std::string(kHead) + R"(\p{N}{1,3})" + kTail;
    expect_vectors(assemble(folder / "encoder.json", folder / "merges.txt", regex, false, true), "llama-bpe");
}

TEST_F(TokenizerAssets, Qwen2) {
    const Path folder = assets() / "tokenizers/qwen2.5";
    const std::string regex = std::string(kHead) + R"(\p{N})" + kTail;
    expect_vectors(assemble(folder / "vocab.json", folder / "merges.txt", regex, true, false), "qwen2");
}

// The prompts of the small trained models, BOS and merges across spaces included.
TEST_F(TokenizerAssets, SmallModels) {
    const auto reference =
        nlohmann::json::parse(read_file(assets() / "models/reference_outputs_f64.json").value());
    std::size_t checked = 0;
    for (const std::string name : {"tinystories-656k", "stories260K", "babyllama-tok105"}) {
        const auto tokenizer = Tokenizer::load_folder(assets() / "models" / name).value();
        EXPECT_EQ(tokenizer.bos(), 1) << name;
        EXPECT_EQ(tokenizer.eos(), 2) << name;
        for (const auto& one : reference.at(name).at("cases")) {
            EXPECT_EQ(tokenizer.encode(one.at("prompt").get<std::string>(), AddSpecial::Yes),
                      one.at("ids").get<std::vector<std::int32_t>>());
            // The reference spells newlines as tokens and keeps the space that the first word begins with.
            const auto text = replace_all(one.at("greedy_text").get<std::string>(), "<0x0A>", "\n");
            EXPECT_EQ(tokenizer.decode(one.at("greedy_ids").get<std::vector<std::int32_t>>()),
                      text.substr(text.starts_with(' ') ? 1 : 0));
            ++checked;
        }
    }
    EXPECT_GT(checked, 0u);
}

}  // namespace
}  // namespace fedllm::client::data
