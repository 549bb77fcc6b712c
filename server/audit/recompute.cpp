// The mean again, from what is kept.
#include <algorithm>
#include <cstring>

#include "common/codec/codec.hpp"
#include "common/crypto/sha256.hpp"
#include "common/job/job_spec.hpp"
#include "server/aggregate/accumulator.hpp"
#include "server/aggregate/strategy.hpp"
#include "server/audit/audit.hpp"
#include "server/engine/commit.hpp"

namespace fedllm::server::audit {
namespace {

constexpr std::uint64_t kSliceElements = std::uint64_t{1} << 16;

// A client may always send plain values; anything else that was accepted is in the job's codec.
codec::CodecId codec_of(const store::PartRow& part, const job::JobSpec& job) {
    return part.codec == codec::name(codec::CodecId::None) ? codec::CodecId::None : job.update.codec.id;
}

// target += server_learning_rate * the contributions' mean.
Result<void> add_mean(const job::JobSpec& job, const codec::Layout& layout,
                      const std::vector<store::PartRow>& counted, const ingest::Spool& spool,
                      std::span<float> target) {
    FEDLLM_TRY(const auto scale, job::sum_scale(job));
    aggregate::Accumulator sum(layout.elements, scale, job.aggregation.sum_bits);
    std::uint64_t weights = 0;
    for (const store::PartRow& part : counted) {
        FEDLLM_TRY(const MappedFile update, spool.open_update(part.task, part.update_digest, part.bytes));
        FEDLLM_TRY_VOID(codec::decode(codec_of(part, job), layout, update.bytes(),
                                      [&](std::uint64_t first, std::span<const float> values) {
                                          sum.add(first, values, part.weight);
                                      }));
        weights += part.weight;
    }
    std::vector<float> mean;
    for (std::uint64_t first = 0; first < sum.elements(); first += kSliceElements) {
        mean.resize(std::min(kSliceElements, sum.elements() - first));
        sum.mean(first, mean, weights);
        aggregate::fed_avg(target.subspan(first, mean.size()), mean, job.server_learning_rate);
    }
    return {};
}

Result<std::vector<float>> read_residual(const std::string& digest, std::uint64_t elements,
                                         const store::Versions& versions) {
    std::vector<float> residual(elements);
    if (digest.empty()) return residual;
    FEDLLM_TRY(const MappedFile file, versions.map(store::Attachment::Residual, digest));
    if (file.bytes().size() != elements * sizeof(float)) {
        return make_error(Errc::ManifestMismatch, "the residual " + digest + " is not of this job");
    }
    std::memcpy(residual.data(), file.bytes().data(), file.bytes().size());
    return residual;
}

Error differs(const store::VersionRow& next, const std::string& what) {
    return make_error(Errc::DigestMismatch, "the mean of its updates does not give " + what + " of version " +
                                                next.digest.substr(0, 12));
}

}  // namespace

Result<void> recompute(const std::string& job_yaml, const store::VersionRow& base,
                       const store::VersionRow& next, const std::vector<store::PartRow>& counted,
                       const store::Versions& versions, const ingest::Spool& spool) {
    FEDLLM_TRY(const job::JobSpec job, job::parse_job(job_yaml, "job " + base.job.get()));
    for (const store::PartRow& part : counted) {  // the usual case: say so before anything large is read
        std::error_code code;
        if (std::filesystem::exists(spool.update_path(part.task, part.update_digest), code)) continue;
        return make_error(Errc::NotFound, "the update of " + part.client.get() + " is not kept");
    }
    FEDLLM_TRY(tensor::ParamSet computed, versions.read(base.digest));
    const codec::Layout layout = codec::layout_of(computed.manifest());
    if (job.download.codec.id == codec::CodecId::None) {
        FEDLLM_TRY_VOID(add_mean(job, layout, counted, spool, computed.values()));
    } else {
        FEDLLM_TRY(std::vector<float> step, read_residual(base.residual_digest, layout.elements, versions));
        FEDLLM_TRY_VOID(add_mean(job, layout, counted, spool, step));
        const std::span<float> values = computed.values();  // each is read before it is written
        FEDLLM_TRY(const auto encoded,
                   engine::advance(job.download.codec, layout, base.round.get(), values, step,
                                   [&](std::uint64_t first, std::span<const float> version) {
                                       std::copy(version.begin(), version.end(), values.begin() + first);
                                   }));
        if (crypto::to_hex(crypto::sha256(encoded)) != next.encoded_digest) return differs(next, "the step");
    }
    FEDLLM_TRY(const tensor::ParamSet committed, versions.read(next.digest));
    if (computed.manifest() != committed.manifest()) return differs(next, "the tensors");
    const std::size_t bytes = computed.values().size_bytes();
    if (std::memcmp(computed.values().data(), committed.values().data(), bytes) != 0) {
        return differs(next, "the values");
    }
    return {};
}

}  // namespace fedllm::server::audit
