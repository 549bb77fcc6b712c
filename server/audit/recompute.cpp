// The mean again, from what is kept.
#include <algorithm>
#include <cstring>

#include "common/base/disk.hpp"
#include "common/crypto/sha256.hpp"
#include "common/job/job_spec.hpp"
#include "server/aggregate/strategy.hpp"
#include "server/audit/audit.hpp"
#include "server/engine/commit.hpp"

namespace fedllm::server::audit {
namespace {

constexpr std::uint64_t kSliceElements = std::uint64_t{1} << 16;

// target += server_learning_rate * the contributions' mean.
Result<void> add_mean(const job::JobSpec& job, const engine::SharedShape& shape,
                      const std::vector<store::PartRow>& counted, const ingest::Spool& spool,
                      std::span<float> target) {
    FEDLLM_TRY(const auto scale, job::sum_scale(job));
    engine::RoundSum sum(shape, scale, job.aggregation.sum_bits);
    for (const store::PartRow& part : counted) {
        const engine::Contribution one = engine::contribution_of(part, job);
        FEDLLM_TRY_VOID(sum.add(one, spool));
        sum.count(one);
    }
    if (sum.total_weight() == 0) return make_error(Errc::Malformed, "nothing that it counts has a weight");
    std::vector<float> mean;
    for (std::uint64_t first = 0; first < target.size(); first += kSliceElements) {
        mean.resize(std::min<std::uint64_t>(kSliceElements, target.size() - first));
        sum.values().mean(first, mean, sum.total_weight());
        aggregate::fed_avg(target.subspan(first, mean.size()), mean, job.server_learning_rate);
    }
    return {};
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
        FEDLLM_TRY(const auto kept, disk().find(spool.update_path(part.task, part.update_digest)));
        if (!kept) return make_error(Errc::NotFound, "the update of " + part.client.get() + " is not kept");
    }
    FEDLLM_TRY(tensor::ParamSet computed, versions.read(base.digest));
    const auto shape = std::make_shared<const engine::JobShape>(computed.manifest());
    if (job.download.codec.id == codec::CodecId::None) {
        FEDLLM_TRY_VOID(add_mean(job, shape, counted, spool, computed.values()));
    } else {
        FEDLLM_TRY(const auto from, engine::open_base(base, versions, shape->manifest));
        std::vector<float> step(shape->layout.elements);
        if (from.residual)
            std::memcpy(step.data(), from.residual->bytes().data(), from.residual->bytes().size());
        FEDLLM_TRY_VOID(add_mean(job, shape, counted, spool, step));
        const std::span<float> values = computed.values();  // each is read before it is written
        FEDLLM_TRY(const auto encoded,
                   engine::advance(codec::without_zeros(job.download.codec, step), shape->layout,
                                   base.round.get(), values, step,
                                   [&, first = values.begin()](std::span<const float> version, auto) mutable {
                                       first = std::copy(version.begin(), version.end(), first);
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
