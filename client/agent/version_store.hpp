// Model versions on disk: <folder>/<digest>.safetensors once verified, <digest>.part while bytes arrive, so
// that a transfer goes on at the byte after a cut or a restart. Steps between versions arrive in the same
// way, and stay <digest>.part until they are pruned.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::agent {

// The bytes that arrive for one version. Lifecycle: move-only, owns the open file.
class VersionWriter {
public:
    // Exactly the next bytes: a gap or repetition is OutOfOrder, more than announced TooLarge.
    Result<void> append(std::uint64_t offset, std::span<const std::byte> data);
    std::uint64_t held() const { return held_; }
    bool complete() const { return held_ == total_; }

private:
    friend class VersionStore;
    VersionWriter(std::unique_ptr<DiskFile> file, std::uint64_t held, std::uint64_t total)
        : file_(std::move(file)), held_(held), total_(total) {}

    std::unique_ptr<DiskFile> file_;
    std::uint64_t held_ = 0;
    std::uint64_t total_ = 0;
};

// Concurrency: a value that only knows its folder; verify() may run on another thread than the rest, for a
// version that nobody is writing.
class VersionStore {
public:
    static Result<VersionStore> open(const Path& folder);

    // The version is there whole, and was verified.
    bool held(const std::string& digest) const;

    // All `total` bytes of a version or step are there, verified or not.
    bool complete(const std::string& digest, std::uint64_t total) const;

    // Goes on where an earlier transfer of this digest stopped.
    Result<VersionWriter> resume(const std::string& digest, std::uint64_t total) const;

    // The file, after hashing it once: DigestMismatch removes it.
    Result<Path> verify(const std::string& digest) const;

    // The bytes of a step, after hashing them: DigestMismatch.
    Result<MappedFile> map_received(const std::string& digest) const;

    // A version made here. DigestMismatch where it is not `digest`; then nothing is kept.
    Result<Path> add(const std::string& digest, const tensor::ParamSet& params) const;

    // Removes all but the `kept` - 1 newest versions; what is `needed` always stays, its partial files too.
    void prune(std::size_t kept, const std::set<std::string>& needed) const;

private:
    explicit VersionStore(Path folder) : folder_(std::move(folder)) {}
    Path final_path(const std::string& digest) const { return folder_ / (digest + ".safetensors"); }
    Result<Path> adopt(const Path& file, const std::string& digest) const;
    Path part_path(const std::string& digest) const { return folder_ / (digest + ".part"); }

    Path folder_;
};

}  // namespace fedllm::client::agent
