#include "client/agent/download.hpp"

#include "common/codec/codec.hpp"
#include "common/formats/param_set_file.hpp"

namespace fedllm::client::agent {
namespace {

Result<tensor::ParamSet> follow_steps(const Task& task, const DownloadPlan& plan,
                                      const VersionStore& versions) {
    FEDLLM_TRY(const Path base, versions.verify(plan.base));
    FEDLLM_TRY(tensor::ParamSet params, formats::read_param_set(base));
    const codec::Layout layout = codec::layout_of(params.manifest());
    for (const DownloadPlan::Piece& step : plan.pieces) {
        FEDLLM_TRY(const MappedFile encoded, versions.map_received(step.digest));
        FEDLLM_TRY_VOID(codec::decode(task.job.download.codec.id, layout, encoded.bytes(),
                                      [&](std::uint64_t first, std::span<const float> difference) {
                                          const auto values = params.values().subspan(first);
                                          for (std::size_t i = 0; i < difference.size(); ++i) {
                                              values[i] += difference[i];
                                          }
                                      }));
    }
    return params;
}

}  // namespace

DownloadPlan plan_whole(const Task& task) {
    return {.base = "", .pieces = {{task.model_digest, task.model_bytes}}};
}

DownloadPlan plan_download(const Task& task, const std::function<bool(const std::string&)>& held) {
    if (held(task.model_digest)) return {};
    std::uint64_t left = task.model_bytes;
    for (std::size_t first = task.steps.size(); first-- > 0;) {
        const VersionStep& step = task.steps[first];
        if (step.encoded_bytes >= left) break;
        left -= step.encoded_bytes;
        if (!held(step.base_digest)) continue;
        DownloadPlan plan{.base = step.base_digest, .pieces = {}};
        for (std::size_t i = first; i < task.steps.size(); ++i) {
            plan.pieces.push_back({task.steps[i].encoded_digest, task.steps[i].encoded_bytes});
        }
        return plan;
    }
    return plan_whole(task);
}

// A version that came whole and waits to be verified is the worker's to judge.
DownloadPlan plan_download(const Task& task, const VersionStore& versions) {
    return plan_download(task, [&](const std::string& digest) {
        return versions.held(digest) ||
               (digest == task.model_digest && versions.complete(digest, task.model_bytes));
    });
}

std::set<std::string> needed_by(const DownloadPlan& plan, const Task& task) {
    std::set<std::string> needed{task.model_digest, plan.base};
    for (const DownloadPlan::Piece& piece : plan.pieces) needed.insert(piece.digest);
    return needed;
}

// One step per round: as many as there were rounds lead from the first version.
std::string initial_digest(const Task& task) {
    if (task.steps.size() != task.round.get()) return "";
    return task.steps.empty() ? task.model_digest : task.steps.front().base_digest;
}

Result<Path> obtain_version(const Task& task, const VersionStore& versions) {
    const DownloadPlan plan = plan_download(task, versions);
    if (plan.base.empty()) return versions.verify(task.model_digest);
    Result<Path> made = [&]() -> Result<Path> {
        FEDLLM_TRY(const tensor::ParamSet params, follow_steps(task, plan, versions));
        return versions.add(task.model_digest, params);
    }();
    if (made || made.error().code == Errc::IoFailed) return made;
    return make_error(Errc::DigestMismatch,
                      "the steps received do not lead to the model version: " + made.error().message);
}

}  // namespace fedllm::client::agent
