// fedllm check: what a job takes in memory on a machine like this one, as it is and with each saving.
#include <cstdio>
#include <memory>

#include "client/train/memory_plan.hpp"
#include "common/base/memory.hpp"
#include "common/base/text.hpp"
#include "common/hub/cache.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"
#include "tools/local/workspace.hpp"

namespace fedllm::tools::cli {
namespace {

using client::train::MemoryPlan;

struct CheckOptions {
    std::string model, job;
    unsigned threads = 0;
    double memory_gib = 0;
};

struct Variant {
    std::string name;
    job::JobSpec job;
};

// The job, then each of its savings alone, then all together.
std::vector<Variant> variants(const job::JobSpec& job, bool may_quantize) {
    std::vector<Variant> all{{"as the job says", job}};
    job::JobSpec smallest = job;
    smallest.train.checkpointing = job::Checkpointing::Layers;
    smallest.train.batch_rows = 1;
    // Integers would lie in memory beside what is stored; bf16 operands take none.
    const auto compute =
        job.base.compute == tensor::BaseCompute::Int8 ? tensor::BaseCompute::Float : job.base.compute;
    if (may_quantize && job.method == job::Method::Lora) {
        for (const auto storage :
             {tensor::BaseStorage::Bf16, tensor::BaseStorage::Int8, tensor::BaseStorage::Nf4}) {
            if (storage == job.base.storage) continue;
            all.push_back({"base.storage: " + std::string(config::enum_name(storage)), job});
            all.back().job.base = {storage, compute};
        }
        smallest.base = {tensor::BaseStorage::Nf4, compute};
    }
    if (job.train.checkpointing != job::Checkpointing::Layers) {
        all.push_back({"train.checkpointing: layers", job});
        all.back().job.train.checkpointing = job::Checkpointing::Layers;
    }
    for (std::uint32_t rows = job.train.batch_rows / 2; rows > 0; rows /= 2) {
        all.push_back({"train.batch_rows: " + std::to_string(rows), job});
        all.back().job.train.batch_rows = rows;
    }
    all.push_back({"all of these", smallest});
    return all;
}

Json json_of(const std::string& name, const MemoryPlan& plan, bool fits) {
    return {{"variant", name},
            {"micro_rows", plan.micro_rows},
            {"base_bytes", plan.base},
            {"parameters_bytes", plan.parameters},
            {"gradients_bytes", plan.gradients},
            {"optimizer_bytes", plan.optimizer},
            {"buffers_bytes", plan.buffers},
            {"update_bytes", plan.update},
            {"program_bytes", plan.program},
            {"total_bytes", plan.total()},
            {"fits", fits}};
}

Result<void> check(const CheckOptions& options, bool json) {
    FEDLLM_TRY(const job::JobSpec job, job::load_job(options.job));
    FEDLLM_TRY(const Path folder, hub::find_model(options.model));
    FEDLLM_TRY(const auto model, client::model::BaseModel::load(folder));
    const std::size_t limit = options.memory_gib > 0
                                  ? static_cast<std::size_t>(options.memory_gib * 1024.0 * 1024.0 * 1024.0)
                                  : memory_limit();
    std::vector<std::vector<std::string>> rows;
    Json plans = Json::array();
    Result<void> outcome;
    for (const Variant& variant : variants(job, !model.is_quantized())) {
        FEDLLM_TRY(const MemoryPlan plan, client::train::plan_memory(model, variant.job, options.threads));
        const auto fits = client::train::check_fits(plan, limit);
        if (rows.empty()) outcome = fits;
        rows.push_back({variant.name, format_bytes(plan.base),
                        format_bytes(plan.parameters + plan.gradients + plan.optimizer + plan.update),
                        format_bytes(plan.buffers), std::to_string(plan.micro_rows),
                        format_bytes(plan.total()), fits ? "yes" : "no"});
        plans.push_back(json_of(variant.name, plan, fits.has_value()));
    }
    if (json) {
        std::printf("%s\n", Json{{"memory_bytes", limit}, {"plans", plans}}.dump(2).c_str());
    } else {
        std::fputs(
            table({"", "frozen base", "trained", "buffers", "rows at once", "peak", "fits"}, rows).c_str(),
            stdout);
        std::printf("A client here may hold %s.\n", format_bytes(limit).c_str());
    }
    return outcome;
}

}  // namespace

void add_check(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<CheckOptions>();
    auto* command = app.add_subcommand("check", "What a job takes in a client's memory, and what would fit");
    command->footer(
        "Nothing is trained and hardly anything is read. 'trained' counts the parameters, the version they\n"
        "started from, gradients, moments and the update. Exit code 1: the job does not fit.");
    command->add_option("model", options->model, "folder of the base model, or its ORG/NAME")->required();
    command->add_option("job", options->job, "job file")->required();
    command->add_option("--threads", options->threads, "0: one per core")->capture_default_str();
    command->add_option("--memory-gib", options->memory_gib, "of the client (default: of this machine)");
    command->callback([=, &chosen] { chosen.run = [=, &chosen] { return check(*options, chosen.json); }; });
}

}  // namespace fedllm::tools::cli
