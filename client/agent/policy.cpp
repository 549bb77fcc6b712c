#include "client/agent/policy.hpp"

#include <algorithm>

#include "common/config/value.hpp"

namespace fedllm::client::agent {
namespace {

Error refused(const std::string& field, const std::string& asked, const std::string& rule) {
    return make_error(Errc::PolicyRefused,
                      "the job's " + field + " is " + asked + ", but this client's " + rule);
}

std::string listed(const std::vector<std::string>& items) {
    return config::Value<std::vector<std::string>>::print(items);
}

bool contains(const std::vector<std::string>& items, std::string_view item) {
    return std::find(items.begin(), items.end(), item) != items.end();
}

template <class T>
Result<void> at_most(const std::string& field, T asked, const std::string& key, T limit) {
    if (asked <= limit) return {};
    return refused(field, config::Value<T>::print(asked),
                   "policy." + key + " is " + config::Value<T>::print(limit));
}

Result<void> check_lora(const tensor::LoraSpec& lora, const Policy& policy) {
    FEDLLM_TRY_VOID(at_most("lora.rank", lora.rank, "lora_rank_max", policy.lora_rank_max));
    if (policy.target_modules.empty()) return {};
    for (const std::string& module : lora.target_modules) {
        if (!contains(policy.target_modules, module)) {
            return refused("lora.target_modules", listed(lora.target_modules),
                           "policy.target_modules is " + listed(policy.target_modules));
        }
    }
    return {};
}

}  // namespace

Result<void> check(const job::JobSpec& job, const Policy& policy) {
    const std::string method(config::enum_name(job.method));
    if (!contains(policy.methods, method)) {
        return refused("method", method, "policy.methods is " + listed(policy.methods));
    }
    if (job.method == job::Method::Lora) FEDLLM_TRY_VOID(check_lora(job.lora, policy));
    FEDLLM_TRY_VOID(at_most("train.sequence_length", job.train.sequence_length, "sequence_length_max",
                            policy.sequence_length_max));
    FEDLLM_TRY_VOID(
        at_most("train.batch_rows", job.train.batch_rows, "batch_rows_max", policy.batch_rows_max));
    FEDLLM_TRY_VOID(
        at_most("train.local_steps", job.train.local_steps, "local_steps_max", policy.local_steps_max));
    FEDLLM_TRY_VOID(at_most("rounds", job.rounds, "rounds_max", policy.rounds_max));
    return at_most("update.clip_norm", job.update.clip_norm, "clip_norm_max", policy.clip_norm_max);
}

Result<void> check_steps(std::uint64_t steps, const Policy& policy) {
    if (steps <= policy.local_steps_max) return {};
    return refused("train.local_steps", "one pass over the data, here " + std::to_string(steps) + " steps",
                   "policy.local_steps_max is " + std::to_string(policy.local_steps_max));
}

Result<void> check_base(const job::JobSpec& job, const std::string& fingerprint) {
    if (job.base_fingerprint.empty() || job.base_fingerprint == fingerprint) return {};
    return make_error(Errc::PolicyRefused, "the job's base_fingerprint is " + job.base_fingerprint +
                                               ", but the folder "
                                               "this client lists as '" +
                                               job.base_model + "' holds weights with fingerprint " +
                                               fingerprint + "; install the weights the job was made for");
}

}  // namespace fedllm::client::agent
