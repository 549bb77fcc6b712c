#include "server/store/versions.hpp"

#include <utility>

#include "common/base/rewrite.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"

namespace fedllm::server::store {
namespace {

constexpr const char* kTemporary = "writing-";

// A large file: its sync at the end, and fresh memory for it, take long.
constexpr std::uint64_t kLargeBytes = std::uint64_t{256} << 20;

// A fresh empty file's name, so that two writers never share one.
Result<Path> temporary_in(const Path& folder) {
    FEDLLM_TRY(const auto created, disk().create_unique(folder / kTemporary, ""));
    return created.path;
}

Result<VersionFile> identify(const Path& path) {
    FEDLLM_TRY(const MappedFile file, MappedFile::open(path));
    return VersionFile{crypto::to_hex(crypto::sha256(file.bytes())), file.bytes().size()};
}

void remove_quietly(const Path& path) {
    static_cast<void>(disk().remove(path));  // a leftover costs space only, and open() sweeps again
}

Result<MappedFile> map_verified(const Path& path, const crypto::Digest& digest) {
    FEDLLM_TRY(MappedFile file, MappedFile::open(path));
    if (crypto::sha256(file.bytes()) != digest) {
        return make_error(Errc::DigestMismatch,
                          path.string() +
                              ": its bytes do not hash to its name: the disk has changed them; "
                              "restore the file from a backup");
    }
    return file;
}

Result<VersionFile> write_and_name(const tensor::ParamSet& params, const Path& temporary,
                                   const Versions& versions) {
    FEDLLM_TRY_VOID(formats::write_param_set(temporary, params));
    FEDLLM_TRY(VersionFile file, identify(temporary));
    FEDLLM_TRY_VOID(commit_file(temporary, versions.path_of(file.digest)));
    return file;
}

}  // namespace

Result<Versions> Versions::open(const Path& state_directory) {
    const Path folder = state_directory / "versions";
    FEDLLM_TRY_VOID(make_directories(folder));
    FEDLLM_TRY(const auto names, disk().list(folder));
    for (const std::string& name : names) {  // what a process left behind that died while writing
        if (name.starts_with(kTemporary)) remove_quietly(folder / name);
    }
    return Versions(folder);
}

UnnamedFile::UnnamedFile(UnnamedFile&& other) noexcept
    : path_(std::move(other.path_)), file_(std::move(other.file_)), mapping_(std::move(other.mapping_)) {}

UnnamedFile::~UnnamedFile() {
    if (file_) remove_quietly(path_);
}

Path Versions::path_of(std::string_view digest) const {
    return folder_ / (std::string(digest) + ".safetensors");
}

Path Versions::path_of(Attachment kind, std::string_view digest) const {
    return folder_ / std::string(digest).append(kind == Attachment::Step ? ".step" : ".residual");
}

std::vector<Path> Versions::paths_of(const VersionRow& row) const {
    std::vector<Path> paths{path_of(row.digest)};
    if (!row.encoded_digest.empty()) paths.push_back(path_of(Attachment::Step, row.encoded_digest));
    if (!row.residual_digest.empty()) paths.push_back(path_of(Attachment::Residual, row.residual_digest));
    return paths;
}

Result<VersionFile> Versions::write(const tensor::ParamSet& params) const {
    FEDLLM_TRY(const Path temporary, temporary_in(folder_));
    auto written = write_and_name(params, temporary, *this);
    if (!written) remove_quietly(temporary);
    return written;
}

Result<VersionFile> Versions::adopt(const Path& source, std::string_view digest) const {
    FEDLLM_TRY(VersionFile file, identify(source));
    if (file.digest != digest) {
        return make_error(Errc::DigestMismatch, source.string() + ": hashes to " + file.digest +
                                                    ", announced was " + std::string(digest));
    }
    FEDLLM_TRY_VOID(formats::check_param_set(source));
    FEDLLM_TRY_VOID(commit_file(source, path_of(file.digest)));
    return file;
}

Result<MappedFile> Versions::map(std::string_view digest) const {
    const auto checked = crypto::from_hex(digest);
    if (!checked)
        return make_error(Errc::NotFound, "there is no model version '" + std::string(digest) + "'");
    return map_verified(path_of(crypto::to_hex(*checked)), *checked);
}

Result<tensor::ParamSet> Versions::read(std::string_view digest) const {
    FEDLLM_TRY([[maybe_unused]] const MappedFile verified, map(digest));
    return formats::read_param_set(path_of(digest));
}

Result<tensor::Manifest> Versions::manifest(std::string_view digest) const {
    return formats::read_manifest(path_of(digest));
}

Result<UnnamedFile> Versions::create(std::uint64_t bytes, const Path& outdated) const {
    FEDLLM_TRY(auto created, disk().create_unique(folder_ / kTemporary, ""));
    UnnamedFile unnamed(std::move(created.path), std::move(created.file), nullptr);
    FEDLLM_TRY_VOID(unnamed.file_->resize(bytes));
    if (bytes >= kLargeBytes) {
        unnamed.file_->stream_out(DiskFile::Cache::Keep);
        if (const auto file = disk().open(outdated, Disk::Open::Read)) (*file)->leave_cache();
    }
    FEDLLM_TRY(unnamed.mapping_, unnamed.file_->map(DiskFile::Access::Write));
    return unnamed;
}

Result<MappedFile> Versions::publish(UnnamedFile file, std::string_view digest) const {
    return publish(path_of(digest), std::move(file), digest);
}

Result<MappedFile> Versions::publish(Attachment kind, UnnamedFile file, std::string_view digest) const {
    return publish(path_of(kind, digest), std::move(file), digest);
}

// Where the same bytes lie already, they stay: they may be what the round starts from (an update of nothing),
// and on the disk, which the new file is not. Or somebody died who could not sync them.
Result<MappedFile> Versions::publish(const Path& path, UnnamedFile file, std::string_view digest) {
    FEDLLM_TRY(const auto there, disk().find(path));
    if (there) {
        const auto checked = crypto::from_hex(digest);
        if (auto same = map_verified(path, *checked)) {
            FEDLLM_TRY_VOID(write_again(path));
            return same;
        }
    }
    FEDLLM_TRY_VOID(disk().rename(file.path_, path));
    file.file_.reset();
    return MappedFile(std::move(file.mapping_));
}

Result<void> Versions::sync(std::span<const Path> published) const {
    for (const Path& path : published) {
        FEDLLM_TRY(const auto file, disk().open(path, Disk::Open::Read));
        FEDLLM_TRY_VOID(file->sync());
    }
    return disk().sync_directory(folder_);
}

Result<void> Versions::prune(const std::set<Path>& keep) const {
    FEDLLM_TRY(const auto names, disk().list(folder_));
    for (const std::string& name : names) {
        const Path path = folder_ / name;
        const std::string digest = path.stem().string();
        // What else lies here is somebody's.
        const bool ours = crypto::from_hex(digest) &&
                          (path == path_of(digest) || path == path_of(Attachment::Step, digest) ||
                           path == path_of(Attachment::Residual, digest));
        if (ours && !keep.contains(path)) remove_quietly(path);
    }
    return {};
}

Result<VersionFile> Versions::write(Attachment kind, std::span<const std::byte> bytes) const {
    VersionFile file{crypto::to_hex(crypto::sha256(bytes)), bytes.size()};
    FEDLLM_TRY(const Path temporary, temporary_in(folder_));
    // As write_and_name(): under a name that open() sweeps after a crash.
    auto written = write_file_atomically(temporary, bytes);
    if (written) written = commit_file(temporary, path_of(kind, file.digest));
    if (written) return file;
    remove_quietly(temporary);
    return written.error();
}

Result<MappedFile> Versions::map(Attachment kind, std::string_view digest) const {
    const auto checked = crypto::from_hex(digest);
    if (!checked) return make_error(Errc::NotFound, "there is no file '" + std::string(digest) + "'");
    return map_verified(path_of(kind, crypto::to_hex(*checked)), *checked);
}

void Versions::remove(Attachment kind, std::string_view digest) const {
    remove_quietly(path_of(kind, digest));
}

}  // namespace fedllm::server::store
