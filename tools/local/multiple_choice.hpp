// Multiple choice by likelihood: the answer is the choice that the model finds likeliest, as
// lm-evaluation-harness scores it.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "client/data/choices.hpp"
#include "tools/local/workspace.hpp"

namespace fedllm::tools::local {

struct ChoiceOutcome {
    std::size_t questions = 0;
    std::size_t correct = 0;                           // by the sum of log p over a choice's tokens (acc)
    std::size_t correct_normalised = 0;                // by that sum over the choice's bytes (acc_norm)
    std::vector<std::vector<double>> log_likelihoods;  // per question and choice, in nats

    double accuracy() const { return share(correct); }
    double accuracy_normalised() const { return share(correct_normalised); }
    double standard_error() const;  // of accuracy()

private:
    double share(std::size_t part) const {
        return questions == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(questions);
    }
};

// Prompt, delimiter and choice are tokenized as one text; what goes beyond the tokens of the prompt alone is
// scored. BOS comes first where the model has one. Texts longer than the model's context lose their
// beginning. `examples` are solved ones that stand before each question, a blank line between. Of two choices
// that score the same, the first is taken.
Result<ChoiceOutcome> answer_choices(Workspace& workspace, const Trainable& what,
                                     std::span<const client::data::ChoiceQuestion> questions,
                                     std::span<const client::data::ChoiceQuestion> examples);

}  // namespace fedllm::tools::local
