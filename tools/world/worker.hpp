// A worker that only seems to train: its updates are numbers drawn from the task, built, encoded and kept by
// the same code as those of the workbench.
#pragma once

#include "client/agent/worker.hpp"
#include "common/tensor/param_set.hpp"
#include "tools/world/truth.hpp"

namespace fedllm::tools::world {

// The tensors of every job in the world, and the first version that a seed gives.
tensor::Manifest manifest();
tensor::ParamSet initial_version(std::uint64_t seed);

class SimulatedWorker final : public client::agent::Worker {
public:
    SimulatedWorker(Truth& truth, client::agent::VersionStore versions, client::update::UpdateStore updates)
        : truth_(truth), versions_(std::move(versions)), updates_(std::move(updates)) {}

    Result<void> make_initial(const client::agent::Task& task) override;
    client::agent::Event work(const client::agent::Task& task, const ClientId& client,
                              double link_bytes_per_second, const Report& report,
                              std::stop_token stop) override;
    std::string device() const override { return "simulated"; }

private:
    Result<client::agent::Event> try_work(const client::agent::Task& task, const ClientId& client,
                                          const Report& report);
    Result<client::update::Claim> train(const client::agent::Task& task, const ClientId& client,
                                        const tensor::ParamSet& start);

    Truth& truth_;
    client::agent::VersionStore versions_;
    client::update::UpdateStore updates_;
};

}  // namespace fedllm::tools::world
