// Who does a task's work, as the agent sees it: the workbench, or in simulated worlds something that only
// seems to train.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "client/agent/client_config.hpp"
#include "client/agent/machine.hpp"
#include "client/agent/version_store.hpp"
#include "client/update/update_store.hpp"

namespace fedllm::client::agent {

// Concurrency: one call at a time, away from the agent's executor.
class Worker {
public:
    using Report = std::function<void(const Progress&)>;

    virtual ~Worker() = default;

    // Makes the job's first version from its seed, and keeps it if the task starts from it or its first step
    // does. NotFound where the seed does not give it: it was made otherwise.
    virtual Result<void> make_initial(const Task& task) = 0;

    // Trained, Evaluated or WorkFailed.
    // link_bytes_per_second: measured with the last upload; 0: not yet.
    virtual Event work(const Task& task, const ClientId& client, double link_bytes_per_second,
                       const Report& report, std::stop_token stop) = 0;

    virtual std::string device() const = 0;
};

// Makes the worker of an agent that keeps versions and updates there.
using WorkerMaker =
    std::function<Result<std::unique_ptr<Worker>>(const ClientConfig&, VersionStore, update::UpdateStore)>;

// The one that trains.
Result<std::unique_ptr<Worker>> make_workbench(const ClientConfig& config, VersionStore versions,
                                               update::UpdateStore updates);

}  // namespace fedllm::client::agent
