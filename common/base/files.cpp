#include "common/base/files.hpp"

#include <unistd.h>

namespace fedllm {
namespace {

constexpr std::size_t kLargeBytes = std::size_t{4} << 20;

Path folder_of(const Path& path) { return path.has_parent_path() ? path.parent_path() : Path("."); }

Result<void> rename_durably(const Path& temporary, const Path& path) {
    FEDLLM_TRY_VOID(disk().rename(temporary, path));
    return disk().sync_directory(folder_of(path));
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
        FEDLLM_TRY(const auto file, disk().open(temporary, Disk::Open::Replace, mode));
        if (content.size() >= kLargeBytes) file->stream_out();
        FEDLLM_TRY_VOID(file->write(0, content));
        FEDLLM_TRY_VOID(file->sync());
    }
    return rename_durably(temporary, path);
}

Result<void> write_file_atomically(const Path& path, std::string_view content, FileMode mode) {
    return write_file_atomically(path, std::as_bytes(std::span(content.data(), content.size())), mode);
}

Result<void> commit_file(const Path& temporary, const Path& path) {
    {
        FEDLLM_TRY(const auto file, disk().open(temporary, Disk::Open::Read));
        FEDLLM_TRY_VOID(file->sync());
    }
    return rename_durably(temporary, path);
}

Result<void> make_directories(const Path& path) {
    FEDLLM_TRY(const auto there, disk().find(path));
    if (there && there->kind != Disk::Status::Kind::Directory) {
        return make_error(Errc::IoFailed, path.string() + ": creating the folder: a file has its name");
    }
    const Path above = folder_of(path);
    if (!there && above != path) FEDLLM_TRY_VOID(make_directories(above));
    if (!there) FEDLLM_TRY_VOID(disk().make_directory(path));
    // Also where it is there: an earlier attempt may have failed right here.
    const auto synced = disk().sync_directory(above);
    if (!synced && there && synced.error().code == Errc::PermissionDenied) return {};  // others made it
    return synced;
}

Result<MappedFile> MappedFile::open(const Path& path) {
    FEDLLM_TRY(const auto file, disk().open(path, Disk::Open::Read));
    FEDLLM_TRY(auto mapping, file->map(DiskFile::Access::Read));
    return MappedFile(std::move(mapping));
}

Result<WritableMap> WritableMap::create(const Path& path, std::uint64_t bytes) {
    FEDLLM_TRY(const auto file, disk().open(path, Disk::Open::Replace));
    FEDLLM_TRY_VOID(file->resize(bytes));
    FEDLLM_TRY(auto mapping, file->map(DiskFile::Access::Write));
    return WritableMap(std::move(mapping));
}

}  // namespace fedllm
