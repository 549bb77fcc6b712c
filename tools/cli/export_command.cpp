// fedllm export: what was trained, in the form that others load.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "client/model/model_config.hpp"
#include "common/formats/param_set_file.hpp"
#include "common/formats/peft.hpp"
#include "common/hub/cache.hpp"
#include "common/job/job_spec.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"
#include "tools/convert/gguf_adapter.hpp"
#include "tools/convert/merged_model.hpp"
#include "tools/federation/operator_link.hpp"

namespace fedllm::tools::cli {
namespace {

using formats::LoadedAdapter;

struct ExportOptions {
    std::string job, version, hub = "hub";  // of a federation
    std::string adapter;                    // or of a folder
    std::string model, format = "peft", type, out;
    unsigned threads = 0;
};

// What a job has trained: an adapter, or the safetensors bytes of whole weights.
struct Trained {
    std::optional<LoadedAdapter> adapter;
    std::vector<std::byte> bytes;
    std::string version;
};

Result<LoadedAdapter> adapter_of(const std::vector<std::byte>& bytes, const job::JobSpec& job,
                                 const Path& out) {
    Path file = out;
    file += ".fetched";
    FEDLLM_TRY_VOID(write_file_atomically(file, bytes));
    auto params = formats::read_param_set(file);
    std::error_code ignored;
    std::filesystem::remove(file, ignored);
    if (!params) return params.error();
    return LoadedAdapter{*std::move(params), job.lora, job.base_model};
}

Result<Trained> fetch(const ExportOptions& options) {
    FEDLLM_TRY(const auto config, federation::load_operator_config(options.hub));
    FEDLLM_TRY(const auto link, federation::OperatorLink::connect(config));
    FEDLLM_TRY(const auto report, link->show_job(JobId(options.job)));
    FEDLLM_TRY(const auto job, job::parse_job(report.job(), "job " + options.job));
    Trained trained;
    trained.version = options.version.empty() ? report.summary().model_digest() : options.version;
    FEDLLM_TRY(trained.bytes, link->fetch(trained.version));
    if (job.method == job::Method::Lora) {
        FEDLLM_TRY(trained.adapter, adapter_of(trained.bytes, job, options.out));
    }
    return trained;
}

Result<void> write_merged(const ExportOptions& options, const LoadedAdapter& adapter, const Path& model) {
    std::optional<tensor::DType> type;
    if (options.type == "f32") type = tensor::DType::F32;
    if (options.type == "f16") type = tensor::DType::F16;
    if (options.type == "bf16") type = tensor::DType::BF16;
    kernels::ThreadPool pool(options.threads);
    return convert::write_merged_model(options.out, model, adapter, type, pool);
}

Result<void> write_gguf(const ExportOptions& options, const LoadedAdapter& adapter, const Path& model) {
    FEDLLM_TRY(const auto config, client::model::read_model_config(model));
    const auto type = options.type == "f32" ? formats::GgufType::F32 : formats::GgufType::F16;
    return convert::write_gguf_adapter(options.out, adapter, config, type);
}

Result<void> write(const ExportOptions& options, const Trained& trained) {
    if (!trained.adapter) {
        if (options.format != "peft") {
            return make_error(Errc::Unsupported,
                              "job " + options.job +
                                  " trained whole weights, which are exported as they are; "
                                  "leave --format out");
        }
        FEDLLM_TRY_VOID(make_directories(options.out));
        return write_file_atomically(Path(options.out) / "model.safetensors", trained.bytes);
    }
    const LoadedAdapter& adapter = *trained.adapter;
    if (options.format == "peft") {
        return formats::write_peft_adapter(options.out, adapter.parameters, adapter.spec, adapter.base_model);
    }
    FEDLLM_TRY(const Path model, fedllm::hub::find_model(options.model));
    return options.format == "gguf" ? write_gguf(options, adapter, model)
                                    : write_merged(options, adapter, model);
}

Result<void> run_export(const ExportOptions& options, bool json) {
    Trained trained;
    if (options.adapter.empty()) {
        FEDLLM_TRY(trained, fetch(options));
    } else {
        FEDLLM_TRY(trained.adapter, formats::read_peft_adapter(options.adapter));
    }
    FEDLLM_TRY_VOID(write(options, trained));
    if (json) {
        Json said{{"path", options.out}, {"format", options.format}};
        if (!options.job.empty()) said.update({{"job", options.job}, {"version", trained.version}});
        if (!options.adapter.empty()) said["adapter"] = options.adapter;
        std::printf("%s\n", said.dump(2).c_str());
    } else if (options.job.empty()) {
        std::printf("%s: %s of %s\n", options.out.c_str(), options.format.c_str(), options.adapter.c_str());
    } else {
        std::printf("%s: version %.12s of %s\n", options.out.c_str(), trained.version.c_str(),
                    options.job.c_str());
    }
    return {};
}

void check(const ExportOptions& options) {
    if (options.job.empty() == options.adapter.empty()) {
        throw CLI::ValidationError("export", "name either a job or --adapter");
    }
    if (options.format != "peft" && options.model.empty()) throw CLI::RequiredError("--model");
    if (options.format == "gguf" && options.type == "bf16") {
        throw CLI::ValidationError("--type", "a GGUF adapter is f16 or f32");
    }
}

}  // namespace

void add_export(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<ExportOptions>();
    auto* command = app.add_subcommand(
        "export", "Write what a job has trained, or an adapter, in the form that others load");
    command->footer(
        "peft    folder with adapter_config.json and adapter_model.safetensors: peft, transformers, vLLM\n"
        "merged  model folder of its own, the adapter worked into the base's weights\n"
        "gguf    file for llama.cpp's --lora beside the base's own GGUF\n"
        "A job of whole weights is exported as model.safetensors.");
    auto* job = command->add_option("job", options->job, "id of the job");
    command->add_option("--adapter", options->adapter, "a PEFT adapter folder, instead of a job")
        ->excludes(job);
    command->add_option("--format", options->format, "peft, merged or gguf")
        ->capture_default_str()
        ->check(CLI::IsMember({"peft", "merged", "gguf"}));
    command->add_option("--model", options->model,
                        "base model, for merged and gguf: a folder, or ORG/NAME of the hub's cache");
    command
        ->add_option("--type", options->type,
                     "of the weights: f32, f16, bf16 (default: the base's for merged, f16 for gguf)")
        ->check(CLI::IsMember({"f32", "f16", "bf16"}));
    command->add_option("--out", options->out, "folder to write; for gguf a file")->required();
    command->add_option("--version", options->version, "another version's digest (default: the latest)");
    command->add_option("--dir", options->hub, "folder that 'fedllm init' made")->capture_default_str();
    command->add_option("--threads", options->threads, "0: one per core")->capture_default_str();
    command->callback([=, &chosen] {
        check(*options);
        chosen.run = [=, &chosen] { return run_export(*options, chosen.json); };
    });
}

}  // namespace fedllm::tools::cli
