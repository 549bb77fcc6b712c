// Files: whole reads, read-only maps, and writes that are all or nothing.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "common/base/result.hpp"

namespace fedllm {

using Path = std::filesystem::path;

// The whole file as text. Fails with TooLarge before allocating.
Result<std::string> read_file(const Path& path, std::size_t bytes_max = std::size_t{64} << 20);

enum class FileMode { Normal, Secret };  // 0644, or 0600 for private keys

// Write to a temporary file beside `path`, fsync, rename, fsync the directory: after a crash either the old
// or the new content is there, never a mixture.
Result<void> write_file_atomically(const Path& path, std::span<const std::byte> content,
                                   FileMode mode = FileMode::Normal);
Result<void> write_file_atomically(const Path& path, std::string_view content,
                                   FileMode mode = FileMode::Normal);

// The rename half of the above, for writers that stream: fsync `temporary`, rename onto `path`, fsync
// directory.
Result<void> commit_file(const Path& temporary, const Path& path);

Result<void> make_directories(const Path& path);

// A read-only memory map of a whole file. Move-only; the span lives as long as the object.
class MappedFile {
public:
    static Result<MappedFile> open(const Path& path);
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;
    ~MappedFile();

    std::span<const std::byte> bytes() const { return {data_, size_}; }

private:
    MappedFile(const std::byte* data, std::size_t size) : data_(data), size_(size) {}

    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

// Lets go of the memory behind whole pages of a map that were read and will not be soon; a later read fetches
// them from the file again. Only advice: nothing can go wrong.
void release_pages(std::span<const std::byte> mapped);

}  // namespace fedllm
