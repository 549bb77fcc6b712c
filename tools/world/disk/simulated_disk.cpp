#include "tools/world/disk/simulated_disk.hpp"

#include <algorithm>

namespace fedllm::tools::world {
namespace {

Error io_error(const Path& path, const std::string& what) {
    return make_error(Errc::IoFailed, path.string() + ": " + what);
}

class SimulatedMapping final : public Mapping {
public:
    explicit SimulatedMapping(std::shared_ptr<std::vector<std::byte>> bytes)
        : Mapping(std::span(*bytes)), bytes_(std::move(bytes)) {}

private:
    std::shared_ptr<std::vector<std::byte>> bytes_;
};

}  // namespace

// --------------------------------------------------------------------------------------------------- files

class SimulatedFile final : public DiskFile {
public:
    SimulatedFile(SimulatedDisk& disk, Path path, InodePtr inode)
        : disk_(disk), path_(std::move(path)), inode_(std::move(inode)), life_(disk.life_) {}
    ~SimulatedFile() override {
        if (inode_->locked_by == this) inode_->locked_by = nullptr;
    }

    Result<std::uint64_t> size() const override {
        FEDLLM_TRY_VOID(disk_.alive(path_, life_));
        if (inode_->kind != Inode::Kind::File) {
            return make_error(Errc::InvalidFile, path_.string() + ": not a regular file");
        }
        return inode_->bytes->size();
    }

    Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) const override {
        FEDLLM_TRY(const std::uint64_t bytes, size());
        FEDLLM_TRY_VOID(disk_.check_read(path_));
        if (offset >= bytes) return std::size_t{0};
        const auto there = std::span(std::as_const(*inode_->bytes)).subspan(offset);
        const std::size_t count = std::min(there.size(), into.size());
        std::copy_n(there.begin(), count, into.begin());
        return count;
    }

    Result<void> write(std::uint64_t offset, std::span<const std::byte> bytes) override {
        return change(
            "writing", [&] { inode_->write(offset, bytes); },
            [&] { inode_->write(offset, bytes.first(disk_.rng_.below(bytes.size() + 1))); });
    }

    Result<void> resize(std::uint64_t bytes) override {
        return change("changing its size", [&] { inode_->resize(bytes); });
    }

    Result<void> sync() override {
        if (inode_->kind == Inode::Kind::Directory) return disk_.sync_directory(path_);
        return change(
            "syncing to disk", [&] { inode_->sync(); }, [&] { inode_->fail_to_sync(disk_.rng_); });
    }

    Result<std::unique_ptr<Mapping>> map(Access access) const override {
        FEDLLM_TRY([[maybe_unused]] const std::uint64_t bytes, size());
        FEDLLM_TRY_VOID(disk_.check_read(path_));
        if (access == Access::Write) inode_->mapped = true;
        return std::unique_ptr<Mapping>(new SimulatedMapping(inode_->bytes));
    }

    Result<bool> lock() override {
        FEDLLM_TRY_VOID(disk_.alive(path_, life_));
        if (inode_->locked_by && inode_->locked_by != this) return false;
        inode_->locked_by = this;
        return true;
    }

private:
    Result<void> change(const char* doing, const std::function<void()>& apply,
                        const std::function<void()>& spoil = {}) {
        FEDLLM_TRY_VOID(disk_.alive(path_, life_));
        inode_->changed = disk_.operations_ + 1;
        return disk_.change(path_, doing, apply, spoil);
    }

    SimulatedDisk& disk_;
    Path path_;
    InodePtr inode_;
    std::uint64_t life_;
};

// -------------------------------------------------------------------------------------------------- faults

SimulatedDisk::SimulatedDisk(std::uint64_t seed) : rng_(seed, "disk"), driver_(*this) {
    root_ = new_inode(Inode::Kind::Directory);
}

void SimulatedDisk::fail_at(std::uint64_t operation, Fault fault, std::uint64_t times) {
    for (std::uint64_t i = 0; i < times; ++i) script_[operation + i] = fault;
}

void SimulatedDisk::stop_faults() {
    script_.clear();
    rates_ = {};
}

std::optional<Fault> SimulatedDisk::next_fault() {
    ++operations_;
    if (const auto scripted = script_.find(operations_); scripted != script_.end()) return scripted->second;
    const auto drawn = [&](std::uint64_t one_in) { return one_in > 0 && rng_.below(one_in) == 0; };
    if (drawn(rates_.crash)) return Fault::Crash;
    if (drawn(rates_.io_error)) return Fault::IoError;
    if (drawn(rates_.no_space)) return Fault::NoSpace;
    return std::nullopt;
}

Result<void> SimulatedDisk::alive(const Path& path, std::uint64_t life) const {
    if (!crashed_ && life == life_) return {};
    return io_error(path, "the machine has lost power");
}

Result<void> SimulatedDisk::check_read(const Path& path) {
    FEDLLM_TRY_VOID(alive(path, life_));
    if (rates_.io_error == 0 || rng_.below(rates_.io_error) != 0) return {};
    ++seen_.io_errors;
    return io_error(path, "reading: Input/output error");
}

Result<void> SimulatedDisk::change(const Path& path, const char* doing, const std::function<void()>& apply,
                                   const std::function<void()>& spoil) {
    FEDLLM_TRY_VOID(alive(path, life_));
    const auto fault = next_fault();
    if (!fault || *fault == Fault::Crash) {
        apply();
        if (fault) crash();
        return alive(path, life_);
    }
    if (spoil) spoil();
    ++(*fault == Fault::NoSpace ? seen_.full : seen_.io_errors);
    return io_error(path, std::string(doing) + (*fault == Fault::NoSpace ? ": No space left on device"
                                                                         : ": Input/output error"));
}

// ------------------------------------------------------------------------------------------------- crashes

void SimulatedDisk::crash(Unsynced unsynced) {
    if (crashed_) return;
    crashed_ = true;
    ++life_;
    ++seen_.crashes;
    const std::uint64_t drawn = rng_.below(6);
    const Mood mood = unsynced == Unsynced::Kept || drawn == 0 ? Mood::Keep
                      : drawn == 1                             ? Mood::Lose
                                                               : Mood::Mix;
    settle_names(mood);
    std::map<const Inode*, InodePtr> done;
    root_ = after_crash(root_, mood, done);
}

void SimulatedDisk::settle_names(Mood mood) {
    const bool in_order = rng_.below(2) == 0;
    const std::uint64_t reached = rng_.below(unsynced_.size() + 1);
    std::uint64_t before = 0;
    for (const auto& [number, change] : unsynced_) {
        const bool kept = mood == Mood::Keep ||
                          (mood == Mood::Mix && (in_order ? before < reached : rng_.below(2) == 0));
        ++before;
        if (kept) {
            make_durable(change);
        } else {
            ++seen_.names_lost;
        }
    }
    unsynced_.clear();
    unsynced_in_.clear();
}

void SimulatedDisk::make_durable(const Change& change) {
    for (const Edit& edit : change) {
        if (edit.entry) {
            edit.folder->durable_entries[edit.name] = edit.entry;
        } else {
            edit.folder->durable_entries.erase(edit.name);
        }
    }
}

// A copy: what the dead process still holds open or mapped must not reach into its successor's world.
InodePtr SimulatedDisk::after_crash(const InodePtr& inode, Mood mood,
                                    std::map<const Inode*, InodePtr>& done) {
    InodePtr& copy = done[inode.get()];
    if (copy) return copy;
    copy = new_inode(inode->kind);
    const InodePtr made = copy;
    made->changed = inode->changed;
    made->target = inode->target;
    if (inode->kind == Inode::Kind::File) {
        *made->bytes = bytes_after_crash(*inode, mood);
        made->durable = *made->bytes;
    }
    for (const auto& [name, entry] : inode->durable_entries) {
        made->durable_entries[name] = after_crash(entry, mood, done);
    }
    made->entries = made->durable_entries;
    return made;
}

std::vector<std::byte> SimulatedDisk::bytes_after_crash(const Inode& inode, Mood mood) {
    if (inode.is_synced() || mood == Mood::Keep) return *inode.bytes;
    const std::uint64_t drawn = mood == Mood::Lose ? 0 : rng_.below(4);
    if (drawn == 1) return *inode.bytes;
    auto left = drawn == 0 ? inode.durable : inode.torn(rng_);
    if (left == inode.durable) {
        ++seen_.files_lost;
    } else if (left != *inode.bytes) {
        ++seen_.files_torn;
    }
    return left;
}

// ------------------------------------------------------------------------------------------------- folders

InodePtr SimulatedDisk::new_inode(Inode::Kind kind) const {
    auto inode = std::make_shared<Inode>();
    inode->kind = kind;
    inode->changed = operations_;
    return inode;
}

Result<SimulatedDisk::Place> SimulatedDisk::place(const Path& path, int links_left) const {
    Path normal = (Path("/") / path).lexically_normal();
    if (!normal.has_filename()) normal = normal.parent_path();
    if (normal == "/") return Place{nullptr, "", root_};
    FEDLLM_TRY(const Place above, place_behind_links(normal.parent_path(), links_left));
    if (!above.found || above.found->kind != Inode::Kind::Directory) {
        return make_error(Errc::NotFound, path.string() + ": No such file or directory");
    }
    const auto& entries = above.found->entries;
    const auto found = entries.find(normal.filename().string());
    return Place{above.found, normal.filename().string(), found == entries.end() ? nullptr : found->second};
}

Result<SimulatedDisk::Place> SimulatedDisk::place_behind_links(const Path& path, int links_left) const {
    FEDLLM_TRY(Place here, place(path, links_left));
    if (!here.found || here.found->kind != Inode::Kind::Other) return here;
    if (links_left == 0) return io_error(path, "Too many levels of symbolic links");
    return place_behind_links(path.parent_path() / here.found->target, links_left - 1);
}

Result<SimulatedDisk::Place> SimulatedDisk::place_to_change(const Path& path) const {
    FEDLLM_TRY_VOID(alive(path, life_));
    auto found = place(path);
    if (!found) return io_error(path, found.error().message);
    if (!found->folder) return io_error(path, "the root stays as it is");
    return found;
}

void SimulatedDisk::edit(Change change) {
    ++edits_;
    for (const Edit& edit : change) {
        if (edit.entry) {
            edit.folder->entries[edit.name] = edit.entry;
        } else {
            edit.folder->entries.erase(edit.name);
        }
        unsynced_in_[edit.folder.get()].insert(edits_);
    }
    unsynced_.emplace(edits_, std::move(change));
}

Result<std::unique_ptr<DiskFile>> SimulatedDisk::open(const Path& path, Open how, FileMode) {
    FEDLLM_TRY_VOID(alive(path, life_));
    auto found = place_behind_links(path);
    if (!found && how != Open::Read) return io_error(path, "creating: " + found.error().message);
    if (!found) return found.error();
    InodePtr inode = found->found;
    if (!inode && how == Open::Read) {
        return make_error(Errc::NotFound, path.string() + ": opening: No such file or directory");
    }
    if (inode && inode->kind != Inode::Kind::File && how != Open::Read)
        return io_error(path, "Is a directory");
    if (!inode) {
        inode = new_inode(Inode::Kind::File);
        FEDLLM_TRY_VOID(change(path, "creating", [&] { edit({{found->folder, found->name, inode}}); }));
    } else if (how == Open::Replace) {
        FEDLLM_TRY_VOID(change(path, "emptying", [&] { inode->resize(0); }));
    }
    return std::unique_ptr<DiskFile>(new SimulatedFile(*this, path, inode));
}

Result<Disk::NewFile> SimulatedDisk::create_unique(const Path& prefix, std::string_view suffix) {
    std::string number = std::to_string(++unique_names_);
    number.insert(0, number.size() < 6 ? 6 - number.size() : 0, '0');
    Path path = prefix.string() + number + std::string(suffix);
    FEDLLM_TRY(auto file, open(path, Open::Write, FileMode::Secret));
    return NewFile{std::move(path), std::move(file)};
}

Result<std::optional<Disk::Status>> SimulatedDisk::find(const Path& path) {
    FEDLLM_TRY_VOID(alive(path, life_));
    const auto found = place_behind_links(path);
    if (!found && found.error().code != Errc::NotFound) return found.error();
    if (!found || !found->found) return std::optional<Status>();
    const Inode& inode = *found->found;
    const auto changed = std::filesystem::file_time_type(std::chrono::seconds(inode.changed));
    return std::optional(Status{inode.kind, inode.bytes->size(), changed});
}

Result<std::vector<std::string>> SimulatedDisk::list(const Path& folder) {
    FEDLLM_TRY_VOID(alive(folder, life_));
    const auto found = place_behind_links(folder);
    if (!found || !found->found || found->found->kind != Inode::Kind::Directory) {
        return io_error(folder, "listing: No such file or directory");
    }
    std::vector<std::string> names;
    for (const auto& [name, entry] : found->found->entries) names.push_back(name);
    return names;
}

Result<void> SimulatedDisk::make_directory(const Path& path) {
    FEDLLM_TRY(const Place at, place_to_change(path));
    if (at.found) return {};
    return change(path, "creating the folder", [&] {
        edit({{at.folder, at.name, new_inode(Inode::Kind::Directory)}});
    });
}

Result<void> SimulatedDisk::link(const Path& target, const Path& path) {
    FEDLLM_TRY(const Place at, place_to_change(path));
    if (at.found) return io_error(path, "creating the link: File exists");
    const InodePtr made = new_inode(Inode::Kind::Other);
    made->target = target;
    return change(path, "creating the link", [&] { edit({{at.folder, at.name, made}}); });
}

Result<void> SimulatedDisk::rename(const Path& from, const Path& to) {
    FEDLLM_TRY(const Place source, place_to_change(from));
    FEDLLM_TRY(const Place target, place_to_change(to));
    if (!source.found) return io_error(to, "renaming into place: there is no " + from.string());
    if (source.found == target.found) return {};
    return change(to, "renaming into place", [&] {
        edit({{source.folder, source.name, nullptr}, {target.folder, target.name, source.found}});
    });
}

Result<void> SimulatedDisk::remove(const Path& path) {
    FEDLLM_TRY(const Place at, place_to_change(path));
    if (!at.found) return {};
    if (!at.found->entries.empty()) return io_error(path, "deleting: Directory not empty");
    return change(path, "deleting", [&] { edit({{at.folder, at.name, nullptr}}); });
}

Result<void> SimulatedDisk::sync_directory(const Path& folder) {
    FEDLLM_TRY_VOID(alive(folder, life_));
    FEDLLM_TRY(const Place at, place_behind_links(folder.empty() ? Path("/") : folder));
    if (!at.found || at.found->kind != Inode::Kind::Directory)
        return io_error(folder, "opening to sync: no folder");
    return change(folder, "syncing to disk", [&] {
        for (const std::uint64_t number : std::exchange(unsynced_in_[at.found.get()], {})) {
            const auto synced = unsynced_.find(number);
            make_durable(synced->second);  // of both folders, where it was moved from one to the other
            for (const Edit& edit : synced->second) unsynced_in_[edit.folder.get()].erase(number);
            unsynced_.erase(synced);
        }
    });
}

}  // namespace fedllm::tools::world
