// What a job takes in memory, told before any of it is taken: for `fedllm check`, and for clients to refuse
// what cannot fit.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "client/engine/engine.hpp"
#include "client/model/base_model.hpp"
#include "common/base/result.hpp"
#include "common/job/job_spec.hpp"

namespace fedllm::client::train {

// Where the job is computed: on a GPU, its memory holds gradients, optimizer and buffers.
enum class Where { Cpu, Gpu };

// Bytes of the machine's own memory, at the peak of a round. The frozen base counts in full, although pages
// of its file can be read again and an embedding table that is not the head is touched only where texts have
// its tokens.
struct MemoryPlan {
    std::size_t micro_rows = 0;  // rows of a batch that are computed at once
    std::size_t base = 0;        // frozen weights: pages of the file, and copies in another type
    std::size_t parameters = 0;  // what is trained, and the version it started from
    std::size_t gradients = 0;
    std::size_t optimizer = 0;  // AdamW's two moments
    std::size_t buffers = 0;    // activations from forward to backward, and the threads' scratch
    std::size_t update = 0;     // the change and its encoding, when training is done
    std::size_t program = 0;    // code, libraries, tokenizer

    std::size_t total() const {
        return base + parameters + gradients + optimizer + buffers + update + program;
    }
    std::string text() const;  // "1.2 GB: base 540 MB, buffers 600 MB, ..."
};

// `model` may be held in any way: base.storage of the job is what is planned for. Errors as
// Trainer::create().
Result<MemoryPlan> plan_memory(const model::BaseModel& model, const job::JobSpec& job, unsigned threads,
                               Where where = Where::Cpu);

// TooLarge, with the numbers, if the plan needs more than `limit` bytes.
Result<void> check_fits(const MemoryPlan& plan, std::size_t limit);

// The largest number of a batch's rows for which `bytes_of` an engine's buffers is at most `most`. TooLarge
// where one row needs absurdly much.
Result<engine::Limits> choose_limits(const job::TrainSpec& train,
                                     const std::function<std::size_t(const engine::Limits&)>& bytes_of,
                                     std::size_t most);

// What a job trains: every tensor of the model, or the adapters.
Result<tensor::Manifest> trained_manifest(const model::ModelConfig& config, const job::JobSpec& job);

}  // namespace fedllm::client::train
