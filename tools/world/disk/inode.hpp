// One file, folder or link of a SimulatedDisk: what processes see, and what would be there after a power cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/disk.hpp"
#include "common/base/philox.hpp"

namespace fedllm::tools::world {

struct Inode;
using InodePtr = std::shared_ptr<Inode>;  // names, open files and maps share it, as in any file system

struct Inode {
    using Kind = Disk::Status::Kind;  // Other: a symbolic link
    static constexpr std::size_t kSectorBytes = 512;

    Kind kind = Kind::File;
    std::uint64_t changed = 0;  // a count, not a time

    // File. Maps share `bytes`, which never moves under them.
    std::shared_ptr<std::vector<std::byte>> bytes = std::make_shared<std::vector<std::byte>>();
    std::vector<std::byte> durable;
    std::map<std::size_t, std::vector<std::byte>>
        doomed;  // sectors as a failed sync left them: clean, not on disk
    // What write() has changed since the last sync(), so that a long file's sync copies no more than that.
    std::size_t changed_first = 0;
    std::size_t changed_end = 0;
    bool all_changed = true;  // or it is not known: the file is new, or a failure came between
    bool mapped = false;      // to be written: anywhere, at any time
    const void* locked_by = nullptr;

    std::map<std::string, InodePtr> entries, durable_entries;  // Folder
    Path target;                                               // Link

    void write(std::uint64_t offset, std::span<const std::byte> from);
    void resize(std::size_t size);
    void sync();
    // Some changed sectors reach the disk. The others look written, or are as they were: either way the next
    // sync() does not write them unless they were written again.
    void fail_to_sync(Rng& rng);

    bool is_synced() const { return *bytes == durable; }
    // The bytes after a power cut: any mixture, by sectors, of the synced and the written.
    std::vector<std::byte> torn(Rng& rng) const;

private:
    void note_change(std::size_t first, std::size_t end);
    std::span<const std::byte> sector(const std::vector<std::byte>& of, std::size_t index) const;
    std::size_t sectors() const;
};

}  // namespace fedllm::tools::world
