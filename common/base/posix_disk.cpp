#include "common/base/posix_disk.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace fedllm {
namespace {

Error io_error(const Path& path, const char* doing, int number = errno) {
    return make_error(Errc::IoFailed, path.string() + ": " + doing + ": " + std::strerror(number));
}

class PosixMapping final : public Mapping {
public:
    using Mapping::Mapping;
    ~PosixMapping() override {
        if (!bytes().empty()) ::munmap(bytes().data(), bytes().size());
    }
};

class PosixFile final : public DiskFile {
public:
    PosixFile(Path path, int fd) : path_(std::move(path)), fd_(fd) {}
    ~PosixFile() override { ::close(fd_); }

    Result<std::uint64_t> size() const override {
        struct stat status {};
        if (::fstat(fd_, &status) != 0) return io_error(path_, "reading its size");
        if (!S_ISREG(status.st_mode)) {
            return make_error(Errc::InvalidFile, path_.string() + ": not a regular file");
        }
        return static_cast<std::uint64_t>(status.st_size);
    }

    Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) const override {
        pass_cache(false);
        std::size_t got = 0;
        while (got < into.size()) {
            const ssize_t now =
                ::pread(fd_, into.data() + got, into.size() - got, static_cast<off_t>(offset + got));
            if (now < 0 && errno == EINTR) continue;
            if (now < 0) return io_error(path_, "reading");
            if (now == 0) break;
            got += static_cast<std::size_t>(now);
        }
        return got;
    }

    Result<void> write(std::uint64_t offset, std::span<const std::byte> bytes) override {
        while (!bytes.empty()) {
            const std::size_t blocks = whole_blocks(offset, bytes);
            pass_cache(streams_ && can_pass_cache_ && blocks > 0);
            const ssize_t now = ::pwrite(fd_, bytes.data(), passes_cache_ ? blocks : bytes.size(),
                                         static_cast<off_t>(offset));
            if (now < 0 && errno == EINTR) continue;
            if (now < 0 && errno == EINVAL && passes_cache_ &&
                can_pass_cache_) {  // it wants larger blocks than ours
                can_pass_cache_ = false;
                continue;
            }
            if (now < 0) return io_error(path_, "writing");
            if (streams_ && !passes_cache_) {
                ::sync_file_range(fd_, static_cast<off_t>(offset), now, SYNC_FILE_RANGE_WRITE);
            }
            offset += static_cast<std::uint64_t>(now);
            bytes = bytes.subspan(static_cast<std::size_t>(now));
        }
        return {};
    }

    Result<void> resize(std::uint64_t bytes) override {
        FEDLLM_TRY(const std::uint64_t before, size());
        if (bytes > before) {
            const int failed =
                ::posix_fallocate(fd_, static_cast<off_t>(before), static_cast<off_t>(bytes - before));
            if (failed != 0) return io_error(path_, "taking its space", failed);
        } else if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
            return io_error(path_, "cutting it");
        }
        return {};
    }

    Result<void> sync() override {
        if (::fsync(fd_) != 0) return io_error(path_, "syncing to disk");
        return {};
    }

    void stream_out(Cache cache) override {
        streams_ = true;
        can_pass_cache_ = cache == Cache::Pass;
    }

    void leave_cache() override { ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

    Result<std::unique_ptr<Mapping>> map(Access access) const override {
        FEDLLM_TRY(const std::uint64_t bytes, size());
        if (bytes == 0) return std::unique_ptr<Mapping>(new PosixMapping(std::span<std::byte>()));
        const bool writes = access == Access::Write;
        void* data = ::mmap(nullptr, bytes, writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd_, 0);
        if (data == MAP_FAILED) return io_error(path_, "mapping");
        return std::unique_ptr<Mapping>(new PosixMapping({static_cast<std::byte*>(data), bytes}));
    }

    Result<bool> lock() override {
        if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return true;
        if (errno == EWOULDBLOCK) return false;
        return io_error(path_, "locking");
    }

private:
    // How many of the bytes, from the first on, could go past the cache.
    static std::size_t whole_blocks(std::uint64_t offset, std::span<const std::byte> bytes) {
        const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
        if ((offset | address) % kDiskBlockBytes != 0) return 0;
        return bytes.size() / kDiskBlockBytes * kDiskBlockBytes;
    }
    // Of the descriptor, so that it is one as before: file systems without direct input and output refuse.
    void pass_cache(bool wanted) const {
        if (passes_cache_ == wanted) return;
        const int flags = ::fcntl(fd_, F_GETFL);
        const bool done = ::fcntl(fd_, F_SETFL, wanted ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
        if (done) passes_cache_ = wanted;
        if (!done) can_pass_cache_ = false;
    }

    Path path_;
    int fd_;
    bool streams_ = false;
    mutable bool passes_cache_ = false;  // O_DIRECT is set
    mutable bool can_pass_cache_ = true;
};

}  // namespace

Result<std::unique_ptr<DiskFile>> PosixDisk::open(const Path& path, Open how, FileMode mode) {
    const int flags = how == Open::Read ? O_RDONLY : O_RDWR | O_CREAT | (how == Open::Replace ? O_TRUNC : 0);
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode == FileMode::Secret ? 0600 : 0644);
    if (fd < 0) {
        const int number = errno;
        Error error = io_error(path, how == Open::Read ? "opening" : "creating", number);
        if (number == EACCES || number == EPERM) error.code = Errc::PermissionDenied;
        if (number == ENOENT && how == Open::Read) error.code = Errc::NotFound;
        return error;
    }
    return std::unique_ptr<DiskFile>(new PosixFile(path, fd));
}

Result<Disk::NewFile> PosixDisk::create_unique(const Path& prefix, std::string_view suffix) {
    std::string path = prefix.string() + "XXXXXX" + std::string(suffix);
    const int fd = ::mkostemps(path.data(), static_cast<int>(suffix.size()), O_CLOEXEC);
    if (fd < 0) return io_error(path, "creating");
    return NewFile{path, std::make_unique<PosixFile>(path, fd)};
}

Result<std::optional<Disk::Status>> PosixDisk::find(const Path& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) return std::optional<Status>();
        return io_error(path, "looking for it");
    }
    const auto kind = S_ISREG(status.st_mode)   ? Status::Kind::File
                      : S_ISDIR(status.st_mode) ? Status::Kind::Directory
                                                : Status::Kind::Other;
    const auto changed =
        std::chrono::seconds(status.st_mtim.tv_sec) + std::chrono::nanoseconds(status.st_mtim.tv_nsec);
    return std::optional(
        Status{kind, static_cast<std::uint64_t>(status.st_size), std::filesystem::file_time_type(changed)});
}

Result<std::vector<std::string>> PosixDisk::list(const Path& folder) {
    std::vector<std::string> names;
    std::error_code code;
    for (std::filesystem::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
        names.push_back(it->path().filename().string());
    }
    if (code) return io_error(folder, "listing", code.value());
    return names;
}

Result<void> PosixDisk::make_directory(const Path& path) {
    if (::mkdir(path.c_str(), 0777) == 0 || errno == EEXIST) return {};
    return io_error(path, "creating the folder");
}

Result<void> PosixDisk::link(const Path& target, const Path& path) {
    if (::symlink(target.c_str(), path.c_str()) != 0) return io_error(path, "creating the link");
    return {};
}

Result<void> PosixDisk::rename(const Path& from, const Path& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) return io_error(to, "renaming into place");
    return {};
}

Result<void> PosixDisk::remove(const Path& path) {
    if (std::remove(path.c_str()) == 0 || errno == ENOENT) return {};
    return io_error(path, "deleting");
}

Result<void> PosixDisk::sync_directory(const Path& folder) {
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        const int number = errno;
        Error error = io_error(folder, "opening to sync", number);
        if (number == EACCES) error.code = Errc::PermissionDenied;
        return error;
    }
    return PosixFile(folder, fd).sync();
}

void PosixDisk::release(std::span<const std::byte> mapped) {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(mapped.data());
    const std::uintptr_t first = (begin + page - 1) / page * page;  // pages that others share stay
    const std::uintptr_t last = (begin + mapped.size()) / page * page;
    if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace fedllm
