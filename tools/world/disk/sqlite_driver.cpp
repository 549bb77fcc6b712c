#include "tools/world/disk/sqlite_driver.hpp"

#include <sqlite3.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "common/base/philox.hpp"

namespace fedllm::tools::world {

struct SqliteDriver::Files {
    Disk& disk;
    std::string name;
    std::uint64_t random = 0;  // drawn so far
};

namespace {

// SQLite allocates this much and hands it around as a sqlite3_file.
struct OpenFile : sqlite3_file {
    Disk* disk;
    Path path;
    std::unique_ptr<DiskFile> file;
    bool remove_at_close;
    bool
        folder_to_sync;  // a journal, made by us or by who died here: its name must be on disk with its bytes
};

OpenFile& of(sqlite3_file* file) { return *static_cast<OpenFile*>(file); }
SqliteDriver::Files& of(sqlite3_vfs* vfs) { return *static_cast<SqliteDriver::Files*>(vfs->pAppData); }

int close_file(sqlite3_file* file) {
    OpenFile& open = of(file);
    if (open.remove_at_close) static_cast<void>(open.disk->remove(open.path));
    open.~OpenFile();
    return SQLITE_OK;
}

int read_file(sqlite3_file* file, void* into, int bytes, sqlite3_int64 offset) {
    const std::span out(static_cast<std::byte*>(into), static_cast<std::size_t>(bytes));
    const auto got = of(file).file->read(static_cast<std::uint64_t>(offset), out);
    if (!got) return SQLITE_IOERR_READ;
    if (*got == out.size()) return SQLITE_OK;
    std::memset(out.data() + *got, 0, out.size() - *got);  // SQLite counts on zeros
    return SQLITE_IOERR_SHORT_READ;
}

int write_file(sqlite3_file* file, const void* from, int bytes, sqlite3_int64 offset) {
    const std::span in(static_cast<const std::byte*>(from), static_cast<std::size_t>(bytes));
    return of(file).file->write(static_cast<std::uint64_t>(offset), in) ? SQLITE_OK : SQLITE_IOERR_WRITE;
}

int truncate_file(sqlite3_file* file, sqlite3_int64 size) {
    return of(file).file->resize(static_cast<std::uint64_t>(size)) ? SQLITE_OK : SQLITE_IOERR_TRUNCATE;
}

int sync_file(sqlite3_file* file, int) {
    OpenFile& open = of(file);
    if (!open.file->sync()) return SQLITE_IOERR_FSYNC;
    if (!open.folder_to_sync) return SQLITE_OK;
    if (!open.disk->sync_directory(open.path.parent_path())) return SQLITE_IOERR_DIR_FSYNC;
    open.folder_to_sync = false;
    return SQLITE_OK;
}

int file_size(sqlite3_file* file, sqlite3_int64* size) {
    const auto bytes = of(file).file->size();
    if (!bytes) return SQLITE_IOERR_FSTAT;
    *size = static_cast<sqlite3_int64>(*bytes);
    return SQLITE_OK;
}

int lock(sqlite3_file*, int) { return SQLITE_OK; }
int nobody_reserved(sqlite3_file*, int* reserved) {
    *reserved = 0;
    return SQLITE_OK;
}
int no_control(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
int sector_size(sqlite3_file*) { return 4096; }
// As SQLite's own for Unix: a power cut while a part of a sector is written leaves the rest of it alone.
int characteristics(sqlite3_file*) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

const sqlite3_io_methods kMethods{
    .iVersion = 1,  // without the rest: shared memory and maps
    .xClose = close_file,
    .xRead = read_file,
    .xWrite = write_file,
    .xTruncate = truncate_file,
    .xSync = sync_file,
    .xFileSize = file_size,
    .xLock = lock,
    .xUnlock = lock,
    .xCheckReservedLock = nobody_reserved,
    .xFileControl = no_control,
    .xSectorSize = sector_size,
    .xDeviceCharacteristics = characteristics,
    .xShmMap = nullptr,
    .xShmLock = nullptr,
    .xShmBarrier = nullptr,
    .xShmUnmap = nullptr,
    .xFetch = nullptr,
    .xUnfetch = nullptr,
};

int open_file(sqlite3_vfs* vfs, const char* name, sqlite3_file* into, int flags, int* flags_out) {
    into->pMethods = nullptr;  // unless it succeeds: SQLite will not close it
    Disk& disk = of(vfs).disk;
    const bool makes = (flags & SQLITE_OPEN_CREATE) != 0;
    Path path = name ? name : "";
    std::unique_ptr<DiskFile> file;
    if (name) {
        auto opened = disk.open(path, makes ? Disk::Open::Write : Disk::Open::Read);
        if (!opened) return SQLITE_CANTOPEN;
        file = std::move(*opened);
    } else {
        auto temporary = disk.create_unique("/sqlite-", ".tmp");
        if (!temporary) return SQLITE_CANTOPEN;
        path = temporary->path;
        file = std::move(temporary->file);
    }
    constexpr int kJournals = SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL | SQLITE_OPEN_WAL;
    OpenFile* open = new (into)
        OpenFile{{}, &disk, std::move(path), std::move(file), !name, makes && (flags & kJournals) != 0};
    open->pMethods = &kMethods;
    if (flags_out) *flags_out = flags;
    return SQLITE_OK;
}

int delete_file(sqlite3_vfs* vfs, const char* name, int sync_folder) {
    Disk& disk = of(vfs).disk;
    const auto found = disk.find(name);
    if (!found) return SQLITE_IOERR_DELETE;
    if (!*found) return SQLITE_IOERR_DELETE_NOENT;
    if (!disk.remove(name)) return SQLITE_IOERR_DELETE;
    if (sync_folder && !disk.sync_directory(Path(name).parent_path())) return SQLITE_IOERR_DIR_FSYNC;
    return SQLITE_OK;
}

int access_file(sqlite3_vfs* vfs, const char* name, int, int* there) {
    const auto found = of(vfs).disk.find(name);
    if (!found) return SQLITE_IOERR_ACCESS;
    *there = *found ? 1 : 0;
    return SQLITE_OK;
}

int full_path(sqlite3_vfs*, const char* name, int size, char* out) {
    const std::size_t length = std::strlen(name) + 1;
    if (length > static_cast<std::size_t>(size)) return SQLITE_CANTOPEN;
    std::memcpy(out, name, length);
    return SQLITE_OK;
}

int randomness(sqlite3_vfs* vfs, int size, char* out) {
    Rng rng(++of(vfs).random, "sqlite");
    for (int i = 0; i < size; ++i) out[i] = static_cast<char>(rng.next_u32());
    return size;
}
int sleep(sqlite3_vfs*, int microseconds) { return microseconds; }
int current_time(sqlite3_vfs*, double* julian_day) {
    *julian_day = 2'460'000.5;
    return SQLITE_OK;
}
int last_error(sqlite3_vfs*, int, char*) { return 0; }

}  // namespace

SqliteDriver::SqliteDriver(Disk& disk) {
    static std::atomic<std::uint64_t> made{0};
    files_ = std::make_unique<Files>(Files{disk, "world-" + std::to_string(++made)});
    vfs_ = std::make_unique<sqlite3_vfs>();
    vfs_->iVersion = 1;
    vfs_->szOsFile = sizeof(OpenFile);
    vfs_->mxPathname = 1024;
    vfs_->zName = files_->name.c_str();
    vfs_->pAppData = files_.get();
    vfs_->xOpen = open_file;
    vfs_->xDelete = delete_file;
    vfs_->xAccess = access_file;
    vfs_->xFullPathname = full_path;
    vfs_->xRandomness = randomness;
    vfs_->xSleep = sleep;
    vfs_->xCurrentTime = current_time;
    vfs_->xGetLastError = last_error;
    sqlite3_vfs_register(vfs_.get(), /*makeDflt=*/0);
}

SqliteDriver::~SqliteDriver() { sqlite3_vfs_unregister(vfs_.get()); }

const char* SqliteDriver::name() const { return files_->name.c_str(); }

}  // namespace fedllm::tools::world
