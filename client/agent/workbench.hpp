// Where the work is done: resident base models, the data set, the trainer. Everything here may take long and
// runs on the worker's thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "client/agent/client_config.hpp"
#include "client/agent/machine.hpp"
#include "client/agent/version_store.hpp"
#include "client/agent/worker.hpp"
#include "client/data/dataset.hpp"
#include "client/data/tokenizer.hpp"
#include "client/model/base_model.hpp"
#include "client/train/devices.hpp"
#include "client/update/builder.hpp"
#include "client/update/update_store.hpp"

namespace fedllm::client::agent {

// The task's results are keyed by the job's seed, the round and the client: the same task gives the same
// bytes on every run, and clients with the same data differ in their order.
std::uint64_t training_seed(std::uint64_t job_seed, RoundId round, const ClientId& client);

// Lifecycle: base models are loaded once, in open(), and once more for jobs that want them held otherwise;
// data set and trainer stay for the tasks of one job. Concurrency: one call at a time.
class Workbench final : public Worker {
public:
    // Fails for a model folder that cannot be used and a data file that is not there: better now than in a
    // task.
    static Result<std::unique_ptr<Workbench>> open(const ClientConfig& config, VersionStore versions,
                                                   update::UpdateStore updates);

    Result<void> make_initial(const Task& task) override;
    Event work(const Task& task, const ClientId& client, double link_bytes_per_second, const Report& report,
               std::stop_token stop) override;
    std::string device() const override { return devices_->name(); }

private:
    struct Resident {
        model::BaseModel model;
        data::Tokenizer tokenizer;
        std::string fingerprint;  // of the files
        Path folder;
        // The same model as a job wants it held, if not as it is stored. One at a time: it has memory of its
        // own.
        tensor::BaseSpec held_as;
        std::optional<model::BaseModel> held;
    };
    struct Bench {  // for one job
        JobId job_id;
        job::JobSpec job;
        data::Dataset dataset;
        std::unique_ptr<train::Trainer> trainer;
    };

    Workbench(const ClientConfig& config, VersionStore versions, update::UpdateStore updates,
              std::unique_ptr<train::Devices> devices)
        : config_(config),
          versions_(std::move(versions)),
          updates_(std::move(updates)),
          devices_(std::move(devices)) {}

    static Result<Resident> load_resident(const Path& folder);
    Result<const model::BaseModel*> model_for(const job::JobSpec& job, Resident& resident) const;
    Result<void> check_memory(const job::JobSpec& job, const model::BaseModel& model,
                              train::Where where) const;
    Result<Bench*> bench_for(const Task& task);
    Result<update::Evaluation> evaluate(const tensor::ParamSet& params);
    Result<update::Claim> train(const Task& task, const ClientId& client, const Report& report,
                                std::stop_token stop, const tensor::ParamSet& start);
    Result<update::EncodedUpdate> encode(const Task& task, const ClientId& client,
                                         const tensor::ParamSet& start,
                                         const tensor::ParamSet& trained) const;
    Result<update::EncodedUpdate> build(const tensor::ParamSet& start, const tensor::ParamSet& trained,
                                        const update::BuildRequest& request) const;
    Result<Event> try_work(const Task& task, const ClientId& client, const Report& report,
                           std::stop_token stop);

    ClientConfig config_;
    VersionStore versions_;
    update::UpdateStore updates_;
    std::unique_ptr<train::Devices> devices_;
    std::map<std::string, Resident> residents_;
    std::unique_ptr<Bench> bench_;
    double link_bytes_per_second_ = 0;
};

}  // namespace fedllm::client::agent
