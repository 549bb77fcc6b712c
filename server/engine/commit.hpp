// Closing a round: from the spooled updates to the next version, exactly. No clock, no network; runs on the
// pool.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/job/job_spec.hpp"
#include "server/ingest/spool.hpp"
#include "server/store/rows.hpp"
#include "server/store/versions.hpp"

namespace fedllm::server::engine {

// What the sum needs of one accepted part.
struct Contribution {
    TaskId task;
    std::string digest;
    std::uint64_t bytes = 0;
    std::uint64_t weight = 0;
    codec::CodecId codec = codec::CodecId::None;
};

// new = old + server_learning_rate * (sum of weight * update) / (sum of weight). The same contributions give
// the same digest in any order. Memory: one set of parameters and one accumulator, however many
// contributions.
Result<store::VersionFile> compute_version(const job::JobSpec& job, const std::string& old_digest,
                                           const std::vector<Contribution>& contributions,
                                           const store::Versions& versions, const ingest::Spool& spool);

// <state>/adapters/<job>/round-0007 (seven rounds done): a PEFT adapter, or model.safetensors for method
// full; and the link `latest` beside it. Returns the folder.
Result<Path> write_adapter(const job::JobSpec& job, const JobId& id, std::uint32_t rounds_done,
                           const std::string& digest, const store::Versions& versions,
                           const Path& state_directory);

// The losses of a round, over everybody who reported: mean per held-out token, and per training token.
double eval_loss_of(const std::vector<store::PartRow>& parts);
double train_loss_of(const std::vector<store::PartRow>& parts);

}  // namespace fedllm::server::engine
