// The system's files. See disk.hpp.
#pragma once

#include "common/base/disk.hpp"

namespace fedllm {

class PosixDisk final : public Disk {
public:
    Result<std::unique_ptr<DiskFile>> open(const Path& path, Open how, FileMode mode) override;
    Result<NewFile> create_unique(const Path& prefix, std::string_view suffix) override;
    Result<std::optional<Status>> find(const Path& path) override;
    Result<std::vector<std::string>> list(const Path& folder) override;
    Result<void> make_directory(const Path& path) override;
    Result<void> link(const Path& target, const Path& path) override;
    Result<void> rename(const Path& from, const Path& to) override;
    Result<void> remove(const Path& path) override;
    Result<void> sync_directory(const Path& folder) override;
    void release(std::span<const std::byte> mapped) override;
};

}  // namespace fedllm
