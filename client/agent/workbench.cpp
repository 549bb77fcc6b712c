#include "client/agent/workbench.hpp"

#include <algorithm>
#include <utility>

#include "client/agent/download.hpp"
#include "client/cuda_update/cuda_builder.hpp"
#include "client/model/manifests.hpp"
#include "client/train/memory_plan.hpp"
#include "common/base/clock.hpp"
#include "common/base/memory.hpp"
#include "common/base/philox.hpp"
#include "common/formats/param_set_file.hpp"
#include "common/hub/cache.hpp"
#include "common/log/log.hpp"

namespace fedllm::client::agent {
namespace {

// What is wrong with the file itself is logged here; the server, which may be told the error, knows the file
// by its digest and not by our path.
Result<tensor::ParamSet> read_version(const Path& file, const tensor::Manifest& expected) {
    auto params = formats::read_param_set(file);
    if (!params) {
        log::error("the received model version cannot be used", {{"reason", to_string(params.error())}});
        return make_error(params.error().code,
                          "the model version cannot be used: " + std::string(describe(params.error().code)));
    }
    if (const std::string what = difference(expected, params->manifest()); !what.empty()) {
        return make_error(Errc::ManifestMismatch, "the model version does not fit the job: " + what);
    }
    return params;
}

}  // namespace

std::uint64_t training_seed(std::uint64_t job_seed, RoundId round, const ClientId& client) {
    return Rng(job_seed, "train/" + std::to_string(round.get()) + "/" + client.get()).next_u64();
}

Result<Workbench::Resident> Workbench::load_resident(const Path& folder) {
    FEDLLM_TRY(model::BaseModel model, model::BaseModel::load(folder));
    FEDLLM_TRY(data::Tokenizer tokenizer, data::Tokenizer::load_folder(folder));
    if (tokenizer.vocab_size() > model.config().vocab) {
        return make_error(Errc::InvalidModel, folder.string() + ": the tokenizer has " +
                                                  std::to_string(tokenizer.vocab_size()) +
                                                  " tokens, the model only " +
                                                  std::to_string(model.config().vocab) + " embeddings");
    }
    std::string fingerprint = model.fingerprint();
    return Resident{std::move(model), std::move(tokenizer), std::move(fingerprint), folder, {}, {}};
}

Result<const model::BaseModel*> Workbench::model_for(const job::JobSpec& job, Resident& resident) const {
    if (job.base == tensor::BaseSpec{}) return &resident.model;
    if (resident.held && resident.held_as == job.base) return &*resident.held;
    resident.held.reset();  // before the next one takes its memory
    const double started = monotonic_seconds();
    FEDLLM_TRY(resident.held, model::BaseModel::load(resident.folder, job.base));
    resident.held_as = job.base;
    log::info("base model converted", {{"name", job.base_model}, {"seconds", monotonic_seconds() - started}});
    return &*resident.held;
}

Result<std::unique_ptr<Workbench>> Workbench::open(const ClientConfig& config, VersionStore versions,
                                                   update::UpdateStore updates) {
    FEDLLM_TRY(auto devices, train::Devices::open(config.device, config.threads, config.gpus));
    log::info("device", {{"name", devices->name()}});
    if (!devices->cpu_because().empty()) log::info("no GPU trains", {{"reason", devices->cpu_because()}});
    std::unique_ptr<Workbench> bench(
        new Workbench(config, std::move(versions), std::move(updates), std::move(devices)));
    for (const auto& [name, folder] : config.models) {
        const auto found = hub::find_model(folder);
        if (!found) return with_context(found.error(), "models." + name);
        auto resident = load_resident(*found);
        if (!resident) return with_context(resident.error(), "models." + name);
        log::info("base model resident", {{"name", name},
                                          {"folder", folder.string()},
                                          {"fingerprint", resident->fingerprint.substr(0, 12)}});
        bench->residents_.emplace(name, std::move(*resident));
    }
    for (const Path& path : {config.data.path, config.data.eval_path}) {
        if (path.empty()) continue;
        if (auto file = MappedFile::open(path); !file) return with_context(file.error(), "data");
    }
    return bench;
}

// Better refused by the numbers than ended by the system in the middle of a round.
Result<void> Workbench::check_memory(const job::JobSpec& job, const model::BaseModel& model,
                                     train::Where where) const {
    FEDLLM_TRY(const train::MemoryPlan plan, train::plan_memory(model, job, config_.threads, where));
    const std::size_t machine = memory_limit();
    const std::size_t own = config_.memory_max.bytes;
    const std::size_t limit = own == 0 || machine == 0 ? std::max(own, machine) : std::min(own, machine);
    if (const auto fits = train::check_fits(plan, limit); limit > 0 && !fits) {
        return make_error(Errc::PolicyRefused, fits.error().message);
    }
    log::info("memory planned",
              {{"bytes", plan.total()}, {"limit", limit}, {"rows_at_once", plan.micro_rows}});
    return {};
}

Result<Workbench::Bench*> Workbench::bench_for(const Task& task) {
    if (bench_ && bench_->job_id == task.job_id && bench_->job == task.job) return bench_.get();
    bench_.reset();  // before the next one takes its memory
    const auto found = residents_.find(task.job.base_model);
    if (found == residents_.end()) {
        return make_error(Errc::PolicyRefused, "no base model '" + task.job.base_model + "' here");
    }
    Resident& resident = found->second;
    FEDLLM_TRY_VOID(check_base(task.job, resident.fingerprint));
    FEDLLM_TRY_VOID(
        check_memory(task.job, resident.model, devices_->has_gpu() ? train::Where::Gpu : train::Where::Cpu));
    FEDLLM_TRY(const model::BaseModel* const model, model_for(task.job, resident));
    data::DatasetOptions options;
    options.sequence_length = task.job.train.sequence_length;
    options.eval_fraction = config_.data.eval_fraction;
    options.eval_path = config_.data.eval_path;
    FEDLLM_TRY(data::Dataset dataset,
               data::Dataset::load_jsonl(config_.data.path, resident.tokenizer, options));
    const auto before_cpu = [&](const std::string& why) {
        log::warn("the GPU cannot train this job; the CPU does", {{"job", task.job.name}, {"reason", why}});
        return check_memory(task.job, resident.model, train::Where::Cpu);
    };
    FEDLLM_TRY(auto trainer, devices_->trainer(*model, task.job, before_cpu));
    if (!trainer->plan().empty()) log::info("GPU planned", {{"plan", trainer->plan()}});
    const data::DatasetStats& stats = dataset.stats();
    log::info("data loaded", {{"file", config_.data.path.string()},
                              {"train_examples", stats.train_examples},
                              {"train_tokens", stats.train_tokens},
                              {"eval_examples", stats.eval_examples},
                              {"rows_skipped", stats.rows_skipped},
                              {"rows_truncated", stats.rows_truncated}});
    bench_.reset(new Bench{task.job_id, task.job, std::move(dataset), std::move(trainer)});
    return bench_.get();
}

Result<void> Workbench::make_initial(const Task& task) {
    const auto found = residents_.find(task.job.base_model);
    const Error other = make_error(Errc::NotFound, "the job's seed does not give its first version");
    if (found == residents_.end() || task.job.method != job::Method::Lora) return other;
    FEDLLM_TRY(const auto manifest, model::lora_manifest(found->second.model.config(), task.job.lora));
    if (manifest.elements() > task.model_bytes / sizeof(float)) return other;
    const auto made = versions_.add(initial_digest(task), model::initial_lora(manifest, task.job.seed));
    if (made) return {};
    return made.error().code == Errc::DigestMismatch ? other : made.error();
}

Result<update::Evaluation> Workbench::evaluate(const tensor::ParamSet& params) {
    if (bench_->dataset.eval().empty()) return update::Evaluation{};
    FEDLLM_TRY(const train::EvalOutcome outcome, bench_->trainer->evaluate(params, bench_->dataset.eval()));
    return update::Evaluation{outcome.loss_sum, outcome.tokens};
}

Result<update::Claim> Workbench::train(const Task& task, const ClientId& client, const Report& report,
                                       std::stop_token stop, const tensor::ParamSet& start) {
    const auto examples = bench_->dataset.train();
    const std::uint64_t steps = bench_->trainer->steps(examples);
    FEDLLM_TRY_VOID(check_steps(steps, config_.policy));
    update::Claim claim;
    FEDLLM_TRY(claim.evaluation, evaluate(start));

    tensor::ParamSet params = start;
    const train::TrainRequest request{.seed = training_seed(task.job.seed, task.round, client),
                                      .first_step = task.round.get() * steps,
                                      .total_steps = task.job.rounds * steps};
    constexpr double kReportSeconds = 0.5;
    double reported = -kReportSeconds;
    const auto progress = [&](const train::TrainProgress& now) {
        const double seconds = monotonic_seconds();
        if (now.step != now.steps && seconds - reported < kReportSeconds) return;
        reported = seconds;
        report({static_cast<std::uint32_t>(now.step), static_cast<std::uint32_t>(now.steps), now.loss,
                now.tokens_per_second});
    };
    FEDLLM_TRY(const train::TrainOutcome outcome,
               bench_->trainer->train(params, examples, request, progress, std::move(stop)));
    FEDLLM_TRY(const update::EncodedUpdate encoded, encode(task, client, start, params));
    claim.digest = encoded.digest;
    claim.bytes = encoded.bytes.size();
    claim.codec = codec::name(task.job.update.codec.id);
    claim.quantisation_error = encoded.quantisation_error;
    claim.residual_norm = encoded.residual_norm;
    claim.samples =
        std::min<std::uint64_t>(examples.size(), task.job.samples_max);  // the job's cap on a weight
    claim.tokens = outcome.tokens;
    claim.train_loss = outcome.loss_last;
    claim.train_seconds = outcome.seconds;
    claim.update_norm = encoded.norm;
    FEDLLM_TRY_VOID(updates_.save(task.id, claim, encoded.bytes));
    return claim;
}

// On the GPU that trains, where it has room; the CPU makes the same bytes.
Result<update::EncodedUpdate> Workbench::build(const tensor::ParamSet& start, const tensor::ParamSet& trained,
                                               const update::BuildRequest& request) const {
    if (devices_->has_gpu()) {
        auto built = cuda_update::build(config_.gpus.front(), start, trained, request);
        if (built) return built;
        const Error& error = built.error();
        if (error.code == Errc::TooLarge) {
            log::info("the GPU has no room to encode the update; the CPU does", {{"reason", error.message}});
        } else if (error.code == Errc::DeviceFailed) {
            log::warn("the GPU cannot encode the update; the CPU does", {{"reason", error.message}});
        } else {
            return built;
        }
    }
    return update::build(start, trained, request);
}

// The residual is staged before the update exists, so that none is offered without it.
Result<update::EncodedUpdate> Workbench::encode(const Task& task, const ClientId& client,
                                                const tensor::ParamSet& start,
                                                const tensor::ParamSet& trained) const {
    const update::ResidualStore::Key key{task.job_id, job::print_job(task.job), task.round};
    std::optional<tensor::ParamSet> residual;
    if (update::keeps_residual(task.job.update)) {
        residual = updates_.residuals().load(key, start.manifest());
    }
    update::BuildRequest request{.spec = task.job.update};
    if (residual) request.residual = residual->values();
    request.turn = task.round.get() + static_cast<std::uint32_t>(stream_of(client.get()));
    request.upload_bytes_max = task.job.update.upload_seconds * link_bytes_per_second_;
    request.key = Rng(task.job.seed, "update/" + task.id.get()).next_u64();
    FEDLLM_TRY(update::EncodedUpdate encoded, build(start, trained, request));
    if (update::keeps_residual(task.job.update)) {
        FEDLLM_TRY_VOID(updates_.residuals().stage(task.id, key, encoded.residual));
    }
    return encoded;
}

Result<Event> Workbench::try_work(const Task& task, const ClientId& client, const Report& report,
                                  std::stop_token stop) {
    FEDLLM_TRY(const Path version, obtain_version(task, versions_));
    FEDLLM_TRY(Bench* const bench, bench_for(task));
    FEDLLM_TRY(const tensor::ParamSet start, read_version(version, bench->trainer->manifest()));
    if (task.kind == TaskKind::Evaluate) {
        FEDLLM_TRY(const update::Evaluation evaluation, evaluate(start));
        return Event{Evaluated{task.id, evaluation}};
    }
    FEDLLM_TRY(update::Claim claim, train(task, client, report, std::move(stop), start));
    return Event{Trained{task.id, std::move(claim)}};
}

Event Workbench::work(const Task& task, const ClientId& client, double link_bytes_per_second,
                      const Report& report, std::stop_token stop) {
    link_bytes_per_second_ = link_bytes_per_second;
    auto event = try_work(task, client, report, std::move(stop));
    return event ? std::move(*event) : Event{WorkFailed{task.id, event.error()}};
}

Result<std::unique_ptr<Worker>> make_workbench(const ClientConfig& config, VersionStore versions,
                                               update::UpdateStore updates) {
    FEDLLM_TRY(auto bench, Workbench::open(config, std::move(versions), std::move(updates)));
    return std::unique_ptr<Worker>(std::move(bench));
}

}  // namespace fedllm::client::agent
