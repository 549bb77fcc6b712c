#include "common/base/rewrite.hpp"

#include <vector>

namespace fedllm {

Result<void> write_again(const Path& path) {
    constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
    FEDLLM_TRY(const auto found, disk().find(path));
    if (!found) return {};
    FEDLLM_TRY(const auto file, disk().open(path, Disk::Open::Write));
    std::vector<std::byte> piece(kPieceBytes);
    for (std::uint64_t offset = 0; offset < found->bytes;) {
        FEDLLM_TRY(const std::size_t count, file->read(offset, piece));
        if (count == 0) break;
        FEDLLM_TRY_VOID(file->write(offset, std::span(piece).first(count)));
        offset += count;
    }
    return {};
}

}  // namespace fedllm
