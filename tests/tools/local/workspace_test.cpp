#include <cmath>
#include <filesystem>

#include "client/model/base_model.hpp"
#include "tests/client/data/support.hpp"
#include "tests/client/engine/tiny_model.hpp"
#include "tests/support/temp_dir.hpp"
#include "tools/local/end_tokens.hpp"
#include "tools/local/multiple_choice.hpp"
#include "tools/local/workspace.hpp"

namespace fedllm::tools::local {
namespace {

using namespace client::engine::testing;
using client::data::ChoiceQuestion;

// Ids are bytes, as in byte_tokenizer_json(); each decodes to a character of its own, whatever follows.
nlohmann::json character_tokenizer_json() {
    auto json = client::data::testing::byte_tokenizer_json();
    nlohmann::json vocabulary;
    for (int byte = 0; byte < 256; ++byte) {
        const char high[]{static_cast<char>(0xC4 + (byte & 1)), static_cast<char>(0x80 + (byte - 128) / 2),
                          0};
        const char low[]{static_cast<char>(byte), 0};
        vocabulary[byte == 0 ? std::string(1, '\0') : byte < 128 ? low : high] = byte;
    }
    json["model"]["vocab"] = vocabulary;
    json["model"]["byte_fallback"] = false;
    json["decoder"] = {{"type", "Fuse"}};
    return json;
}

// A random model with that tokenizer.
class LocalWorkspace : public ::testing::Test {
protected:
    void SetUp() override {
        client::model::write_model_folder(folder.path(), config, random_full(config, 8),
                                          client::model::WeightsFormat::F32)
            .value();
        write_file_atomically(folder.path() / "tokenizer.json", character_tokenizer_json().dump()).value();
        workspace = Workspace::open(folder.path(), 2).value();
    }
    // log p of every byte of `text` after the first `from`, by one row of the engine.
    double log_likelihood(const std::string& text, std::size_t from) {
        std::vector<std::int32_t> ids{client::data::testing::kBos};
        for (const std::int32_t id : client::data::testing::bytes_of(text)) ids.push_back(id);
        OwnedBatch batch{1, ids.size() - 1, {ids.begin(), ids.end() - 1}, {ids.begin() + 1, ids.end()}, {},
                         {}};
        for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
            if (t < from) batch.targets[t] = kernels::kIgnoreIndex;
            batch.positions.push_back(static_cast<std::int32_t>(t));
            batch.first_key.push_back(0);
        }
        auto network = client::engine::Network::create(config, workspace->model().weights(), {}).value();
        auto transformer = client::engine::Transformer::create(workspace->pool(), network, {1, 64}).value();
        return -transformer.forward_loss(batch.view(), {}).value().loss_sum;
    }

    test::TempDir folder;
    client::model::ModelConfig config = tiny_config();
    std::unique_ptr<Workspace> workspace;
};

TEST_F(LocalWorkspace, ChoicesScoreAsTheEngineSays) {
    const std::vector<ChoiceQuestion> questions{{"Q: a?", " ", {"yes", "no", "perhaps"}, 1},
                                                {"Q: b?\n", "", {"x", "zz"}, 0}};
    const auto outcome = answer_choices(*workspace, {}, questions, {}).value();
    ASSERT_EQ(outcome.questions, 2U);
    std::size_t correct = 0;
    std::size_t correct_normalised = 0;
    for (std::size_t q = 0; q < 2; ++q) {
        const auto& question = questions[q];
        std::size_t best = 0;
        std::size_t best_normalised = 0;
        std::vector<double> scores;
        for (const auto& choice : question.choices) {
            const std::string text = question.prompt + question.delimiter + choice;
            scores.push_back(log_likelihood(text, question.prompt.size()));
            const std::size_t i = scores.size() - 1;
            EXPECT_NEAR(outcome.log_likelihoods[q][i], scores[i], 1e-4);
            const auto normal = [&](std::size_t k) {
                return scores[k] / static_cast<double>(question.choices[k].size());
            };
            if (scores[i] > scores[best]) best = i;
            if (normal(i) > normal(best_normalised)) best_normalised = i;
        }
        correct += best == question.answer;
        correct_normalised += best_normalised == question.answer;
    }
    EXPECT_EQ(outcome.correct, correct);
    EXPECT_EQ(outcome.correct_normalised, correct_normalised);
}

TEST_F(LocalWorkspace, SolvedExamplesComeFirst) {
    const std::vector<ChoiceQuestion> shots{{"Q: one?", " ", {"a", "b"}, 1}};
    const std::vector<ChoiceQuestion> questions{{"Q: two?", " ", {"c", "d"}, 0}};
    const auto outcome = answer_choices(*workspace, {}, questions, shots).value();
    const std::string before = "Q: one? b\n\nQ: two?";
    EXPECT_NEAR(outcome.log_likelihoods[0][0], log_likelihood(before + " c", before.size()), 1e-4);
}

TEST_F(LocalWorkspace, TextsBeyondTheContextLoseTheirBeginning) {
    const std::string prompt(200, 'p');
    const std::vector<ChoiceQuestion> questions{{prompt, " ", {"yes", "no"}, 0}};
    const auto outcome = answer_choices(*workspace, {}, questions, {}).value();
    for (const double score : outcome.log_likelihoods[0]) EXPECT_TRUE(std::isfinite(score) && score < 0);
    const std::vector<ChoiceQuestion> absurd{{"p", " ", {std::string(300, 'x'), "no"}, 0}};
    EXPECT_TRUE(answer_choices(*workspace, {}, absurd, {}));
}

TEST_F(LocalWorkspace, GenerationEndsAtStopStringsEndTokensAndLength) {
    client::train::GenerateOptions options{.new_tokens_max = 30, .stop = {}};
    const Generated whole = workspace->generate({}, "abc", options).value();
    EXPECT_EQ(whole.ended, "length");
    EXPECT_EQ(whole.tokens, 30U);
    std::string streamed;
    const auto watch = [&](std::string_view piece) { streamed += piece; };
    ASSERT_GT(whole.text.size(), 6U);
    const Generated cut = workspace->generate({}, "abc", options, {whole.text.substr(4, 2)}, watch).value();
    EXPECT_EQ(cut.ended, "stop");
    EXPECT_EQ(cut.text, whole.text.substr(0, whole.text.find(whole.text.substr(4, 2))));
    EXPECT_EQ(streamed, cut.text);
    EXPECT_LT(cut.tokens, 30U);
    // The first drawn token as an end token of generation_config.json.
    client::train::GenerateOptions one{.new_tokens_max = 1, .stop = {}};
    std::int32_t first = -1;
    for (std::int32_t id = 0; id < 258 && first < 0; ++id) {
        one.stop = {id};
        if (workspace->generate({}, "abc", one)->tokens == 0) first = id;
    }
    write_file_atomically(folder.path() / "generation_config.json",
                          R"({"eos_token_id": [5, )" + std::to_string(first) + "]}")
        .value();
    workspace = Workspace::open(folder.path(), 1).value();
    const Generated ended = workspace->generate({}, "abc", options).value();
    EXPECT_EQ(ended.ended, "eos");
    EXPECT_EQ(ended.text, "");
}

TEST_F(LocalWorkspace, EndTokensAreThoseOfBothFiles) {
    write_file_atomically(folder.path() / "config.json", R"({"eos_token_id": 7})").value();
    write_file_atomically(folder.path() / "generation_config.json", R"({"eos_token_id": [9, 7]})").value();
    EXPECT_EQ(end_tokens(folder.path(), 10).value(), (std::vector<std::int32_t>{7, 9}));
    const auto refused = end_tokens(folder.path(), 9);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("generation_config.json"), std::string::npos);
    for (const char* bad :
         {R"({"eos_token_id": "a"})", R"({"eos_token_id": -1})", R"({"eos_token_id": [[1]]})"}) {
        write_file_atomically(folder.path() / "generation_config.json", std::string_view(bad)).value();
        EXPECT_EQ(end_tokens(folder.path(), 10).error().code, Errc::InvalidModel) << bad;
    }
}

}  // namespace
}  // namespace fedllm::tools::local
