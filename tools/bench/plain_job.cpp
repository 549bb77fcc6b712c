#include "tools/bench/plain_job.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "common/base/philox.hpp"
#include "common/codec/codec.hpp"
#include "common/config/value.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"

namespace fedllm::tools::bench {
namespace {

constexpr std::uint64_t kTensorElements = std::uint64_t{1} << 24;  // 64 MiB each: layers of a large model

std::uint64_t elements_of(const PlainJob& job) {
    return std::max<std::uint64_t>(job.bytes / sizeof(float), 1);
}

// What the job clips at; an update has 0.4 of it.
double clip_norm_of(const PlainJob& job) { return job.sum_bits == 32 ? 0.5 : 10; }

Result<tensor::Manifest> manifest_of(const PlainJob& job) {
    std::vector<tensor::TensorSpec> tensors;
    for (std::uint64_t left = elements_of(job); left > 0;) {
        const std::uint64_t elements = std::min(left, kTensorElements);
        tensors.push_back({"bench.layers." + std::to_string(tensors.size()) + ".weight", {elements}});
        left -= elements;
    }
    return tensor::Manifest::create(std::move(tensors));
}

std::string yaml_of(const PlainJob& job) {
    const std::string clients = std::to_string(job.clients);
    return "name: plain\nbase_model: none\nmethod: full\nrounds: " + std::to_string(job.rounds) +
           "\nclients_per_round: " + clients + "\nclients_minimum: " + clients +
           "\nweighting: uniform\naggregation: {sum_bits: " + std::to_string(job.sum_bits) +
           "}\nupdate: {codec: none, clip_norm: " + config::print_double(clip_norm_of(job)) +
           "}\ndownload: {codec: none}\ntrain: {local_steps: 1}\n";
}

}  // namespace

Result<JobId> PlainJob::submit(const ServerProcess& server) const {
    FEDLLM_TRY(const tensor::Manifest manifest, manifest_of(*this));
    const Path file = server.folder() / "initial.safetensors";
    FEDLLM_TRY_VOID(formats::write_param_set(file, tensor::ParamSet(manifest)));
    FEDLLM_TRY(const auto link, server.operator_link());
    FEDLLM_TRY(const MappedFile initial, MappedFile::open(file));
    auto job = link->submit(yaml_of(*this), initial.bytes());
    std::error_code ignored;
    std::filesystem::remove(file, ignored);
    return job;
}

// Values of a plausible size, from a block that repeats: drawing gigabytes would take longer than moving
// them.
Result<ReadyUpdate> PlainJob::make_update(const Path& file) const {
    const std::uint64_t elements = elements_of(*this);
    Rng rng(1, "bench/plain");
    const auto bound =
        static_cast<float>(0.4 * clip_norm_of(*this) * std::sqrt(3.0 / static_cast<double>(elements)));
    std::vector<float> block(std::min<std::uint64_t>(elements, 1 << 20));
    for (float& value : block) value = rng.uniform(-bound, bound);
    std::vector<float> values(elements);
    for (std::uint64_t at = 0; at < elements; at += block.size()) {
        std::copy_n(block.begin(), std::min<std::uint64_t>(block.size(), elements - at),
                    values.begin() + static_cast<std::ptrdiff_t>(at));
    }
    FEDLLM_TRY(const auto encoded, codec::encode({}, {{{elements, 0}}, elements, 1}, values, 0));
    values = std::vector<float>();  // {} would keep its memory
    FEDLLM_TRY_VOID(write_file_atomically(file, encoded));
    return ReadyUpdate{file, crypto::to_hex(crypto::sha256(encoded)), encoded.size()};
}

// The spool holds an update of each client; the first version lies there three times for a moment, the update
// once; each round leaves a version and its export.
std::uint64_t PlainJob::disk_bytes() const { return bytes * (clients + 4 + 2 * std::uint64_t{rounds}); }

}  // namespace fedllm::tools::bench
