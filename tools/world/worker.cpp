#include "tools/world/worker.hpp"

#include "client/agent/download.hpp"
#include "client/update/builder.hpp"
#include "common/formats/param_set_file.hpp"

namespace fedllm::tools::world {

using namespace client;
using agent::Event;
using agent::Task;

tensor::Manifest manifest() {
    const std::string module = "base_model.model.model.layers.0.self_attn.q_proj.";
    return tensor::Manifest::create(
               {{module + "lora_A.weight", {2, 48}}, {module + "lora_B.weight", {32, 2}}})
        .value();
}

tensor::ParamSet initial_version(std::uint64_t seed) {
    tensor::ParamSet params(manifest());
    Rng rng(seed, "world/initial");
    for (float& value : params.values()) value = rng.uniform(-0.2f, 0.2f);
    return params;
}

Result<void> SimulatedWorker::make_initial(const Task& task) {
    if (task.job.seed % 2 == 0) return make_error(Errc::NotFound, "the job's seed does not give it");
    FEDLLM_TRY([[maybe_unused]] const Path made,
               versions_.add(agent::initial_digest(task), initial_version(task.job.seed)));
    return {};
}

Event SimulatedWorker::work(const Task& task, const ClientId& client, double, const Report& report,
                            std::stop_token stop) {
    if (stop.stop_requested()) return agent::WorkFailed{task.id, {Errc::Cancelled, "asked to stop"}};
    auto event = try_work(task, client, report);
    return event ? std::move(*event) : Event{agent::WorkFailed{task.id, event.error()}};
}

Result<Event> SimulatedWorker::try_work(const Task& task, const ClientId& client, const Report& report) {
    FEDLLM_TRY(const Path version, agent::obtain_version(task, versions_));
    FEDLLM_TRY(const tensor::ParamSet start, formats::read_param_set(version));
    report({1, 1, 2.0, 100.0});
    if (task.kind == agent::TaskKind::Evaluate) return Event{agent::Evaluated{task.id, {200.0, 100}}};
    FEDLLM_TRY(update::Claim claim, train(task, client, start));
    return Event{agent::Trained{task.id, std::move(claim)}};
}

Result<update::Claim> SimulatedWorker::train(const Task& task, const ClientId& client,
                                             const tensor::ParamSet& start) {
    Rng rng(task.job.seed, "world/" + task.id.get());
    tensor::ParamSet trained = start;
    for (float& value : trained.values()) value += rng.uniform(-0.1f, 0.1f);

    const update::ResidualStore::Key key{task.job_id, job::print_job(task.job), task.round};
    std::optional<tensor::ParamSet> residual;
    if (update::keeps_residual(task.job.update)) residual = updates_.residuals().load(key, start.manifest());
    update::BuildRequest request{.spec = task.job.update};
    if (residual) request.residual = residual->values();
    request.turn = task.round.get();
    request.key = rng.next_u64();
    FEDLLM_TRY(const update::EncodedUpdate encoded, update::build(start, trained, request));
    if (update::keeps_residual(task.job.update))
        FEDLLM_TRY_VOID(updates_.residuals().stage(task.id, key, encoded.residual));

    update::Claim claim;
    claim.digest = encoded.digest;
    claim.bytes = encoded.bytes.size();
    claim.codec = codec::name(task.job.update.codec.id);
    claim.quantisation_error = encoded.quantisation_error;
    claim.residual_norm = encoded.residual_norm;
    claim.samples = 1 + rng.below(std::min<std::uint64_t>(50, task.job.samples_max));
    claim.tokens = 100;
    claim.train_loss = 2.0;
    claim.train_seconds = 1.0;
    claim.update_norm = encoded.norm;
    claim.evaluation = {200.0, 100};
    std::vector<float> values(start.manifest().elements());
    FEDLLM_TRY_VOID(codec::decode(task.job.update.codec.id, codec::layout_of(start.manifest()), encoded.bytes,
                                  [&](std::uint64_t first, std::span<const float> decoded) {
                                      std::copy(decoded.begin(), decoded.end(),
                                                values.begin() + static_cast<std::ptrdiff_t>(first));
                                  }));
    truth_.made(task.id, client, claim.digest, std::move(values), claim.samples);
    FEDLLM_TRY_VOID(updates_.save(task.id, claim, encoded.bytes));
    return claim;
}

}  // namespace fedllm::tools::world
