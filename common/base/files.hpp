// Files: whole reads, read-only maps, and writes that are all or nothing.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "common/base/disk.hpp"
#include "common/base/result.hpp"

namespace fedllm {

// The whole file as text. Fails with TooLarge before allocating.
Result<std::string> read_file(const Path& path, std::size_t bytes_max = std::size_t{64} << 20);

// Write to a temporary file beside `path`, fsync, rename, fsync the directory: after a crash either the old
// or the new content is there, never a mixture.
Result<void> write_file_atomically(const Path& path, std::span<const std::byte> content,
                                   FileMode mode = FileMode::Normal);
Result<void> write_file_atomically(const Path& path, std::string_view content,
                                   FileMode mode = FileMode::Normal);

// The rename half of the above, for writers that stream: fsync `temporary`, rename onto `path`, fsync
// directory.
Result<void> commit_file(const Path& temporary, const Path& path);

// With those above it that are missing. They are on the disk then, and not lost with all that is in them.
Result<void> make_directories(const Path& path);

// A read-only memory map of a whole file. Move-only; the span lives as long as the object, moves included.
class MappedFile {
public:
    static Result<MappedFile> open(const Path& path);
    explicit MappedFile(std::unique_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}

    std::span<const std::byte> bytes() const { return mapping_->bytes(); }

private:

    std::unique_ptr<Mapping> mapping_;
};

// A new file of a known size, mapped to be written in any order; its space is taken before a byte is written.
// Sync it by commit_file. Move-only, as above.
class WritableMap {
public:
    static Result<WritableMap> create(const Path& path, std::uint64_t bytes);

    std::span<std::byte> bytes() const { return mapping_->bytes(); }

private:
    explicit WritableMap(std::unique_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}

    std::unique_ptr<Mapping> mapping_;
};

// Lets go of the memory behind whole pages of a map that were read and will not be soon; a later read fetches
// them from the file again. Only advice: nothing can go wrong.
inline void release_pages(std::span<const std::byte> mapped) { disk().release(mapped); }

}  // namespace fedllm
