// fedllm train, eval, generate, tokenizer, config: work on this machine, without a federation.
#include <cmath>
#include <cstdio>
#include <memory>

#include "client/agent/client_config.hpp"
#include "client/data/bpe_trainer.hpp"
#include "client/data/row.hpp"
#include "common/base/text.hpp"
#include "server/app/server_config.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"
#include "tools/local/workspace.hpp"

namespace fedllm::tools::cli {
namespace {

using local::Workspace;

// ------------------------------------------------------------------------------------------------------------
// train

struct TrainOptions {
    std::string job, model, config, tokenizer, data, out;
    unsigned threads = 0;
    bool quiet = false;
};

void print_progress(const client::train::TrainProgress& progress) {
    if (progress.step != progress.steps && progress.step % 25 != 0 && progress.step != 1) return;
    std::fprintf(stderr, "step %llu/%llu  loss %.4f  gradient norm %.3f  lr %.2e  %.0f tokens/s\n",
                 static_cast<unsigned long long>(progress.step),
                 static_cast<unsigned long long>(progress.steps), progress.loss, progress.gradient_norm,
                 progress.learning_rate, progress.tokens_per_second);
}

Result<void> train(const TrainOptions& options, bool json) {
    FEDLLM_TRY(job::JobSpec job, job::load_job(options.job));
    Path model_folder = options.model;
    if (!options.config.empty()) {
        model_folder = Path(options.out) / "initial";
        FEDLLM_TRY_VOID(local::create_model(model_folder, options.config, options.tokenizer, job.seed));
    }
    FEDLLM_TRY(const auto workspace, Workspace::open(model_folder, options.threads));
    const client::data::DatasetOptions data_options{.sequence_length = job.train.sequence_length,
                                                    .eval_fraction = 0.0,
                                                    .seed = job.seed,
                                                    .eval_path = {}};
    FEDLLM_TRY(const auto dataset,
               client::data::Dataset::load_jsonl(options.data, workspace->tokenizer(), data_options));
    FEDLLM_TRY(local::Trainable state, local::initial_state(workspace->model(), job));
    // The same number of optimiser steps as a client takes in all rounds of the job together.
    if (job.train.local_steps == 0) {
        const client::data::Batcher one_pass(
            dataset.train(), job.train.batch_rows, job.train.sequence_length, job.seed,
            job.train.packing ? client::data::Packing::On : client::data::Packing::Off);
        job.train.local_steps = static_cast<std::uint32_t>(one_pass.steps_per_epoch());
    }
    job.train.local_steps *= job.rounds;
    FEDLLM_TRY(const auto trainer,
               client::train::Trainer::create(workspace->model(), job, workspace->pool()));
    const client::train::TrainRequest request{.seed = job.seed};
    using Progress = std::function<void(const client::train::TrainProgress&)>;
    FEDLLM_TRY(const auto outcome, trainer->train(state.params, dataset.train(), request,
                                                  options.quiet ? Progress{} : Progress{print_progress}));
    FEDLLM_TRY_VOID(local::save(options.out, state, *workspace, model_folder, job.base_model));
    if (!options.config.empty()) {
        std::error_code ignored;
        std::filesystem::remove_all(model_folder, ignored);
    }
    if (json) {
        std::printf("%s\n", Json{{"out", options.out},
                                 {"steps", outcome.steps},
                                 {"tokens", outcome.tokens},
                                 {"loss_first", number(outcome.loss_first)},
                                 {"loss_last", number(outcome.loss_last)},
                                 {"seconds", outcome.seconds},
                                 {"tokens_per_second", outcome.tokens_per_second}}
                                .dump(2)
                                .c_str());
    } else {
        std::printf("%s: %llu steps in %.1f s, loss %.4f -> %.4f\n", options.out.c_str(),
                    static_cast<unsigned long long>(outcome.steps), outcome.seconds, outcome.loss_first,
                    outcome.loss_last);
    }
    return {};
}

// -------------------------------------------------------------------------------------------------------------
// eval

struct EvalOptions {
    std::string model, adapter;
    std::vector<std::string> data;
    std::uint32_t sequence_length = 256;
    unsigned threads = 0;
};

Result<void> eval(const EvalOptions& options, bool json) {
    FEDLLM_TRY(const auto workspace, Workspace::open(options.model, options.threads));
    FEDLLM_TRY(const auto what, workspace->load_adapter(options.adapter));
    client::train::EvalOutcome all;
    std::vector<std::vector<std::string>> rows;
    Json files = Json::array();
    const auto add = [&](const std::string& name, const client::train::EvalOutcome& outcome) {
        rows.push_back({name, std::to_string(outcome.tokens), fixed(outcome.mean(), 4),
                        fixed(std::exp(outcome.mean()), 2)});
    };
    for (const std::string& file : options.data) {
        FEDLLM_TRY(const auto outcome, workspace->evaluate(what, file, options.sequence_length));
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

// ---------------------------------------------------------------------------------------------------------
// generate

struct GenerateCommand {
    std::string model, adapter, prompt, system;
    bool chat = false;
    client::train::GenerateOptions options;
    unsigned threads = 0;
};

Result<void> generate(const GenerateCommand& command, bool json) {
    FEDLLM_TRY(const auto workspace, Workspace::open(command.model, command.threads));
    FEDLLM_TRY(const auto what, workspace->load_adapter(command.adapter));
    FEDLLM_TRY(const std::string text,
               command.chat ? workspace->answer(what, command.system, command.prompt, command.options)
                            : workspace->generate(what, command.prompt, command.options));
    if (json) {
        std::printf("%s\n", Json{{"prompt", command.prompt}, {"text", text}}
                                .dump(2, ' ', false, Json::error_handler_t::replace)
                                .c_str());
    } else {
        std::printf("%s%s\n", command.chat ? "" : command.prompt.c_str(), text.c_str());
    }
    return {};
}

// --------------------------------------------------------------------------------------------------------
// tokenizer

Result<void> train_tokenizer(const std::vector<std::string>& files, std::size_t vocab,
                             const std::string& out) {
    std::vector<std::string> texts;
    for (const std::string& file : files) {
        FEDLLM_TRY(const std::string content, read_file(file, std::size_t{1} << 30));
        std::size_t number = 0;
        for (std::size_t start = 0; start < content.size();) {
            const std::size_t end = std::min(content.find('\n', start), content.size());
            const std::string_view line(content.data() + start, end - start);
            start = end + 1;
            ++number;
            if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
            FEDLLM_TRY(auto row, client::data::parse_row(line, file + ":" + std::to_string(number)));
            for (auto& segment : row.segments) texts.push_back(std::move(segment.text));
        }
    }
    FEDLLM_TRY(const std::string tokenizer, client::data::train_byte_level_bpe(texts, vocab, {}));
    FEDLLM_TRY_VOID(write_file_atomically(out, tokenizer));
    std::printf("%s: learned from %zu texts\n", out.c_str(), texts.size());
    return {};
}

}  // namespace

void add_train(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<TrainOptions>();
    auto* command = app.add_subcommand("train", "Train on this machine alone: the baseline to compare with");
    command->footer(
        "Takes as many steps as one client takes in all rounds of the job. With --config a new model is\n"
        "made from random weights (method: full) instead of tuning the one in --model.");
    command->add_option("job", options->job, "job file; its federated keys are not used")->required();
    auto* model = command->add_option("--model", options->model, "folder of the base model");
    auto* config =
        command->add_option("--config", options->config, "config.json of a new model")->excludes(model);
    command->add_option("--tokenizer", options->tokenizer, "tokenizer.json of a new model")->needs(config);
    command->add_option("--data", options->data, "JSONL to train on")->required();
    command->add_option("--out", options->out, "folder for the adapter or model")->required();
    command->add_option("--threads", options->threads, "0: one per core")->capture_default_str();
    command->add_flag("--quiet", options->quiet, "no progress lines");
    command->callback([=, &chosen] {
        if (options->model.empty() && options->config.empty())
            throw CLI::RequiredError("--model or --config");
        chosen.run = [=, &chosen] { return train(*options, chosen.json); };
    });
}

void add_eval(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<EvalOptions>();
    auto* command =
        app.add_subcommand("eval", "Loss and perplexity on JSONL files, of a model or with an adapter");
    command->add_option("--model", options->model, "folder of the base model")->required();
    command->add_option("--adapter", options->adapter, "PEFT adapter folder (default: the model as it is)");
    command->add_option("--data", options->data, "JSONL; may be given several times")->required();
    command->add_option("--sequence-length", options->sequence_length, "tokens per window")
        ->capture_default_str();
    command->add_option("--threads", options->threads, "0: one per core")->capture_default_str();
    command->callback([=, &chosen] { chosen.run = [=, &chosen] { return eval(*options, chosen.json); }; });
}

void add_generate(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<GenerateCommand>();
    auto* command = app.add_subcommand("generate", "Continue a text, of a model or with an adapter");
    command->add_option("--model", options->model, "folder of the base model")->required();
    command->add_option("--adapter", options->adapter, "PEFT adapter folder (default: the model as it is)");
    command->add_option("--prompt", options->prompt, "the text to continue")->required();
    auto* chat = command->add_flag("--chat", options->chat,
                                   "the prompt is a user's message, for the model's chat template");
    command->add_option("--system", options->system, "a system message before it")->needs(chat);
    command->add_option("--tokens", options->options.new_tokens_max, "at most this many")
        ->capture_default_str();
    command->add_option("--temperature", options->options.temperature, "0: always the likeliest token")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 100.0));
    command->add_option("--top-k", options->options.top_k, "sample among the k likeliest; 0: all")
        ->capture_default_str();
    command->add_option("--seed", options->options.seed, "of the sampling")->capture_default_str();
    command->add_option("--threads", options->threads, "0: one per core")->capture_default_str();
    command->callback(
        [=, &chosen] { chosen.run = [=, &chosen] { return generate(*options, chosen.json); }; });
}

void add_tokenizer(CLI::App& app, Chosen& chosen) {
    auto files = std::make_shared<std::vector<std::string>>();
    auto vocab = std::make_shared<std::size_t>(4096);
    auto out = std::make_shared<std::string>();
    auto* command = app.add_subcommand("tokenizer", "Learn a byte-level BPE tokenizer.json from JSONL files");
    command->add_option("data", *files, "JSONL files")->required();
    command->add_option("--vocab", *vocab, "vocabulary size")->capture_default_str();
    command->add_option("--out", *out, "tokenizer.json to write")->required();
    command->callback([=, &chosen] { chosen.run = [=] { return train_tokenizer(*files, *vocab, *out); }; });
}

std::string configuration_reference() {
    return "<!-- Generated: fedllm config > configs/REFERENCE.md -->\n\n" +
           config::reference_page("server.yaml", server::app::server_table()) + "\n" +
           config::reference_page("client.yaml", client::agent::client_table()) + "\n" +
           config::reference_page("Job files", job::job_table());
}

void add_config(CLI::App& app, Chosen& chosen) {
    auto* command =
        app.add_subcommand("config", "Print the reference of every configuration key, as Markdown");
    command->callback([&chosen] {
        chosen.run = []() -> Result<void> {
            std::fputs(configuration_reference().c_str(), stdout);
            return {};
        };
    });
}

}  // namespace fedllm::tools::cli
