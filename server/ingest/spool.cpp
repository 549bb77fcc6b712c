#include "server/ingest/spool.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

namespace fedllm::server::ingest {
namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 20;

Error system_error(const Path& path, const char* doing) {
    return make_error(Errc::IoFailed, path.string() + ": " + doing + ": " + std::strerror(errno));
}

std::string task_part(const TaskId& task) {
    return crypto::to_hex(crypto::sha256(std::string_view(task.get()))).substr(0, 16);
}

// Gives all bytes of the open file to `each`, in order.
Result<void> read_all(int fd, const Path& path, std::uint64_t size, const Replay& each) {
    std::vector<std::byte> buffer(static_cast<std::size_t>(std::min<std::uint64_t>(size, kReadBytes)));
    for (std::uint64_t offset = 0; offset < size;) {
        const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return system_error(path, "reading back an upload");
        FEDLLM_TRY_VOID(each(std::span(buffer).first(static_cast<std::size_t>(got))));
        offset += static_cast<std::uint64_t>(got);
    }
    return {};
}

Result<void> remove_files(const Path& folder, const std::function<bool(const Path&)>& doomed) {
    std::error_code code;
    std::vector<Path> found;
    for (std::filesystem::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
        if (doomed(it->path())) found.push_back(it->path());
    }
    for (const Path& path : found) {
        if (!code) std::filesystem::remove(path, code);
    }
    if (code) return make_error(Errc::IoFailed, folder.string() + ": clearing the spool: " + code.message());
    return {};
}

}  // namespace

Upload::Upload(Upload&& other) noexcept {
    *this = std::move(other);
}

Upload& Upload::operator=(Upload&& other) noexcept {
    std::swap(fd_, other.fd_);
    path_.swap(other.path_);
    final_path_.swap(other.final_path_);
    digest_.swap(other.digest_);
    std::swap(bytes_total_, other.bytes_total_);
    std::swap(held_, other.held_);
    std::swap(resumed_, other.resumed_);
    std::swap(hash_, other.hash_);
    return *this;
}

Upload::~Upload() {
    if (fd_ >= 0) ::close(fd_);
}

Result<void> Upload::append(std::span<const std::byte> bytes) {
    if (bytes.size() > bytes_total_ - held_) {
        return make_error(Errc::TooLarge,
                          "an upload of " + std::to_string(bytes_total_) + " bytes goes on for " +
                              std::to_string(bytes.size() - (bytes_total_ - held_)) + " more");
    }
    hash_.update(bytes);
    while (!bytes.empty()) {
        const ssize_t put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(held_));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return system_error(path_, "writing an upload");
        held_ += static_cast<std::uint64_t>(put);
        bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
    return {};
}

Result<void> Upload::commit() {
    if (held_ != bytes_total_) {
        return make_error(Errc::OutOfOrder, path_.string() + ": holds " + std::to_string(held_) + " of " +
                                                std::to_string(bytes_total_) + " bytes");
    }
    const std::string actual = crypto::to_hex(hash_.finish());
    if (actual != digest_) {
        FEDLLM_TRY_VOID(discard());
        return make_error(Errc::DigestMismatch,
                          "the bytes sent hash to " + actual + ", announced was " + digest_);
    }
    if (::fsync(fd_) != 0) return system_error(path_, "syncing an upload");
    FEDLLM_TRY_VOID(commit_file(path_, final_path_));
    path_ = final_path_;
    return {};
}

Result<void> Upload::discard() {
    if (::unlink(path_.c_str()) != 0 && errno != ENOENT) return system_error(path_, "deleting an upload");
    return {};
}

Result<Spool> Spool::open(const Path& state_directory) {
    FEDLLM_TRY_VOID(make_directories(state_directory / "spool"));
    return Spool(state_directory / "spool");
}

Path Spool::update_path(const TaskId& task, std::string_view digest) const {
    return folder_ / (task_part(task) + "-" + std::string(digest) + ".update");
}

Result<Upload> Spool::begin(const TaskId& task, std::string_view digest, std::uint64_t bytes_total,
                            const Replay& replay) {
    const auto checked = crypto::from_hex(digest);
    if (!checked) return make_error(Errc::Malformed, "the upload's digest is not 64 hexadecimal digits");
    Upload upload;
    upload.digest_ = crypto::to_hex(*checked);
    upload.bytes_total_ = bytes_total;
    upload.final_path_ = update_path(task, upload.digest_);
    upload.path_ = upload.final_path_;
    upload.fd_ = ::open(upload.path_.c_str(), O_RDWR | O_CLOEXEC);
    if (upload.fd_ < 0) {
        upload.path_.replace_extension(".part");
        upload.fd_ = ::open(upload.path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }
    if (upload.fd_ < 0) return system_error(upload.path_, "opening an upload");
    struct stat status {};
    if (::fstat(upload.fd_, &status) != 0) return system_error(upload.path_, "reading an upload's size");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (size > bytes_total) {
        FEDLLM_TRY_VOID(upload.discard());
        return make_error(Errc::InvalidFile, upload.path_.string() + ": " + std::to_string(size) +
                                                 " bytes lie there, more than the " +
                                                 std::to_string(bytes_total) +
                                                 " announced; they were deleted");
    }
    const auto read = read_all(upload.fd_, upload.path_, size, [&](std::span<const std::byte> bytes) {
        upload.hash_.update(bytes);
        return replay(bytes);
    });
    if (!read) {
        FEDLLM_TRY_VOID(upload.discard());
        return read.error();
    }
    upload.held_ = size;
    upload.resumed_ = size > 0;
    return upload;
}

Result<MappedFile> Spool::open_update(const TaskId& task, std::string_view digest,
                                      std::uint64_t bytes) const {
    const Path path = update_path(task, digest);
    FEDLLM_TRY(MappedFile file, MappedFile::open(path));
    if (file.bytes().size() != bytes) {
        return make_error(Errc::InvalidFile, path.string() + ": has " + std::to_string(file.bytes().size()) +
                                                 " bytes, the ledger says " + std::to_string(bytes));
    }
    return file;
}

Result<void> Spool::prune(const std::set<Path>& keep, Parts parts) const {
    return remove_files(folder_, [&](const Path& path) {
        if (path.extension() == ".part") return parts == Parts::Delete;
        return !keep.contains(path);
    });
}

Result<void> Spool::remove(const TaskId& task) const {
    return remove_files(folder_, [prefix = task_part(task) + "-"](const Path& path) {
        return path.filename().string().starts_with(prefix);
    });
}

}  // namespace fedllm::server::ingest
