// Model versions as files: <state>/versions/<digest>.safetensors, whose name is the SHA-256 of its bytes.
// Written to a temporary file, synced, renamed (a round's in the other order: see publish); never changed.
// Read back only after the bytes were hashed. Beside them, named and treated alike, what belongs to a version
// under a download codec:
//   <digest>.step      the encoded difference from the version before, as clients fetch it
//   <digest>.residual  what the published versions have left out so far: f32, little-endian, manifest order
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/tensor/param_set.hpp"
#include "server/store/rows.hpp"

namespace fedllm::server::store {

struct VersionFile {
    std::string digest;
    std::uint64_t bytes = 0;
    bool operator==(const VersionFile&) const = default;
};

enum class Attachment { Step, Residual };

// A file of the versions folder that has no digest yet: it is written, or its map is, and then published.
// Move-only; without that it is deleted.
class UnnamedFile {
public:
    UnnamedFile(UnnamedFile&& other) noexcept;
    UnnamedFile& operator=(UnnamedFile&&) = delete;
    ~UnnamedFile();

    std::span<std::byte> bytes() const { return mapping_->bytes(); }  // shows what was written, too
    Result<void> write(std::uint64_t offset, std::span<const std::byte> bytes) {
        return file_->write(offset,
                            bytes);  // for long runs in order this is cheaper than the map's page faults
    }

private:
    friend class Versions;
    UnnamedFile(Path path, std::unique_ptr<DiskFile> file, std::unique_ptr<Mapping> mapping)
        : path_(std::move(path)), file_(std::move(file)), mapping_(std::move(mapping)) {}

    Path path_;
    std::unique_ptr<DiskFile> file_;  // while it has no name
    std::unique_ptr<Mapping> mapping_;
};

class Versions {
public:
    static Result<Versions> open(const Path& state_directory);
    // Beside the server: creates and sweeps nothing. Only for reading.
    static Versions to_read(const Path& state_directory) { return Versions(state_directory / "versions"); }

    Path path_of(std::string_view digest) const;
    Path path_of(Attachment kind, std::string_view digest) const;
    std::vector<Path> paths_of(const VersionRow& row) const;  // of what it names: the version, step, residual

    // The safetensors file of the set; the same set gives the same file.
    Result<VersionFile> write(const tensor::ParamSet& params) const;
    // Takes over a finished upload (an initial version), after checking that it is the safetensors file, with
    // only F32 tensors, that `digest` names. The source is gone afterwards.
    Result<VersionFile> adopt(const Path& source, std::string_view digest) const;

    // Verified bytes, for sending. NotFound; DigestMismatch when the disk has changed them.
    Result<MappedFile> map(std::string_view digest) const;
    Result<tensor::ParamSet> read(std::string_view digest) const;
    Result<tensor::Manifest> manifest(
        std::string_view digest) const;  // the names and shapes alone; not verified

    // Fresh memory costs more than writing to it: for a large file the memory that caches `outdated`, a file
    // that is not the newest any more, is given up first.
    Result<UnnamedFile> create(std::uint64_t bytes, const Path& outdated = {}) const;
    // The file is found by its digest, which is the caller's word, from now on. What a power cut leaves of it
    // is uncertain until sync() has returned; map() notices.
    Result<MappedFile> publish(UnnamedFile file, std::string_view digest) const;
    Result<MappedFile> publish(Attachment kind, UnnamedFile file, std::string_view digest) const;
    Result<void> sync(std::span<const Path> published) const;
    // Deletes every version, step and residual but those: what was published, and never got its row.
    Result<void> prune(const std::set<Path>& keep) const;

    Result<VersionFile> write(Attachment kind, std::span<const std::byte> bytes) const;
    Result<MappedFile> map(Attachment kind, std::string_view digest) const;  // verified, as above
    void remove(Attachment kind, std::string_view digest) const;  // what is left behind costs space only

private:
    explicit Versions(Path folder) : folder_(std::move(folder)) {}
    static Result<MappedFile> publish(const Path& path, UnnamedFile file, std::string_view digest);

    Path folder_;
};

}  // namespace fedllm::server::store
