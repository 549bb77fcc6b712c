#include "server/ingest/spool.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace fedllm::server::ingest {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

std::string task_part(const TaskId& task) {
    return crypto::to_hex(crypto::sha256(std::string_view(task.get()))).substr(0, 16);
}

Result<void> check_digest(std::string_view digest) {
    const auto checked = crypto::from_hex(digest);
    if (checked && crypto::to_hex(*checked) == digest) return {};
    return make_error(Errc::Malformed, "the upload's digest is not 64 lower-case hexadecimal digits");
}

Result<void> in_pieces(std::span<const std::byte> rest, const Replay& each) {
    while (!rest.empty()) {
        const auto piece = rest.first(std::min(rest.size(), kPieceBytes));
        FEDLLM_TRY_VOID(each(piece));
        rest = rest.subspan(piece.size());
    }
    return {};
}

bool is_aligned(std::span<const std::byte> bytes) {
    return reinterpret_cast<std::uintptr_t>(bytes.data()) % kDiskBlockBytes == 0;
}

// Gives all bytes of a file to `each`, in order and in pieces.
Result<void> read_all(const Path& path, const Replay& each) {
    FEDLLM_TRY(const MappedFile file, MappedFile::open(path));
    return in_pieces(file.bytes(), each);
}

// A complete update that hashes to its name; anything less counts as absent.
bool is_intact(const Path& path, std::string_view digest, std::uint64_t bytes) {
    const auto file = MappedFile::open(path);
    return file && file->bytes().size() == bytes && crypto::to_hex(crypto::sha256(file->bytes())) == digest;
}

// The .part files of an upload, the longest last. Usually one at most.
Result<std::vector<Path>> parts_of(const Path& folder, const std::string& base) {
    std::vector<std::pair<std::uint64_t, Path>> found;
    FEDLLM_TRY(const auto names, disk().list(folder));
    for (const std::string& name : names) {
        if (!name.starts_with(base + ".") || !name.ends_with(".part")) continue;
        FEDLLM_TRY(const auto status, disk().find(folder / name));
        if (status) found.emplace_back(status->bytes, folder / name);
    }
    std::sort(found.begin(), found.end());
    std::vector<Path> paths;
    for (auto& [size, path] : found) paths.push_back(std::move(path));
    return paths;
}

Result<void> remove_files(const Path& folder, const std::function<bool(const Path&)>& doomed) {
    FEDLLM_TRY(const auto names, disk().list(folder));
    for (const std::string& name : names) {
        if (doomed(folder / name)) FEDLLM_TRY_VOID(disk().remove(folder / name));
    }
    return {};
}

}  // namespace

// What cannot be written now, its client sends again.
Upload::~Upload() {
    if (file_) (void)flush();
}

Result<void> Upload::create(const Path& base) {
    FEDLLM_TRY(auto created, disk().create_unique(base.string() + ".", ".part"));
    path_ = std::move(created.path);
    file_ = std::move(created.file);
    file_->stream_out();
    return {};
}

Result<void> Upload::copy(const Path& earlier, const Replay& replay) {
    FEDLLM_TRY_VOID(read_all(earlier, [&](std::span<const std::byte> bytes) -> Result<void> {
        FEDLLM_TRY_VOID(append(bytes));
        return replay(bytes);
    }));
    resumed_ = held_ > 0;
    return {};
}

std::span<std::byte> Upload::block() {
    if (block_.bytes().empty()) block_ = DiskMemory(std::min<std::uint64_t>(bytes_total_, kBlockBytes));
    return block_.bytes();
}

Result<void> Upload::append(std::span<const std::byte> bytes) {
    if (bytes.size() > bytes_total_ - held_) {
        return make_error(Errc::TooLarge,
                          "an upload of " + std::to_string(bytes_total_) + " bytes goes on for " +
                              std::to_string(bytes.size() - (bytes_total_ - held_)) + " more");
    }
    while (!bytes.empty()) {
        if (in_block() == 0 && bytes.size() >= kBlockBytes && is_aligned(bytes)) {  // no copy
            const auto blocks = bytes.first(bytes.size() / kBlockBytes * kBlockBytes);
            FEDLLM_TRY_VOID(write_and_hash(blocks));
            bytes = bytes.subspan(blocks.size());
            continue;
        }
        const std::span<std::byte> block = this->block();
        const auto part = bytes.first(std::min(bytes.size(), kBlockBytes - in_block()));
        std::copy(part.begin(), part.end(), block.begin() + static_cast<std::ptrdiff_t>(in_block()));
        if (in_block() + part.size() == kBlockBytes) {
            FEDLLM_TRY_VOID(file_->write(held_ - in_block(), block));
            flushed_ = held_ + part.size();
        }
        hash_.update(part);
        held_ += part.size();
        bytes = bytes.subspan(part.size());
    }
    return {};
}

// An upload's next chunk waits for the longer of the two, and not for both.
Result<void> Upload::write_and_hash(std::span<const std::byte> blocks) {
    Result<void> written;
    crypto::Sha256 hash = hash_.fork();
    in_parts_(2, [&](std::size_t part) {
        if (part == 0) {
            written = file_->write(held_, blocks);
        } else {
            hash.update(blocks);
        }
    });
    if (!written) return written;
    hash_ = std::move(hash);
    flushed_ = held_ += blocks.size();
    return {};
}

// What of the block is not in the file. Once the block is full all of it is written again, so that nearly
// every write is of whole ones.
Result<void> Upload::flush() {
    if (flushed_ == held_) return {};
    FEDLLM_TRY_VOID(file_->write(held_ - in_block(), block_.bytes().first(in_block())));
    flushed_ = held_;
    return {};
}

Result<void> Upload::read_back(const Replay& each) const {
    crypto::Sha256 hash;
    const Replay both = [&](std::span<const std::byte> bytes) -> Result<void> {
        hash.update(bytes);
        return each(bytes);
    };
    if (file_) {
        const std::uint64_t in_file = !block_.bytes().empty() ? held_ - in_block() : held_;
        FEDLLM_TRY(const auto mapping, file_->map(DiskFile::Access::Read));
        const auto bytes = mapping->bytes();
        FEDLLM_TRY_VOID(in_pieces(bytes.first(std::min<std::size_t>(bytes.size(), in_file)), both));
        if (!block_.bytes().empty()) FEDLLM_TRY_VOID(both(block_.bytes().first(in_block())));
    } else {
        FEDLLM_TRY_VOID(read_all(path_, both));
    }
    if (hash.finish() == hash_.so_far()) return {};
    return make_error(Errc::DigestMismatch,
                      path_.string() + ": the disk gives back other bytes than it took");
}

Result<void> Upload::commit() {
    if (held_ != bytes_total_) {
        return make_error(Errc::OutOfOrder, path_.string() + ": holds " + std::to_string(held_) + " of " +
                                                std::to_string(bytes_total_) + " bytes");
    }
    const std::string actual = crypto::to_hex(hash_.so_far());
    if (actual != digest_) {
        FEDLLM_TRY_VOID(discard());
        return make_error(Errc::DigestMismatch,
                          "the bytes sent hash to " + actual + ", announced was " + digest_);
    }
    if (file_) FEDLLM_TRY_VOID(flush());
    FEDLLM_TRY_VOID(commit_file(path_, final_path_));
    path_ = final_path_;
    block_ = {};
    return {};
}

Result<void> Upload::discard() {
    // A complete update may be counted by now, through another connection of the same client: it stays.
    if (path_ == final_path_) return {};
    flushed_ = held_;  // what is not in the file need not come there any more
    return disk().remove(path_);
}

Result<Spool> Spool::open(const Path& state_directory) {
    Spool spool(state_directory / "spool");
    FEDLLM_TRY_VOID(make_directories(spool.parts_));
    return spool;
}

Path Spool::update_path(const TaskId& task, std::string_view digest) const {
    return folder_ / (task_part(task) + "-" + std::string(digest) + ".update");
}

Result<Upload> Spool::begin(const TaskId& task, std::string_view digest, std::uint64_t bytes_total,
                            const Replay& replay) {
    FEDLLM_TRY_VOID(check_digest(digest));
    Upload upload;
    upload.digest_ = digest;
    upload.bytes_total_ = bytes_total;
    upload.in_parts_ = in_parts_;
    upload.final_path_ = update_path(task, digest);
    if (is_intact(upload.final_path_, digest, bytes_total)) {
        upload.path_ = upload.final_path_;
        upload.held_ = bytes_total;
        upload.resumed_ = true;
        FEDLLM_TRY_VOID(read_all(upload.path_, [&](std::span<const std::byte> bytes) {
            upload.hash_.update(bytes);
            return replay(bytes);
        }));
        return upload;
    }
    const std::string base = task_part(task) + "-" + upload.digest_;
    FEDLLM_TRY(const auto earlier, parts_of(parts_, base));
    FEDLLM_TRY_VOID(upload.create(parts_ / base));
    Result<void> copied;
    if (!earlier.empty()) copied = upload.copy(earlier.back(), replay);
    for (const Path& path : earlier) FEDLLM_TRY_VOID(disk().remove(path));
    if (!copied) {
        FEDLLM_TRY_VOID(upload.discard());
        return copied.error();
    }
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
    if (crypto::to_hex(crypto::sha256(file.bytes())) != digest) {
        return make_error(Errc::DigestMismatch,
                          path.string() + ": its bytes do not hash to its name: the disk has changed them");
    }
    return file;
}

Result<void> Spool::prune(const std::set<Path>& keep, Parts parts) const {
    if (parts == Parts::Delete) {
        FEDLLM_TRY_VOID(remove_files(parts_, [](const Path&) { return true; }));
    }
    return remove_files(folder_, [&](const Path& path) { return path != parts_ && !keep.contains(path); });
}

Result<void> Spool::remove(std::span<const TaskId> tasks) const {
    std::set<std::string> names;
    for (const TaskId& task : tasks) names.insert(task_part(task));
    const auto of_task = [&](const Path& path) {
        const std::string name = path.filename().string();
        return names.contains(name.substr(0, name.find('-')));
    };
    FEDLLM_TRY_VOID(remove_files(parts_, of_task));
    return remove_files(folder_, of_task);
}

}  // namespace fedllm::server::ingest
