#include "common/base/files.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace fedllm {
namespace {

Error system_error(const Path& path, const char* doing) {
    const int number = errno;
    const Errc code = number == ENOENT                      ? Errc::NotFound
                      : number == EACCES || number == EPERM ? Errc::PermissionDenied
                                                            : Errc::IoFailed;
    return make_error(code, path.string() + ": " + doing + ": " + std::strerror(number));
}

class Descriptor {
public:
    explicit Descriptor(int fd) : fd_(fd) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }

private:
    int fd_;
};

Result<void> sync(const Path& path, int flags) {
    Descriptor fd(::open(path.c_str(), flags | O_CLOEXEC));
    if (!fd) return system_error(path, "opening to sync");
    if (::fsync(fd.get()) != 0) return system_error(path, "syncing to disk");
    return {};
}

Result<void> write_all(const Path& path, int fd, std::span<const std::byte> content) {
    while (!content.empty()) {
        const ssize_t written = ::write(fd, content.data(), content.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return system_error(path, "writing");
        content = content.subspan(static_cast<std::size_t>(written));
    }
    return {};
}

}  // namespace

Result<std::string> read_file(const Path& path, std::size_t bytes_max) {
    FEDLLM_TRY(const MappedFile file, MappedFile::open(path));
    const auto bytes = file.bytes();
    if (bytes.size() > bytes_max) {
        return make_error(Errc::TooLarge, path.string() + ": " + std::to_string(bytes.size()) +
                                              " bytes, at most " + std::to_string(bytes_max) + " are read");
    }
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<void> write_file_atomically(const Path& path, std::span<const std::byte> content, FileMode mode) {
    // The process id keeps two writers apart; a leftover of a crash is simply overwritten.
    const Path temporary = path.string() + ".tmp" + std::to_string(::getpid());
    {
        Descriptor fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                             mode == FileMode::Secret ? 0600 : 0644));
        if (!fd) return system_error(temporary, "creating");
        FEDLLM_TRY_VOID(write_all(temporary, fd.get(), content));
    }
    return commit_file(temporary, path);
}

Result<void> write_file_atomically(const Path& path, std::string_view content, FileMode mode) {
    return write_file_atomically(path, std::as_bytes(std::span(content.data(), content.size())), mode);
}

Result<void> commit_file(const Path& temporary, const Path& path) {
    FEDLLM_TRY_VOID(sync(temporary, O_RDONLY));
    if (::rename(temporary.c_str(), path.c_str()) != 0) return system_error(path, "renaming into place");
    const Path directory = path.has_parent_path() ? path.parent_path() : Path(".");
    return sync(directory, O_RDONLY | O_DIRECTORY);
}

Result<void> make_directories(const Path& path) {
    std::error_code code;
    std::filesystem::create_directories(path, code);
    if (code) return make_error(Errc::IoFailed, path.string() + ": creating the folder: " + code.message());
    return {};
}

Result<MappedFile> MappedFile::open(const Path& path) {
    Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return system_error(path, "opening");
    struct stat status {};
    if (::fstat(fd.get(), &status) != 0) return system_error(path, "reading its size");
    if (!S_ISREG(status.st_mode))
        return make_error(Errc::InvalidFile, path.string() + ": not a regular file");
    const auto size = static_cast<std::size_t>(status.st_size);
    if (size == 0) return MappedFile(nullptr, 0);
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (data == MAP_FAILED) return system_error(path, "mapping");
    return MappedFile(static_cast<const std::byte*>(data), size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

MappedFile::~MappedFile() {
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void release_pages(std::span<const std::byte> mapped) {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(mapped.data());
    const std::uintptr_t first = (begin + page - 1) / page * page;  // pages that others share stay
    const std::uintptr_t last = (begin + mapped.size()) / page * page;
    if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace fedllm
