#include "tools/local/multiple_choice.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "client/train/evaluator.hpp"

namespace fedllm::tools::local {
namespace {

using client::data::ChoiceQuestion;
using client::data::Example;
using client::data::kIgnoreIndex;
using client::data::Tokenizer;

std::string solved(std::span<const ChoiceQuestion> examples) {
    std::string text;
    for (const ChoiceQuestion& example : examples) {
        text += example.prompt + example.delimiter + example.choices[example.answer] + "\n\n";
    }
    return text;
}

// The tokens of prompt and choice, of which only the choice's count.
Example scored(const Tokenizer& tokenizer, const std::string& prompt, std::size_t prompt_tokens,
               const std::string& rest, std::size_t context) {
    std::vector<std::int32_t> ids = tokenizer.encode(prompt + rest);
    if (ids.empty()) return {};
    std::size_t read = std::min(prompt_tokens, ids.size() - 1);  // merges may leave nothing beyond the prompt
    if (tokenizer.bos()) {
        ids.insert(ids.begin(), *tokenizer.bos());
        ++read;
    }
    if (ids.size() > context + 1) {
        const std::size_t dropped = ids.size() - context - 1;
        ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(dropped));
        read -= std::min(read, dropped);
    }
    read = std::max<std::size_t>(read, 1);  // the first token has nothing that predicts it
    Example example;
    example.tokens.assign(ids.begin(), ids.end() - 1);
    example.targets.assign(ids.begin() + 1, ids.end());
    std::fill_n(example.targets.begin(), read - 1, kIgnoreIndex);
    return example;
}

Result<std::vector<Example>> examples_of(const Workspace& workspace,
                                         std::span<const ChoiceQuestion> questions,
                                         const std::string& before) {
    const Tokenizer& tokenizer = workspace.tokenizer();
    const std::size_t context = workspace.model().config().context;
    std::vector<Example> all;
    for (const ChoiceQuestion& question : questions) {
        const std::string prompt = before + question.prompt;
        const std::size_t prompt_tokens = tokenizer.encode(prompt).size();
        for (const std::string& choice : question.choices) {
            all.push_back(scored(tokenizer, prompt, prompt_tokens, question.delimiter + choice, context));
            if (!all.back().tokens.empty()) continue;
            return make_error(Errc::InvalidData, "the tokenizer makes a single token of '" + prompt +
                                                     "' and '" + choice + "': there is nothing to score");
        }
    }
    return all;
}

// The index of the largest; the first of equal ones.
std::size_t best(std::span<const double> scores) {
    return static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

}  // namespace

double ChoiceOutcome::standard_error() const {
    if (questions < 2) return 0.0;
    return std::sqrt(accuracy() * (1 - accuracy()) / static_cast<double>(questions - 1));
}

Result<ChoiceOutcome> answer_choices(Workspace& workspace, const Trainable& what,
                                     std::span<const ChoiceQuestion> questions,
                                     std::span<const ChoiceQuestion> examples) {
    FEDLLM_TRY(const auto texts, examples_of(workspace, questions, solved(examples)));
    std::size_t longest = 1;
    for (const Example& text : texts) longest = std::max(longest, text.tokens.size());
    FEDLLM_TRY(auto evaluator, client::train::Evaluator::create(workspace.model(), what.params.manifest(),
                                                                what.lora, longest, workspace.pool()));
    FEDLLM_TRY(const auto sums, evaluator.log_likelihoods(what.params, texts));
    ChoiceOutcome outcome;
    outcome.questions = questions.size();
    std::span<const double> rest = sums;
    for (const ChoiceQuestion& question : questions) {
        const auto scores = rest.first(question.choices.size());
        rest = rest.subspan(scores.size());
        std::vector<double> normalised;
        for (std::size_t i = 0; i < scores.size(); ++i) {
            normalised.push_back(scores[i] / static_cast<double>(question.choices[i].size()));
        }
        outcome.correct += best(scores) == question.answer;
        outcome.correct_normalised += best(normalised) == question.answer;
        outcome.log_likelihoods.emplace_back(scores.begin(), scores.end());
    }
    return outcome;
}

}  // namespace fedllm::tools::local
