#include "client/agent/version_store.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"

namespace fedllm::client::agent {
namespace {

namespace fs = std::filesystem;

Error failed(const Path& path, const char* doing) {
    return make_error(Errc::IoFailed, path.string() + ": " + doing + ": " + std::strerror(errno));
}

std::uint64_t size_or_zero(const Path& path) {
    std::error_code code;
    const auto size = fs::file_size(path, code);
    return code ? 0 : size;
}

Result<MappedFile> map_hashed(const Path& path, const std::string& digest) {
    FEDLLM_TRY(MappedFile file, MappedFile::open(path));
    if (crypto::to_hex(crypto::sha256(file.bytes())) == digest) return file;
    return make_error(Errc::DigestMismatch, "the received model version does not hash to " + digest);
}

}  // namespace

VersionWriter::VersionWriter(VersionWriter&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      held_(other.held_),
      total_(other.total_) {}

VersionWriter& VersionWriter::operator=(VersionWriter&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    std::swap(held_, other.held_);
    std::swap(total_, other.total_);
    return *this;
}

VersionWriter::~VersionWriter() {
    if (fd_ >= 0) ::close(fd_);
}

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
    while (!data.empty()) {
        const ssize_t written = ::write(fd_, data.data(), data.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return failed(path_, "writing");
        data = data.subspan(static_cast<std::size_t>(written));
        held_ += static_cast<std::size_t>(written);
    }
    return {};
}

Result<VersionStore> VersionStore::open(const Path& folder) {
    FEDLLM_TRY_VOID(make_directories(folder));
    return VersionStore(folder);
}

bool VersionStore::held(const std::string& digest) const { return fs::exists(final_path(digest)); }

bool VersionStore::complete(const std::string& digest, std::uint64_t total) const {
    return held(digest) || size_or_zero(part_path(digest)) == total;
}

Result<VersionWriter> VersionStore::resume(const std::string& digest, std::uint64_t total) const {
    const Path path = part_path(digest);
    std::uint64_t held = size_or_zero(path);
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    if (held > total) {  // not a part of this version
        flags |= O_TRUNC;
        held = 0;
    }
    const int fd = ::open(path.c_str(), flags, 0644);
    if (fd < 0) return failed(path, "creating");
    return VersionWriter(path, fd, held, total);
}

// The file becomes the version it must be, or goes.
Result<Path> VersionStore::adopt(const Path& file, const std::string& digest) const {
    if (auto right = map_hashed(file, digest); !right) {
        std::error_code
            ignored;  // if it cannot be removed, the next round trip fails the same way and says so
        if (right.error().code == Errc::DigestMismatch) fs::remove(file, ignored);
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
    std::error_code code;
    for (const auto& entry : fs::directory_iterator(folder_, code)) {
        if (needed.contains(entry.path().stem().string())) continue;
        if (entry.path().extension() == ".safetensors") {
            versions.emplace_back(entry.last_write_time(code), entry.path());
        } else {
            fs::remove(entry.path(), code);
        }
    }
    std::sort(versions.rbegin(), versions.rend());
    for (std::size_t i = std::max<std::size_t>(kept, 1) - 1; i < versions.size(); ++i) {
        fs::remove(versions[i].second, code);
    }
}

}  // namespace fedllm::client::agent
