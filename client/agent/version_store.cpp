#include "client/agent/version_store.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"

namespace fedllm::client::agent {
namespace {

namespace fs = std::filesystem;

std::uint64_t size_or_zero(const Path& path) {
    const auto found = disk().find(path);
    return found && *found ? (*found)->bytes : 0;
}

Result<MappedFile> map_hashed(const Path& path, const std::string& digest) {
    FEDLLM_TRY(MappedFile file, MappedFile::open(path));
    if (crypto::to_hex(crypto::sha256(file.bytes())) == digest) return file;
    return make_error(Errc::DigestMismatch, "the received model version does not hash to " + digest);
}

}  // namespace

Result<void> VersionWriter::append(std::uint64_t offset, std::span<const std::byte> data) {
    if (offset != held_) {
        return make_error(Errc::OutOfOrder, "a chunk at byte " + std::to_string(offset) +
                                                " of the model version, " + std::to_string(held_) +
                                                " was expected");
    }
    if (data.size() > total_ - held_) {
        return make_error(Errc::TooLarge, "more than the announced " + std::to_string(total_) +
                                              " bytes of the model version");
    }
    FEDLLM_TRY_VOID(file_->write(held_, data));
    held_ += data.size();
    return {};
}

Result<VersionStore> VersionStore::open(const Path& folder) {
    FEDLLM_TRY_VOID(make_directories(folder));
    return VersionStore(folder);
}

bool VersionStore::held(const std::string& digest) const {
    const auto found = disk().find(final_path(digest));
    return found && *found;
}

bool VersionStore::complete(const std::string& digest, std::uint64_t total) const {
    return held(digest) || size_or_zero(part_path(digest)) == total;
}

Result<VersionWriter> VersionStore::resume(const std::string& digest, std::uint64_t total) const {
    FEDLLM_TRY(auto file, disk().open(part_path(digest), Disk::Open::Write));
    FEDLLM_TRY(std::uint64_t held, file->size());
    if (held > total) {  // not a part of this version
        FEDLLM_TRY_VOID(file->resize(0));
        held = 0;
    }
    return VersionWriter(std::move(file), held, total);
}

// The file becomes the version it must be, or goes.
Result<Path> VersionStore::adopt(const Path& file, const std::string& digest) const {
    if (auto right = map_hashed(file, digest); !right) {
        // If it cannot be removed, the next round trip fails the same way and says so.
        if (right.error().code == Errc::DigestMismatch) static_cast<void>(disk().remove(file));
        return right.error();
    }
    FEDLLM_TRY_VOID(commit_file(file, final_path(digest)));
    return final_path(digest);
}

Result<Path> VersionStore::verify(const std::string& digest) const {
    if (held(digest)) return final_path(digest);
    return adopt(part_path(digest), digest);
}

Result<MappedFile> VersionStore::map_received(const std::string& digest) const {
    return map_hashed(part_path(digest), digest);
}

Result<Path> VersionStore::add(const std::string& digest, const tensor::ParamSet& params) const {
    const Path file = folder_ / (digest + ".made");  // not the .part, of which bytes may have been fetched
    FEDLLM_TRY_VOID(formats::write_param_set(file, params));
    return adopt(file, digest);
}

void VersionStore::prune(std::size_t kept, const std::set<std::string>& needed) const {
    std::vector<std::pair<fs::file_time_type, Path>> versions;
    const auto names = disk().list(folder_);
    if (!names) return;  // what is not removed now is found again the next time
    for (const std::string& name : *names) {
        const Path path = folder_ / name;
        if (needed.contains(path.stem().string())) continue;
        if (path.extension() != ".safetensors") {
            static_cast<void>(disk().remove(path));
        } else if (const auto found = disk().find(path); found && *found) {
            versions.emplace_back((*found)->changed, path);
        }
    }
    std::sort(versions.rbegin(), versions.rend());
    for (std::size_t i = std::max<std::size_t>(kept, 1) - 1; i < versions.size(); ++i) {
        static_cast<void>(disk().remove(versions[i].second));
    }
}

}  // namespace fedllm::client::agent
