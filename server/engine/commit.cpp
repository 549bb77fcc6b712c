#include "server/engine/commit.hpp"

#include <algorithm>

#include "common/codec/codec.hpp"
#include "common/formats/peft.hpp"
#include "common/tensor/fixed_point.hpp"
#include "server/aggregate/accumulator.hpp"
#include "server/aggregate/strategy.hpp"

namespace fedllm::server::engine {
namespace {

constexpr std::uint64_t kSliceElements = std::uint64_t{1} << 16;  // averaged at a time: stays in the cache

Result<void> add_update(const codec::Layout& layout, const Contribution& part, const ingest::Spool& spool,
                        aggregate::Accumulator& sum) {
    FEDLLM_TRY(const MappedFile update, spool.open_update(part.task, part.digest, part.bytes));
    return codec::decode(
        part.codec, layout, update.bytes(),
        [&](std::uint64_t first, std::span<const float> values) { sum.add(first, values, part.weight); });
}

// target += server_learning_rate * the contributions' mean.
Result<void> add_mean(const job::JobSpec& job, const codec::Layout& layout,
                      const std::vector<Contribution>& contributions, const ingest::Spool& spool,
                      std::span<float> target) {
    FEDLLM_TRY(const auto scale, tensor::FixedPoint::choose(tensor::bound_with_slack(job.update.clip_norm),
                                                            job::weight_total_max(job)));
    aggregate::Accumulator sum(layout.elements, scale);
    std::uint64_t total_weight = 0;
    for (const Contribution& part : contributions) {
        if (auto added = add_update(layout, part, spool, sum); !added) {
            return with_context(added.error(), "adding " + part.task.get());
        }
        total_weight += part.weight;
    }
    std::vector<float> mean;
    for (std::uint64_t first = 0; first < sum.elements(); first += kSliceElements) {
        mean.resize(std::min(kSliceElements, sum.elements() - first));
        sum.mean(first, mean, total_weight);
        aggregate::fed_avg(target.subspan(first, mean.size()), mean, job.server_learning_rate);
    }
    return {};
}

// What the versions up to `base` have left out: zeros for the initial one.
Result<std::vector<float>> read_residual(const store::VersionRow& base, std::uint64_t elements,
                                         const store::Versions& versions) {
    std::vector<float> residual(elements);
    if (base.residual_digest.empty()) return residual;
    FEDLLM_TRY(const MappedFile file, versions.map(store::Attachment::Residual, base.residual_digest));
    const std::span<std::byte> out = std::as_writable_bytes(std::span(residual));
    if (file.bytes().size() != out.size()) {
        return make_error(Errc::ManifestMismatch, "the residual " + base.residual_digest + " has " +
                                                      std::to_string(file.bytes().size()) +
                                                      " bytes, the version's values " +
                                                      std::to_string(out.size()));
    }
    std::copy(file.bytes().begin(), file.bytes().end(), out.begin());
    return residual;
}

// `latest` is replaced by rename, so that a reader always finds a whole adapter behind it.
Result<void> point_latest_at(const Path& folder) {
    const Path link = folder.parent_path() / "latest";
    const Path temporary = folder.parent_path() / "latest.new";
    FEDLLM_TRY_VOID(disk().remove(temporary));
    FEDLLM_TRY_VOID(disk().link(folder.filename(), temporary));
    FEDLLM_TRY_VOID(disk().rename(temporary, link));
    return disk().sync_directory(folder.parent_path());  // before the ledger says that the round is over
}

}  // namespace

Result<std::vector<std::byte>> advance(const codec::Spec& codec, const codec::Layout& layout,
                                       std::uint64_t key, std::span<float> version, std::span<float> step) {
    FEDLLM_TRY(auto encoded, codec::encode(codec::without_zeros(codec, step), layout, step, key));
    FEDLLM_TRY_VOID(
        codec::decode(codec.id, layout, encoded, [&](std::uint64_t first, std::span<const float> decoded) {
            for (std::size_t i = 0; i < decoded.size(); ++i) {
                const double exact = static_cast<double>(version[first + i]) + step[first + i];
                version[first + i] += decoded[i];
                step[first + i] = static_cast<float>(exact - version[first + i]);
            }
        }));
    return encoded;
}

Result<NewVersion> compute_version(const job::JobSpec& job, const store::VersionRow& base,
                                   const std::vector<Contribution>& contributions,
                                   const store::Versions& versions, const ingest::Spool& spool) {
    FEDLLM_TRY(tensor::ParamSet params, versions.read(base.digest));
    const codec::Layout layout = codec::layout_of(params.manifest());
    NewVersion next;
    if (job.download.codec.id == codec::CodecId::None) {
        FEDLLM_TRY_VOID(add_mean(job, layout, contributions, spool, params.values()));
    } else {
        FEDLLM_TRY(std::vector<float> step, read_residual(base, layout.elements, versions));
        FEDLLM_TRY_VOID(add_mean(job, layout, contributions, spool, step));
        FEDLLM_TRY(const auto encoded,
                   advance(job.download.codec, layout, base.round.get(), params.values(), step));
        FEDLLM_TRY(next.step, versions.write(store::Attachment::Step, encoded));
        FEDLLM_TRY(next.residual,
                   versions.write(store::Attachment::Residual, std::as_bytes(std::span(step))));
    }
    FEDLLM_TRY(next.file, versions.write(params));
    return next;
}

Result<Path> write_adapter(const job::JobSpec& job, const JobId& id, std::uint32_t rounds_done,
                           const std::string& digest, const store::Versions& versions,
                           const Path& state_directory) {
    char name[32];
    std::snprintf(name, sizeof name, "round-%04u", rounds_done);
    const Path folder = state_directory / "adapters" / id.get() / name;
    FEDLLM_TRY_VOID(make_directories(folder));
    FEDLLM_TRY(const tensor::ParamSet params, versions.read(digest));
    if (job.method == job::Method::Lora) {
        FEDLLM_TRY_VOID(formats::write_peft_adapter(folder, params, job.lora, job.base_model));
    } else {
        FEDLLM_TRY(const MappedFile version, versions.map(digest));
        FEDLLM_TRY_VOID(write_file_atomically(folder / "model.safetensors", version.bytes()));
    }
    FEDLLM_TRY_VOID(point_latest_at(folder));
    return folder;
}

double eval_loss_of(const std::vector<store::PartRow>& parts) {
    double sum = 0;
    std::uint64_t tokens = 0;
    for (const auto& part : parts) {
        sum += part.eval_tokens > 0 ? part.eval_loss_sum : 0.0;
        tokens += part.eval_tokens;
    }
    return tokens > 0 ? sum / static_cast<double>(tokens) : store::kNoLoss;
}

double train_loss_of(const std::vector<store::PartRow>& parts) {
    double sum = 0;
    std::uint64_t tokens = 0;
    for (const auto& part : parts) {
        if (part.status != store::PartStatus::Accepted) continue;
        sum += part.train_loss * static_cast<double>(part.tokens);
        tokens += part.tokens;
    }
    return tokens > 0 ? sum / static_cast<double>(tokens) : store::kNoLoss;
}

}  // namespace fedllm::server::engine
