// The seam under every file that this project keeps: the system's files in production, simulated ones that
// tear, fill up and crash in tools/world. Durable state goes through disk() and never past it.
//
// All errors are Results that name the file. From opening: NotFound for a file that was to be read,
// PermissionDenied; everything else is IoFailed. Where sync() failed, the bytes since the last one may be
// lost whatever a later sync() says (Rebello et al., ATC 2020, "Can applications recover from fsync
// failures?"): write them anew, or stop and start again from the disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"

namespace fedllm {

using Path = std::filesystem::path;

enum class FileMode { Normal, Secret };  // 0644, or 0600 for private keys

constexpr std::size_t kDiskBlockBytes = 4096;  // see DiskFile::stream_out()

// Memory that shows a file's bytes while it lives, also after the file was renamed, removed or closed.
class Mapping {
public:
    explicit Mapping(std::span<std::byte> bytes) : bytes_(bytes) {}
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    virtual ~Mapping() = default;

    std::span<std::byte> bytes() const { return bytes_; }  // to be written only with Access::Write

private:
    std::span<std::byte> bytes_;
};

// An open file; closed when it goes. It stays the same file when that is renamed or removed.
class DiskFile {
public:
    enum class Access { Read, Write };

    DiskFile() = default;
    DiskFile(const DiskFile&) = delete;
    DiskFile& operator=(const DiskFile&) = delete;
    virtual ~DiskFile() = default;

    virtual Result<std::uint64_t> size() const = 0;
    virtual Result<std::size_t> read(std::uint64_t offset,
                                     std::span<std::byte> into) const = 0;                   // less: its end
    virtual Result<void> write(std::uint64_t offset, std::span<const std::byte> bytes) = 0;  // all of them
    // Growing takes the space now: a disk that is full says so here, and not while a map is written.
    virtual Result<void> resize(std::uint64_t bytes) = 0;
    virtual Result<void> sync() = 0;  // bytes and size; what maps have written too
    // From now on what is written goes on its way to the disk at once, so that a later sync() is short; with
    // Cache::Pass whole blocks (where address and offset are multiples of kDiskBlockBytes) past the system's
    // cache if the file system can: for bytes that are not read again soon. It promises nothing.
    enum class Cache { Pass, Keep };
    virtual void stream_out(Cache = Cache::Pass) {}
    // It will not be read soon: the system may take the memory that caches it, where nobody maps that.
    virtual void leave_cache() {}
    virtual Result<std::unique_ptr<Mapping>> map(
        Access access) const = 0;  // the whole file, as long as it is now
    virtual Result<bool>
    lock() = 0;  // for this file as it is open here, until it is closed; false: another has it
};

class Disk {
public:
    enum class Open {
        Read,
        Write,
        Replace
    };  // as it is; to change, made where absent; emptied, made where absent

    struct NewFile {
        Path path;
        std::unique_ptr<DiskFile> file;
    };
    struct Status {
        enum class Kind { File, Directory, Other } kind = Kind::Other;
        std::uint64_t bytes = 0;
        std::filesystem::file_time_type changed{};
    };

    virtual ~Disk() = default;

    virtual Result<std::unique_ptr<DiskFile>> open(const Path& path, Open how,
                                                   FileMode mode = FileMode::Normal) = 0;
    // `prefix`, some letters and `suffix`: a name that nobody had before.
    virtual Result<NewFile> create_unique(const Path& prefix, std::string_view suffix) = 0;
    virtual Result<std::optional<Status>> find(const Path& path) = 0;  // follows links; nothing: not there
    virtual Result<std::vector<std::string>> list(const Path& folder) = 0;  // names, in any order
    virtual Result<void> make_directory(const Path& path) = 0;  // in one that exists; fine where it is there
    virtual Result<void> link(const Path& target, const Path& path) = 0;  // symbolic
    virtual Result<void> rename(const Path& from, const Path& to) = 0;    // replaces
    virtual Result<void> remove(const Path& path) = 0;                    // or empty folder; may be gone
    virtual Result<void> sync_directory(const Path& folder) = 0;  // what was made, renamed, removed in it

    // The memory behind whole pages of a map will not be read soon.
    virtual void release(std::span<const std::byte> mapped) = 0;
    // The SQLite VFS that keeps its files here; null for SQLite's own.
    virtual const char* database_driver() const { return nullptr; }
};

Disk& disk();  // the system's, or what a ScopedDisk has put in its place on this thread

// Simulated worlds: every file operation of this thread goes to `disk` while it lives. They nest.
class ScopedDisk {
public:
    explicit ScopedDisk(Disk& disk);
    ScopedDisk(const ScopedDisk&) = delete;
    ScopedDisk& operator=(const ScopedDisk&) = delete;
    ~ScopedDisk();

private:
    Disk* before_;
};

}  // namespace fedllm
