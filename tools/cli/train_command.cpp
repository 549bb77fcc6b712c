// fedllm train: on this machine, without a federation.
#include <cstdio>
#include <memory>
#include <optional>

#include "client/train/devices.hpp"
#include "common/hub/cache.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/options.hpp"
#include "tools/cli/output.hpp"
#include "tools/local/workspace.hpp"

namespace fedllm::tools::cli {
namespace {

using local::Workspace;

struct TrainOptions {
    std::string job, model, config, tokenizer, data, out;
    unsigned threads = 0;
    bool quiet = false;
    client::train::Device device = client::train::Device::Auto;
    std::vector<unsigned> gpus{0};
    std::optional<tensor::BaseStorage> base_storage;  // instead of the job's
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
    if (options.base_storage) job.base.storage = *options.base_storage;
    FEDLLM_TRY(Path model_folder, fedllm::hub::find_model(options.model));
    if (!options.config.empty()) {
        model_folder = Path(options.out) / "initial";
        FEDLLM_TRY_VOID(local::create_model(model_folder, options.config, options.tokenizer, job.seed));
    }
    FEDLLM_TRY(const auto workspace, Workspace::open(model_folder, options.threads, job.base));
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
    FEDLLM_TRY(const auto devices,
               client::train::Devices::open(options.device, options.threads, options.gpus));
    const auto say = [&](const std::string& device, const std::string& why) {
        if (!options.quiet)
            std::fprintf(stderr, "on %s%s%s\n", device.c_str(), why.empty() ? "" : ": ", why.c_str());
        return Result<void>{};
    };
    FEDLLM_TRY_VOID(say(devices->name(), devices->cpu_because()));
    FEDLLM_TRY(const auto trainer, devices->trainer(workspace->model(), job, [&](const std::string& why) {
        return say("the CPU", why);
    }));
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

}  // namespace

void add_train(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<TrainOptions>();
    auto* command = app.add_subcommand("train", "Train on this machine alone: the baseline to compare with");
    command->footer(
        "Takes as many steps as one client takes in all rounds of the job. With --config a new model is\n"
        "made from random weights (method: full) instead of tuning the one in --model.");
    command->add_option("job", options->job, "job file; its federated keys are not used")->required();
    auto* model = command->add_option("--model", options->model,
                                      "base model: a folder, or ORG/NAME of the hub's cache");
    auto* config =
        command->add_option("--config", options->config, "config.json of a new model")->excludes(model);
    command->add_option("--tokenizer", options->tokenizer, "tokenizer.json of a new model")->needs(config);
    command->add_option("--data", options->data, "JSONL to train on")->required();
    command->add_option("--out", options->out, "folder for the adapter or model")->required();
    command->add_option("--threads", options->threads, "0: one per core")->capture_default_str();
    add_device(command, options->device);
    command->add_option("--gpus", options->gpus, "which to train on; several share every batch")
        ->delimiter(',')
        ->capture_default_str();
    auto storage = std::make_shared<tensor::BaseStorage>();
    auto* given = add_base_storage(command, *storage);
    command->add_flag("--quiet", options->quiet, "no progress lines");
    command->callback([=, &chosen] {
        if (options->model.empty() && options->config.empty())
            throw CLI::RequiredError("--model or --config");
        if (given->count() > 0) options->base_storage = *storage;
        chosen.run = [=, &chosen] { return train(*options, chosen.json); };
    });
}

}  // namespace fedllm::tools::cli
