// Uploads on disk. An upload lies in <state>/spool/parts while it arrives and is renamed to
// <state>/spool/....update once all its bytes are there, hash to the digest and are on disk: only then may it
// be acknowledged. A restart finds the bytes again and the transfer goes on where they end.
//
// <task> is a hash of the task id and <digest> 64 checked hex digits, so no character of a file name is a
// peer's choice, and two clients that send equal bytes do not share a file. Every attempt writes a file of
// its own
// (<task>-<digest>.<random>.part) that starts as a copy of the earlier one: a connection that was replaced
// still holds a descriptor, and must not be able to change bytes that were judged on another one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "common/base/disk_memory.hpp"
#include "common/base/files.hpp"
#include "common/base/ids.hpp"
#include "common/base/result.hpp"
#include "common/codec/codec.hpp"
#include "common/crypto/sha256.hpp"

namespace fedllm::server::ingest {

// Gets the bytes already on disk, in order, before an upload goes on.
using Replay = std::function<Result<void>(std::span<const std::byte>)>;

// What of an upload is written at once; of what is not yet a whole block, each holds this much.
constexpr std::size_t kBlockBytes = std::size_t{256} << 10;

// One upload. Lifecycle: append until held() == bytes_total(), then commit, or discard. Destroyed before
// that, it leaves the .part behind, to be resumed. Move-only. Memory: one block while it arrives; of what is
// in there a process that is killed knows nothing, and its client sends it again.
class Upload {
public:
    Upload(Upload&&) = default;
    Upload& operator=(Upload&&) = default;
    ~Upload();

    std::uint64_t held() const { return held_; }  // the offset at which the peer goes on
    std::uint64_t bytes_total() const { return bytes_total_; }
    // Its first bytes come from an earlier attempt: a power cut may have damaged what was not yet synced, so
    // a digest that does not fit is then no proof against the client, who is to send again from 0.
    bool resumed() const { return resumed_; }
    const Path& final_path() const { return final_path_; }

    Result<void> append(std::span<const std::byte> bytes);  // TooLarge beyond bytes_total, IoFailed
    // The bytes held, in order; also after commit and discard. DigestMismatch, at the end, when the disk
    // gives back others than it took: after a failed sync it may.
    Result<void> read_back(const Replay& each) const;
    // Syncs and renames. DigestMismatch (and the file is gone) when the bytes are not those announced.
    Result<void> commit();
    Result<void> discard();  // of the .part; a complete update stays

private:
    friend class Spool;
    Upload() = default;
    Result<void> create(const Path& base);
    std::size_t in_block() const { return static_cast<std::size_t>(held_ % kBlockBytes); }
    std::span<std::byte> block();  // its memory, taken at the first call
    Result<void> write_and_hash(std::span<const std::byte> blocks);
    Result<void> flush();
    Result<void> copy(const Path& earlier, const Replay& replay);

    std::unique_ptr<DiskFile> file_;  // none for an upload that was complete
    Path path_;  // what it is: the .part, or the .update of an upload that was complete before a restart
    Path final_path_;
    std::string digest_;
    std::uint64_t bytes_total_ = 0;
    std::uint64_t held_ = 0;
    std::uint64_t flushed_ = 0;  // bytes of it that are in the file
    DiskMemory block_;           // the last held_ % kBlockBytes of those held, and of the flushed too
    bool resumed_ = false;
    crypto::Sha256 hash_;
    codec::InParts in_parts_;
};

class Spool {
public:
    static Result<Spool> open(const Path& state_directory);
    // Beside the server, for reading: creates nothing.
    static Spool to_read(const Path& state_directory) { return Spool(state_directory / "spool"); }
    // Uploads that begin from now on write whole blocks, and hash them, beside one another.
    void set_in_parts(codec::InParts in_parts) { in_parts_ = std::move(in_parts); }

    // Begins or resumes. Bytes of an earlier attempt are hashed again and given to `replay`; when they cannot
    // be those of this upload (longer than announced, or replay refuses them) they are deleted and the error
    // returned. Malformed when the digest is not one, in lower case.
    Result<Upload> begin(const TaskId& task, std::string_view digest, std::uint64_t bytes_total,
                         const Replay& replay);

    // A committed upload, its bytes checked again: NotFound, InvalidFile (size) or DigestMismatch.
    Result<MappedFile> open_update(const TaskId& task, std::string_view digest, std::uint64_t bytes) const;
    Path update_path(const TaskId& task, std::string_view digest) const;

    // Deletes every file of the spool but the .update files listed and the .part files when keep_parts.
    enum class Parts { Keep, Delete };
    Result<void> prune(const std::set<Path>& keep, Parts parts) const;
    // Deletes the tasks' files, whatever their digest: their round is over.
    Result<void> remove(std::span<const TaskId> tasks) const;

private:
    explicit Spool(Path folder) : folder_(std::move(folder)), parts_(folder_ / "parts") {}

    Path folder_;  // thousands of updates until their round is over
    Path parts_;   // what arrives now: few enough to be listed for every upload that begins
    codec::InParts in_parts_ = codec::one_after_another;
};

}  // namespace fedllm::server::ingest
