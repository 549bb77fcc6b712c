#include "server/engine/commit.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "common/formats/param_set_file.hpp"
#include "common/formats/peft.hpp"
#include "server/aggregate/strategy.hpp"

namespace fedllm::server::engine {
namespace {

constexpr std::uint64_t kSliceElements = std::uint64_t{1} << 15;  // at a time: stays in the cache

// Written at a time: much of a large file, for which fresh memory seems to be cheaper so
// (tests/bench/RESULTS.md); little of a small one, so that its hash is not long behind.
std::size_t elements_at_once(std::uint64_t file_bytes) {
    return std::clamp<std::uint64_t>(file_bytes / 256, kSliceElements, std::uint64_t{1} << 19);
}

// A file of the versions folder, from its first byte to its last, hashed on the way.
class FileStream {
public:
    FileStream(store::UnnamedFile& file, PrefixHashes& hashes, PrefixHashes::Which which)
        : file_(file), hashes_(hashes), which_(which), slice_(elements_at_once(file.bytes().size())) {}

    Result<void> append(std::span<const std::byte> bytes) {
        FEDLLM_TRY_VOID(file_.write(written_, bytes));
        written_ += bytes.size();
        hashes_.extend(which_, written_);
        return {};
    }
    // Room for the next values; as many as room() has are written at once, and the last.
    std::span<float> room() { return std::span(slice_).subspan(filled_); }
    Result<void> filled(std::size_t count) {
        filled_ += count;
        return filled_ == slice_.size() ? flush() : Result<void>{};
    }
    Result<void> values(std::span<const float> some) {
        while (!some.empty()) {
            const std::size_t count = std::min(some.size(), room().size());
            std::copy_n(some.begin(), count, room().begin());
            FEDLLM_TRY_VOID(filled(count));
            some = some.subspan(count);
        }
        return {};
    }
    Result<store::VersionFile> finish() {
        FEDLLM_TRY_VOID(flush());
        return store::VersionFile{crypto::to_hex(hashes_.finish(which_)), written_};
    }

private:
    Result<void> flush() {
        const std::size_t count = std::exchange(filled_, 0);
        return append(std::as_bytes(std::span(slice_).first(count)));
    }

    store::UnnamedFile& file_;
    PrefixHashes& hashes_;
    PrefixHashes::Which which_;
    std::vector<float> slice_;
    std::size_t filled_ = 0;
    std::uint64_t written_ = 0;
};

// target += server_learning_rate * mean, for some elements.
void add_mean(const job::JobSpec& job, const RoundSum& sum, std::uint64_t total_weight, std::uint64_t first,
              std::span<float> target, std::vector<float>& mean) {
    mean.resize(target.size());
    sum.values().mean(first, mean, total_weight);
    aggregate::fed_avg(target, mean, job.server_learning_rate);
}

Result<void> name_version(const store::Versions& versions, store::UnnamedFile file, NewVersion& next) {
    FEDLLM_TRY(MappedFile bytes, versions.publish(std::move(file), next.file.digest));
    next.version_bytes = std::make_shared<const MappedFile>(std::move(bytes));
    next.paths.push_back(versions.path_of(next.file.digest));
    return {};
}

Result<NewVersion> whole_version(const job::JobSpec& job, const RoundSum& sum, std::span<const float> base,
                                 const Path& outdated, const store::Versions& versions,
                                 const Helpers& helpers) {
    NewVersion next;
    FEDLLM_TRY(const auto header, formats::param_set_header(sum.shape().manifest));
    FEDLLM_TRY(store::UnnamedFile file, versions.create(header.size() + base.size_bytes(), outdated));
    PrefixHashes hashes(helpers, file.bytes());
    FileStream stream(file, hashes, PrefixHashes::Which::First);
    FEDLLM_TRY_VOID(stream.append(header));
    const std::uint64_t total_weight = sum.total_weight();
    std::vector<float> mean;
    for (std::uint64_t first = 0; first < base.size();) {
        const std::span<float> slice = stream.room().first(
            std::min<std::uint64_t>({stream.room().size(), kSliceElements, base.size() - first}));
        std::copy_n(base.begin() + static_cast<std::ptrdiff_t>(first), slice.size(), slice.begin());
        add_mean(job, sum, total_weight, first, slice, mean);
        first += slice.size();
        FEDLLM_TRY_VOID(stream.filled(slice.size()));
    }
    FEDLLM_TRY(next.file, stream.finish());
    FEDLLM_TRY_VOID(name_version(versions, std::move(file), next));
    return next;
}

// residual + server_learning_rate * mean, into a file; how many of it are zero. Written and not through its
// map, whose every page would fault.
Result<std::uint64_t> write_step(const job::JobSpec& job, const RoundSum& sum, const SharedVersion& residual,
                                 store::UnnamedFile& file, const Helpers& helpers) {
    const std::uint64_t total_weight = sum.total_weight();
    const std::uint64_t elements = sum.shape().layout.elements;
    const std::uint64_t slices = (elements + kSliceElements - 1) / kSliceElements;
    std::vector<std::uint64_t> zeros(slices);
    std::vector<Result<void>> written(slices);
    helpers.in_parts(slices, [&](std::size_t i) {
        const std::uint64_t first = i * kSliceElements;
        std::vector<float> slice(std::min(kSliceElements, elements - first)), mean;
        if (residual) {
            const auto bytes = residual->bytes().subspan(first * sizeof(float), slice.size() * sizeof(float));
            std::memcpy(slice.data(), bytes.data(), bytes.size());
        }
        add_mean(job, sum, total_weight, first, slice, mean);
        zeros[i] = static_cast<std::uint64_t>(std::count(slice.begin(), slice.end(), 0.0F));
        written[i] = file.write(first * sizeof(float), std::as_bytes(std::span(slice)));
    });
    for (const Result<void>& one : written) FEDLLM_TRY_VOID(one);
    return std::accumulate(zeros.begin(), zeros.end(), std::uint64_t{0});
}

// The step lies in a file of its own, mapped, and what encoding leaves of it is the residual: the same file.
Result<NewVersion> coded_version(const job::JobSpec& job, const RoundSum& sum, const RoundBase& base,
                                 std::span<const float> base_values, const store::Versions& versions,
                                 const Helpers& helpers) {
    NewVersion next;
    FEDLLM_TRY(store::UnnamedFile residual, versions.create(base_values.size_bytes()));
    FEDLLM_TRY(const std::uint64_t zeros, write_step(job, sum, base.residual, residual, helpers));
    const std::span step(reinterpret_cast<const float*>(residual.bytes().data()), base_values.size());
    FEDLLM_TRY(const auto header, formats::param_set_header(sum.shape().manifest));
    FEDLLM_TRY(store::UnnamedFile file,
               versions.create(header.size() + base_values.size_bytes(), base.outdated));
    std::optional<PrefixHashes> hashes;
    std::optional<FileStream> version, left_out;
    Result<void> streamed;
    const auto begin = [&] {  // not before the encoder has done with who helps
        hashes.emplace(helpers, file.bytes(), residual.bytes());
        version.emplace(file, *hashes, PrefixHashes::Which::First);
        left_out.emplace(residual, *hashes, PrefixHashes::Which::Second);
        streamed = version->append(header);
    };
    const codec::Spec spec = codec::without_zeros(job.download.codec, step.size(), zeros);
    FEDLLM_TRY(const auto encoded, advance(
                                       spec, sum.shape().layout, base.row.round.get(), base_values, step,
                                       [&](std::span<const float> values, std::span<const float> left) {
                                           if (!hashes) begin();
                                           if (streamed) streamed = version->values(values);
                                           if (streamed) streamed = left_out->values(left);
                                       },
                                       helpers));
    if (!hashes) begin();
    FEDLLM_TRY_VOID(streamed);
    FEDLLM_TRY(store::UnnamedFile step_file, versions.create(encoded.size()));
    FEDLLM_TRY_VOID(step_file.write(0, encoded));
    next.step = {crypto::to_hex(crypto::sha256(encoded)), encoded.size()};
    FEDLLM_TRY(next.file, version->finish());
    FEDLLM_TRY(next.residual, left_out->finish());
    hashes.reset();  // before the maps that it reads
    FEDLLM_TRY_VOID(name_version(versions, std::move(file), next));
    using store::Attachment;
    FEDLLM_TRY_VOID(versions.publish(Attachment::Step, std::move(step_file), next.step.digest));
    FEDLLM_TRY(MappedFile left,
               versions.publish(Attachment::Residual, std::move(residual), next.residual.digest));
    next.residual_bytes = std::make_shared<const MappedFile>(std::move(left));
    next.paths.push_back(versions.path_of(Attachment::Step, next.step.digest));
    next.paths.push_back(versions.path_of(Attachment::Residual, next.residual.digest));
    return next;
}

// `latest` is replaced by rename, so that a reader always finds a whole adapter behind it.
Result<void> point_latest_at(const Path& folder) {
    const Path link = folder.parent_path() / "latest";
    const Path temporary = folder.parent_path() / "latest.new";
    FEDLLM_TRY_VOID(disk().remove(temporary));
    FEDLLM_TRY_VOID(disk().link(folder.filename(), temporary));
    FEDLLM_TRY_VOID(disk().rename(temporary, link));
    return disk().sync_directory(folder.parent_path());  // before the ledger says that the job is over
}

}  // namespace

Result<RoundBase> map_base(const store::VersionRow& row, const store::Versions& versions) {
    RoundBase base{row, nullptr, nullptr};
    FEDLLM_TRY(MappedFile version, versions.map(row.digest));
    base.version = std::make_shared<const MappedFile>(std::move(version));
    if (row.residual_digest.empty()) return base;
    FEDLLM_TRY(MappedFile residual, versions.map(store::Attachment::Residual, row.residual_digest));
    base.residual = std::make_shared<const MappedFile>(std::move(residual));
    return base;
}

Result<void> check_base(const RoundBase& base, const tensor::Manifest& manifest) {
    FEDLLM_TRY_VOID(formats::param_set_values(base.version->bytes(), manifest));
    const std::uint64_t values = manifest.elements() * sizeof(float);
    if (!base.residual || base.residual->bytes().size() == values) return {};
    return make_error(Errc::ManifestMismatch, "the residual " + base.row.residual_digest + " has " +
                                                  std::to_string(base.residual->bytes().size()) +
                                                  " bytes, the version's values " + std::to_string(values));
}

Result<RoundBase> open_base(const store::VersionRow& row, const store::Versions& versions,
                            const tensor::Manifest& manifest) {
    FEDLLM_TRY(RoundBase base, map_base(row, versions));
    FEDLLM_TRY_VOID(check_base(base, manifest));
    return base;
}

Result<std::vector<std::byte>> advance(const codec::Spec& codec, const codec::Layout& layout,
                                       std::uint64_t key, std::span<const float> base,
                                       std::span<const float> step, const AdvanceSink& sink,
                                       const Helpers& helpers) {
    const auto in_parts = [&](std::size_t count, const auto& each) { helpers.in_parts(count, each); };
    FEDLLM_TRY(auto encoded, codec::encode(codec, layout, step, key, in_parts));
    std::vector<float> next(codec::kSliceValuesMax), left(codec::kSliceValuesMax);
    FEDLLM_TRY_VOID(
        codec::decode(codec.id, layout, encoded, [&](std::uint64_t first, std::span<const float> decoded) {
            const auto from = base.subspan(first, decoded.size());
            const auto wanted = step.subspan(first, decoded.size());
            for (std::size_t i = 0; i < decoded.size(); ++i) {
                const double exact = static_cast<double>(from[i]) + wanted[i];
                next[i] = from[i] + decoded[i];
                left[i] = static_cast<float>(exact - next[i]);
            }
            sink(std::span(next).first(decoded.size()), std::span(left).first(decoded.size()));
        }));
    return encoded;
}

Result<NewVersion> compute_version(const job::JobSpec& job, const RoundBase& base, const RoundSum& sum,
                                   const store::Versions& versions, const Helpers& helpers) {
    FEDLLM_TRY(const auto base_values,
               formats::param_set_values(base.version->bytes(), sum.shape().manifest));
    if (job.download.codec.id == codec::CodecId::None) {
        return whole_version(job, sum, base_values, base.outdated, versions, helpers);
    }
    return coded_version(job, sum, base, base_values, versions, helpers);
}

Path adapter_folder(const Path& state_directory, const JobId& id, std::uint32_t rounds_done) {
    char name[32];
    std::snprintf(name, sizeof name, "round-%04u", rounds_done);
    return state_directory / "adapters" / id.get() / name;
}

Result<Path> write_adapter(const job::JobSpec& job, const JobId& id, std::uint32_t rounds_done,
                           const tensor::Manifest& manifest, std::span<const std::byte> version,
                           const Path& state_directory) {
    const Path folder = adapter_folder(state_directory, id, rounds_done);
    FEDLLM_TRY_VOID(make_directories(folder));
    if (job.method == job::Method::Lora) {
        FEDLLM_TRY_VOID(formats::write_peft_adapter(folder, manifest, version, job.lora, job.base_model));
    } else {
        FEDLLM_TRY_VOID(write_file_atomically(folder / "model.safetensors", version));
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
