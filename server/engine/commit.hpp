// Closing a round: from the sum of its updates to the next version, exactly, as a stream over slices. No
// clock, no network; runs on the pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/codec/codec.hpp"
#include "common/job/job_spec.hpp"
#include "server/engine/helpers.hpp"
#include "server/engine/round_sum.hpp"
#include "server/store/rows.hpp"
#include "server/store/versions.hpp"

namespace fedllm::server::engine {

// Verified bytes of a version or a step. Who shares: every connection that is sending them, the engine's
// cache, and the round that starts from them.
using SharedVersion = std::shared_ptr<const MappedFile>;

// What a round starts from.
struct RoundBase {
    store::VersionRow row;
    SharedVersion version;
    SharedVersion residual;  // null: nothing was left out so far
    Path outdated = {};      // the version before, where there was one
};
// Maps what `row` names, its bytes checked: NotFound, DigestMismatch.
Result<RoundBase> map_base(const store::VersionRow& row, const store::Versions& versions);
// ManifestMismatch where its files are of another size.
Result<void> check_base(const RoundBase& base, const tensor::Manifest& manifest);
Result<RoundBase> open_base(const store::VersionRow& row, const store::Versions& versions,
                            const tensor::Manifest& manifest);

// What a round makes: files under their names, not yet synced, and not yet in the ledger.
struct NewVersion {
    store::VersionFile file;
    store::VersionFile step;      // from the base; empty without a download codec
    store::VersionFile residual;  // the same
    SharedVersion version_bytes;
    SharedVersion residual_bytes;
    std::vector<Path> paths;  // for Versions::sync
};

// new = base + server_learning_rate * sum / total weight. The same contributions give the same digests in any
// order. Memory: a few slices; base, new version and residual are files, and mapped. The digests are
// computed beside the values, and the step is encoded, with who helps.
//
// With a download codec the new version is what clients can make of the base and the encoded step, so that
// its digest holds for both; what encoding left out waits in the residual for the next round (error feedback,
// Karimireddy et al. 2019, 1901.09847, on the server's side). `none` means whole versions: here, and nowhere
// else.
Result<NewVersion> compute_version(const job::JobSpec& job, const RoundBase& base, const RoundSum& sum,
                                   const store::Versions& versions, const Helpers& helpers);

// version = base + decoded(encoded(step)), element by element in f32; left = what that leaves out of base +
// step, rounded once to f32. Both are given to the sink in order, a slice at a time, when the step's slice
// has been read. Returns the encoded bytes. `key` as for codec::encode.
using AdvanceSink = std::function<void(std::span<const float> version, std::span<const float> left)>;
Result<std::vector<std::byte>> advance(const codec::Spec& codec, const codec::Layout& layout,
                                       std::uint64_t key, std::span<const float> base,
                                       std::span<const float> step, const AdvanceSink& sink,
                                       const Helpers& helpers = {});

// <state>/adapters/<job>/round-0007: of the version after seven rounds.
Path adapter_folder(const Path& state_directory, const JobId& id, std::uint32_t rounds_done);

// adapter_folder(), filled: a PEFT adapter, or model.safetensors for method
// full; and the link `latest` beside it. Returns the folder.
Result<Path> write_adapter(const job::JobSpec& job, const JobId& id, std::uint32_t rounds_done,
                           const tensor::Manifest& manifest, std::span<const std::byte> version,
                           const Path& state_directory);

// The losses of a round, over everybody who reported: mean per held-out token, and per training token.
double eval_loss_of(const std::vector<store::PartRow>& parts);
double train_loss_of(const std::vector<store::PartRow>& parts);

}  // namespace fedllm::server::engine
