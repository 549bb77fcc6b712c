// What encoding left out of this client's updates, on disk until it is added to the next one (error
// feedback).
//
// A residual counts only together with the update that left it: it is staged before that update is offered,
// kept once the server has counted the update, and dropped with an update that was not counted. Where that
// cannot be known, after a change of jobs, residuals are forgotten: adding one twice would be worse than
// never.
//
//   <folder>/<task>.<job>-<round>.staged     the residual that the task's update would leave
//   <folder>/<job>-<round>.residual          what the update of that round left
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/ids.hpp"
#include "common/base/result.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::update {

// Concurrency: a value that only knows its folder; one call at a time.
class ResidualStore {
public:
    static Result<ResidualStore> open(const Path& folder);

    // `job_text` is the job's canonical YAML: a server that was set up anew may give an old id to another
    // job.
    struct Key {
        JobId job;
        std::string job_text;
        RoundId round;
    };

    // The residual for the update of key.round. Nothing when there is none, when it is damaged or does not
    // fit the manifest, when it is from this round or a later one, and when it is stale: more than kRoundsMax
    // rounds old, so that it would pull towards where the model was. Of several the newest: it has the others
    // in it, whose removal a crash undid. What cannot be used is removed.
    std::optional<tensor::ParamSet> load(const Key& key, const tensor::Manifest& manifest) const;
    static constexpr std::uint32_t kRoundsMax = 10;

    // Replaces what is staged for the task.
    Result<void> stage(const TaskId& task, const Key& key, const tensor::ParamSet& residual) const;

    void keep(const TaskId& task) const;    // its update was counted
    void drop(const TaskId& task) const;    // it was not, and never will be
    void forget(const TaskId& task) const;  // nobody knows
    // A new task of `job` begins. What is still staged for others is from before a crash: it is kept if it is
    // `counted`'s, the job's newest task whose update the server counted, dropped if it is another one's of
    // the job, else forgotten.
    void settle_others(const TaskId& task, const JobId& job, const TaskId& counted) const;

private:
    explicit ResidualStore(Path folder) : folder_(std::move(folder)) {}
    std::vector<Path> files(const std::string& prefix, const char* extension) const;

    Path folder_;
};

}  // namespace fedllm::client::update
