// fedllm eval: loss and perplexity on texts, accuracy on multiple-choice questions.
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "client/data/choices.hpp"
#include "common/hub/cache.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/options.hpp"
#include "tools/cli/output.hpp"
#include "tools/local/multiple_choice.hpp"
#include "tools/local/workspace.hpp"

namespace fedllm::tools::cli {
namespace {

using client::data::ChoiceQuestion;
using client::data::ChoiceStyle;
using local::Trainable;
using local::Workspace;

struct EvalOptions {
    std::string model, adapter, choices;
    std::vector<std::string> data, few_shot;
    std::uint32_t sequence_length = 256;
    unsigned threads = 0;
    tensor::BaseSpec base;
    bool samples = false;
};

// -------------------------------------------------------------------------------------------------------------
// texts

Result<void> eval_texts(const EvalOptions& options, Workspace& workspace, const Trainable& what, bool json) {
    client::train::EvalOutcome all;
    std::vector<std::vector<std::string>> rows;
    Json files = Json::array();
    const auto add = [&](const std::string& name, const client::train::EvalOutcome& outcome) {
        rows.push_back({name, std::to_string(outcome.tokens), fixed(outcome.mean(), 4),
                        fixed(std::exp(outcome.mean()), 2)});
    };
    for (const std::string& file : options.data) {
        FEDLLM_TRY(const auto outcome, workspace.evaluate(what, file, options.sequence_length));
        add(file, outcome);
        files.push_back({{"data", file},
                         {"tokens", outcome.tokens},
                         {"loss", outcome.mean()},
                         {"perplexity", std::exp(outcome.mean())}});
        all.loss_sum += outcome.loss_sum;
        all.tokens += outcome.tokens;
    }
    if (options.data.size() > 1) add("all", all);
    if (json) {
        std::printf("%s\n", Json{{"files", files},
                                 {"tokens", all.tokens},
                                 {"loss", all.mean()},
                                 {"perplexity", std::exp(all.mean())}}
                                .dump(2)
                                .c_str());
    } else {
        std::fputs(table({"data", "tokens", "loss", "perplexity"}, rows).c_str(), stdout);
    }
    return {};
}

// -------------------------------------------------------------------------------------------------------------
// multiple choice

Result<std::vector<ChoiceQuestion>> solved_examples(const EvalOptions& options, ChoiceStyle style) {
    if (options.few_shot.empty()) return std::vector<ChoiceQuestion>{};
    const std::string& file = options.few_shot[0];
    const std::size_t count = std::strtoull(options.few_shot[1].c_str(), nullptr, 10);
    FEDLLM_TRY(auto examples, client::data::load_choices(file, style));
    if (examples.size() < count) {
        return make_error(Errc::InvalidData, file + ": has " + std::to_string(examples.size()) +
                                                 " questions, and --few-shot asks for " +
                                                 std::to_string(count));
    }
    examples.resize(count);
    return examples;
}

Json samples_json(const std::vector<ChoiceQuestion>& questions, const local::ChoiceOutcome& outcome) {
    Json samples = Json::array();
    for (std::size_t i = 0; i < questions.size(); ++i) {
        samples.push_back({{"prompt", questions[i].prompt},
                           {"choices", questions[i].choices},
                           {"answer", questions[i].answer},
                           {"log_likelihoods", outcome.log_likelihoods[i]}});
    }
    return samples;
}

Result<void> eval_choices(const EvalOptions& options, Workspace& workspace, const Trainable& what,
                          bool json) {
    const ChoiceStyle style = options.choices == "letters" ? ChoiceStyle::Letters : ChoiceStyle::Text;
    FEDLLM_TRY(const auto examples, solved_examples(options, style));
    local::ChoiceOutcome all;
    std::vector<std::vector<std::string>> rows;
    Json files = Json::array();
    const auto entry = [](const local::ChoiceOutcome& outcome) {
        return Json{{"questions", outcome.questions},
                    {"acc", outcome.accuracy()},
                    {"acc_stderr", outcome.standard_error()},
                    {"acc_norm", outcome.accuracy_normalised()}};
    };
    const auto add = [&](const std::string& name, const local::ChoiceOutcome& outcome) {
        rows.push_back({name, std::to_string(outcome.questions), fixed(outcome.accuracy(), 4),
                        fixed(outcome.standard_error(), 4), fixed(outcome.accuracy_normalised(), 4)});
    };
    for (const std::string& file : options.data) {
        FEDLLM_TRY(const auto questions, client::data::load_choices(file, style));
        auto outcome = local::answer_choices(workspace, what, questions, examples);
        if (!outcome) return with_context(outcome.error(), file);
        add(file, *outcome);
        Json one{{"data", file}};
        one.update(entry(*outcome));
        if (options.samples) one["samples"] = samples_json(questions, *outcome);
        files.push_back(std::move(one));
        all.questions += outcome->questions;
        all.correct += outcome->correct;
        all.correct_normalised += outcome->correct_normalised;
    }
    if (options.data.size() > 1) add("all", all);
    if (json) {
        Json out{{"files", files}};
        out.update(entry(all));
        std::printf("%s\n", out.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
    } else {
        std::fputs(table({"data", "questions", "acc", "stderr", "acc_norm"}, rows).c_str(), stdout);
    }
    return {};
}

// All files are questions, or none is.
Result<bool> are_choices(const EvalOptions& options) {
    if (!options.choices.empty()) return true;
    std::size_t count = 0;
    for (const std::string& file : options.data) {
        FEDLLM_TRY(const bool found, client::data::holds_choices(file));
        count += found;
    }
    if (count == 0 || count == options.data.size()) return count != 0;
    return make_error(
        Errc::InvalidArgument,
        "--data: some files hold multiple-choice questions and some texts; evaluate them apart");
}

Result<void> eval(const EvalOptions& options, bool json) {
    FEDLLM_TRY(const Path model, fedllm::hub::find_model(options.model));
    FEDLLM_TRY(const auto workspace, Workspace::open(model, options.threads, options.base));
    FEDLLM_TRY(const auto what, workspace->load_adapter(options.adapter));
    FEDLLM_TRY(const bool choices, are_choices(options));
    if (choices) return eval_choices(options, *workspace, what, json);
    if (options.few_shot.empty()) return eval_texts(options, *workspace, what, json);
    return make_error(Errc::InvalidArgument, "--few-shot goes with multiple-choice questions; see --choices");
}

}  // namespace

void add_eval(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<EvalOptions>();
    auto* command = app.add_subcommand(
        "eval",
        "Perplexity on texts or accuracy on multiple-choice questions, of a model or with an adapter");
    command->footer(
        "Rows with \"question\" and \"choices\", and .csv files as MMLU has them, are multiple choice: the\n"
        "likeliest choice is taken as the answer (acc), or the likeliest by byte (acc_norm), scored as\n"
        "lm-evaluation-harness does. Rows with \"instruction\" and \"answer\" are, with --choices.");
    command->add_option("--model", options->model, "base model: a folder, or ORG/NAME of the hub's cache")
        ->required();
    command->add_option("--adapter", options->adapter, "PEFT adapter folder (default: the model as it is)");
    command->add_option("--data", options->data, "JSONL, JSON or CSV; may be given several times")
        ->required();
    command
        ->add_option("--choices", options->choices,
                     "multiple choice, scoring each choice's text or the letter before it (default: text)")
        ->check(CLI::IsMember({"text", "letters"}));
    command->add_option("--few-shot", options->few_shot, "FILE N: its first N questions, solved, come first")
        ->expected(2);
    command->add_flag("--samples", options->samples, "with --json: every question's log-likelihoods");
    command->add_option("--sequence-length", options->sequence_length, "tokens per window of a text")
        ->capture_default_str();
    command->add_option("--threads", options->threads, "0: one per core")->capture_default_str();
    add_base_storage(command, options->base.storage);
    command->callback([=, &chosen] {
        const auto& shots = options->few_shot;
        if (!shots.empty() &&
            (shots[1].empty() || shots[1].find_first_not_of("0123456789") != std::string::npos))
            throw CLI::ValidationError("--few-shot", "the second word is how many examples");
        chosen.run = [=, &chosen] { return eval(*options, chosen.json); };
    });
}

}  // namespace fedllm::tools::cli
