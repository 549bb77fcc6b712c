#include "tools/hub/blob_download.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "common/base/text.hpp"

namespace fedllm::tools::hub {
namespace {

constexpr std::uint64_t kSpareBytes = std::uint64_t{64} << 20;  // left free on the disk

Error io_error(const Path& path, const std::string& what) {
    const bool denied = errno == EACCES || errno == EPERM || errno == EROFS;
    return make_error(denied ? Errc::PermissionDenied : Errc::IoFailed,
                      path.string() + ": " + what + ": " + std::strerror(errno));
}

}  // namespace

BlobDownload::BlobDownload(Path blob, FileLock lock, const RemoteFile& file)
    : blob_(std::move(blob)), file_(file), hash_(file.kind, file.size), lock_(std::move(lock)) {
    incomplete_ = blob_;
    incomplete_ += ".incomplete";
}

BlobDownload::BlobDownload(BlobDownload&& other) noexcept
    : blob_(std::move(other.blob_)),
      incomplete_(std::move(other.incomplete_)),
      file_(std::move(other.file_)),
      hash_(std::move(other.hash_)),
      size_(other.size_),
      lock_(std::move(other.lock_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      present_(other.present_) {}

BlobDownload::~BlobDownload() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

Result<BlobDownload> BlobDownload::open(Path blob, const Path& lock, const RemoteFile& file) {
    FEDLLM_TRY_VOID(make_directories(blob.parent_path()));
    FEDLLM_TRY(FileLock held, FileLock::take(lock));
    BlobDownload made(std::move(blob), std::move(held), file);
    std::error_code code;
    const auto size = std::filesystem::file_size(made.blob_, code);
    made.present_ = !code && size == file.size;
    if (made.present_) return made;
    FEDLLM_TRY_VOID(made.open_incomplete());
    const auto space = std::filesystem::space(made.blob_.parent_path(), code);
    const std::uint64_t missing = file.size - made.size_;
    if (!code && (space.available < kSpareBytes || space.available - kSpareBytes < missing)) {
        return make_error(Errc::IoFailed, made.blob_.parent_path().string() + ": " + file.path + " needs " +
                                              format_bytes(missing) + " more, and the disk has " +
                                              format_bytes(space.available) +
                                              " left; free some, or set HF_HOME to a larger one");
    }
    return made;
}

// What an earlier attempt left is hashed, so that the check at the end covers every byte.
Result<void> BlobDownload::open_incomplete() {
    descriptor_ = ::open(incomplete_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor_ < 0) return io_error(incomplete_, "opening");
    std::vector<char> block(std::size_t{1} << 20);
    for (;;) {
        const ssize_t got = ::read(descriptor_, block.data(), block.size());
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return io_error(incomplete_, "reading");
        if (got == 0) return {};
        size_ += static_cast<std::uint64_t>(got);
        if (size_ > file_.size) return restart();
        hash_.update({block.data(), static_cast<std::size_t>(got)});
    }
}

Result<void> BlobDownload::append(std::string_view bytes) {
    if (bytes.size() > file_.size - size_) {
        return make_error(Errc::TooLarge,
                          file_.path + ": more than the announced " + format_bytes(file_.size) + " came");
    }
    hash_.update(bytes);
    while (!bytes.empty()) {
        const ssize_t wrote = ::write(descriptor_, bytes.data(), bytes.size());
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return io_error(incomplete_, "writing");
        bytes.remove_prefix(static_cast<std::size_t>(wrote));
        size_ += static_cast<std::uint64_t>(wrote);
    }
    return {};
}

Result<void> BlobDownload::restart() {
    if (::ftruncate(descriptor_, 0) != 0 || ::lseek(descriptor_, 0, SEEK_SET) != 0) {
        return io_error(incomplete_, "emptying");
    }
    size_ = 0;
    hash_ = ContentHash(file_.kind, file_.size);
    return {};
}

Result<void> BlobDownload::commit() {
    FEDLLM_CHECK(size_ == file_.size, "the whole content has come");
    const std::string found = hash_.finish();
    if (found != file_.etag) {
        FEDLLM_TRY_VOID(restart());
        return make_error(Errc::DigestMismatch, file_.path + ": the content hashes to " + found +
                                                    ", and the hub announced " + file_.etag);
    }
    return commit_file(incomplete_, blob_);
}

}  // namespace fedllm::tools::hub
