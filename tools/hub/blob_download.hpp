// One content on its way into the cache: locked, continued where an earlier attempt was cut, checked, and
// only then under its name.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "tools/hub/file_lock.hpp"
#include "tools/hub/repository.hpp"

namespace fedllm::tools::hub {

// Lifecycle: move-only; open() waits for the lock of the content, which the destructor gives back. What has
// come stays as ETAG.incomplete (huggingface_hub's name) for the next attempt.
// Concurrency: processes exclude each other by flock on .locks/models--ORG--NAME/ETAG.lock, as
// huggingface_hub does.
class BlobDownload {
public:
    // `blob` is MODEL_CACHE/blobs/ETAG, `lock` the file to lock. IoFailed where the disk has no room.
    static Result<BlobDownload> open(Path blob, const Path& lock, const RemoteFile& file);
    BlobDownload(BlobDownload&& other) noexcept;
    BlobDownload& operator=(BlobDownload&&) = delete;
    ~BlobDownload();

    bool present() const { return present_; }  // the blob is there already: nothing to do
    std::uint64_t size() const { return size_; }

    Result<void> append(std::string_view bytes);  // TooLarge beyond the announced size
    Result<void> restart();                       // forgets what has come
    Result<void> commit();                        // DigestMismatch forgets it as well

private:
    BlobDownload(Path blob, FileLock lock, const RemoteFile& file);
    Result<void> open_incomplete();

    Path blob_, incomplete_;
    RemoteFile file_;
    ContentHash hash_;
    std::uint64_t size_ = 0;
    FileLock lock_;
    int descriptor_ = -1;
    bool present_ = false;
};

}  // namespace fedllm::tools::hub
