// A disk in memory that can do to a process what real ones do: refuse (EIO, ENOSPC), fail to sync, and lose
// power with any part of what was not synced on it.
//
//   SimulatedDisk disk(seed);
//   ScopedDisk scope(disk);               // the process's file operations come here
//   disk.fail_at(17, Fault::Crash);       // or set_rates(), or crash() at any moment
//   ...                                   // until disk.crashed(): drop the process
//   disk.reboot();                        // and start it again
//
// What survives a crash: every byte and name that was synced. Of the rest, drawn from the seed: all (as kill
// -9 leaves it), nothing, or per file a prefix or any subset of its changed sectors, with its old or new
// length; and any subset, or the first ones, of the changes to folders, each rename whole or not at all. A
// file's name is on disk only once its folder was synced, its bytes only once it was itself.
//
// Lifecycle: outlives its open files and the scopes; those open at a crash are dead for ever. One per process
// of the world, used from one thread. The same calls on the same seed give the same answers.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/disk.hpp"
#include "common/base/philox.hpp"
#include "tools/world/disk/inode.hpp"
#include "tools/world/disk/sqlite_driver.hpp"

namespace fedllm::tools::world {

enum class Fault {
    IoError,  // a write may leave a part of its bytes, a sync may have lost what it should have kept
    NoSpace,  // the same, with a full disk as the reason
    Crash     // right after the operation was carried out; nobody learns that it was
};

class SimulatedDisk final : public Disk {
public:
    explicit SimulatedDisk(std::uint64_t seed);

    // Changes so far, each a place for a fault: create, write, resize, sync, rename, remove, ..., SQLite's
    // too.
    std::uint64_t operations() const { return operations_; }
    // Change number `operation` (the first is 1) meets the fault, and so do the next `times` - 1.
    void fail_at(std::uint64_t operation, Fault fault, std::uint64_t times = 1);
    // One in so many operations, drawn from the seed; 0 is never. Reads fail by io_error too.
    struct Rates {
        std::uint64_t io_error = 0;
        std::uint64_t no_space = 0;
        std::uint64_t crash = 0;
    };
    void set_rates(const Rates& rates) { rates_ = rates; }
    void stop_faults();  // those that were ordered too

    enum class Unsynced { Drawn, Kept };  // Kept: the process dies and the system lives on
    void crash(Unsynced unsynced = Unsynced::Drawn);
    bool crashed() const { return crashed_; }  // every operation fails until reboot()
    void reboot() { crashed_ = false; }

    // How often something was done to the process.
    struct Seen {
        std::uint64_t io_errors = 0;
        std::uint64_t full = 0;
        std::uint64_t crashes = 0;
        std::uint64_t files_lost = 0;  // at a crash: went back to what was synced
        std::uint64_t files_torn = 0;  // became neither what was synced nor what was written
        std::uint64_t names_lost = 0;  // changes to folders
    };
    const Seen& seen() const { return seen_; }

    Result<std::unique_ptr<DiskFile>> open(const Path& path, Open how, FileMode mode) override;
    Result<NewFile> create_unique(const Path& prefix, std::string_view suffix) override;
    Result<std::optional<Status>> find(const Path& path) override;
    Result<std::vector<std::string>> list(const Path& folder) override;
    Result<void> make_directory(const Path& path) override;
    Result<void> link(const Path& target, const Path& path) override;
    Result<void> rename(const Path& from, const Path& to) override;
    Result<void> remove(const Path& path) override;
    Result<void> sync_directory(const Path& folder) override;
    void release(std::span<const std::byte>) override {}  // its maps are memory and must stay
    const char* database_driver() const override { return driver_.name(); }

private:
    friend class SimulatedFile;

    struct Place {  // a name in a folder, whatever is there
        InodePtr folder;
        std::string name;
        InodePtr found;  // null: nothing
    };
    struct Edit {
        InodePtr folder;
        std::string name;
        InodePtr entry;  // null: removed
    };
    using Change = std::vector<Edit>;  // together or not at all

    enum class Mood { Keep, Lose, Mix };  // of a crash

    std::optional<Fault> next_fault();
    Result<void> check_read(const Path& path);
    // Carries out a change of the kind, unless a fault comes before it; `spoil` is what the fault leaves.
    Result<void> change(const Path& path, const char* doing, const std::function<void()>& apply,
                        const std::function<void()>& spoil = {});
    Result<void> alive(const Path& path, std::uint64_t life) const;
    Result<Place> place(const Path& path, int links_left = kLinksMax) const;
    Result<Place> place_behind_links(const Path& path, int links_left = kLinksMax) const;
    Result<Place> place_to_change(const Path& path) const;
    InodePtr new_inode(Inode::Kind kind) const;
    void edit(Change change);
    static void make_durable(const Change& change);
    void settle_names(Mood mood);
    InodePtr after_crash(const InodePtr& inode, Mood mood, std::map<const Inode*, InodePtr>& done);
    std::vector<std::byte> bytes_after_crash(const Inode& inode, Mood mood);

    static constexpr int kLinksMax = 8;

    Rng rng_;
    InodePtr root_;
    std::map<std::uint64_t, Change> unsynced_;  // of folders, in order
    std::map<const Inode*, std::set<std::uint64_t>> unsynced_in_;
    std::map<std::uint64_t, Fault> script_;
    Rates rates_;
    Seen seen_;
    std::uint64_t operations_ = 0;
    std::uint64_t edits_ = 0;
    std::uint64_t unique_names_ = 0;
    std::uint64_t life_ = 0;  // crashes so far: files of an earlier one are dead
    bool crashed_ = false;
    SqliteDriver driver_;
};

}  // namespace fedllm::tools::world
