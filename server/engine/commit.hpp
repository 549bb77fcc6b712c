// Closing a round: from the spooled updates to the next version, exactly. No clock, no network; runs on the
// pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/codec/codec.hpp"
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

// What a round makes: files that are on disk, and not yet in the ledger.
struct NewVersion {
    store::VersionFile file;
    store::VersionFile step;      // from the base; empty without a download codec
    store::VersionFile residual;  // the same
};

// new = base + server_learning_rate * (sum of weight * update) / (sum of weight). The same contributions give
// the same digests in any order. Memory: one set of parameters and one accumulator, however many
// contributions; with a download codec one set more.
//
// With a download codec the new version is what clients can make of the base and the encoded step, so that
// its digest holds for both; what encoding left out waits in the residual for the next round (error feedback,
// Karimireddy et al. 2019, 1901.09847, on the server's side). `none` means whole versions: here, and nowhere
// else.
Result<NewVersion> compute_version(const job::JobSpec& job, const store::VersionRow& base,
                                   const std::vector<Contribution>& contributions,
                                   const store::Versions& versions, const ingest::Spool& spool);

// version += decoded(encoded(step)), element by element in f32; `step` becomes what that leaves out of
// version + step, rounded once to f32. Returns the encoded bytes. `key` as for codec::encode.
Result<std::vector<std::byte>> advance(const codec::Spec& codec, const codec::Layout& layout,
                                       std::uint64_t key, std::span<float> version, std::span<float> step);

// <state>/adapters/<job>/round-0007: of the version after seven rounds.
Path adapter_folder(const Path& state_directory, const JobId& id, std::uint32_t rounds_done);

// adapter_folder(), filled: a PEFT adapter, or model.safetensors for method
// full; and the link `latest` beside it. Returns the folder.
Result<Path> write_adapter(const job::JobSpec& job, const JobId& id, std::uint32_t rounds_done,
                           const std::string& digest, const store::Versions& versions,
                           const Path& state_directory);

// The losses of a round, over everybody who reported: mean per held-out token, and per training token.
double eval_loss_of(const std::vector<store::PartRow>& parts);
double train_loss_of(const std::vector<store::PartRow>& parts);

}  // namespace fedllm::server::engine
