#include "tools/world/disk/inode.hpp"

#include <algorithm>
#include <utility>

namespace fedllm::tools::world {
namespace {

void put(std::vector<std::byte>& into, std::size_t sector, std::span<const std::byte> bytes) {
    const std::size_t first = sector * Inode::kSectorBytes;
    if (into.size() < first + bytes.size()) into.resize(first + bytes.size());
    std::copy(bytes.begin(), bytes.end(), into.begin() + static_cast<std::ptrdiff_t>(first));
}

}  // namespace

std::size_t Inode::sectors() const {
    return (std::max(bytes->size(), durable.size()) + kSectorBytes - 1) / kSectorBytes;
}

std::span<const std::byte> Inode::sector(const std::vector<std::byte>& of, std::size_t index) const {
    const std::size_t first = std::min(index * kSectorBytes, of.size());
    return std::span(of).subspan(first, std::min(kSectorBytes, of.size() - first));
}

void Inode::resize(std::size_t size) {
    const bool moves = size > bytes->capacity() || size < bytes->size();
    // A map of the file as it was keeps its memory.
    if (moves && bytes.use_count() > 1) bytes = std::make_shared<std::vector<std::byte>>(*bytes);
    if (size < bytes->size()) all_changed = true;
    note_change(bytes->size(), size);
    bytes->resize(size);
    doomed.erase(doomed.lower_bound((size + kSectorBytes - 1) / kSectorBytes), doomed.end());
}

void Inode::note_change(std::size_t first, std::size_t end) {
    if (first >= end) return;
    const bool none = changed_first >= changed_end;
    changed_first = none ? first : std::min(changed_first, first);
    changed_end = none ? end : std::max(changed_end, end);
}

void Inode::write(std::uint64_t offset, std::span<const std::byte> from) {
    if (bytes->size() < offset + from.size()) resize(offset + from.size());
    std::copy(from.begin(), from.end(), bytes->begin() + static_cast<std::ptrdiff_t>(offset));
    if (from.empty()) return;
    note_change(offset, offset + from.size());
    // Written again, with the same bytes or others: the next sync() takes them.
    doomed.erase(doomed.lower_bound(offset / kSectorBytes),
                 doomed.upper_bound((offset + from.size() - 1) / kSectorBytes));
}

void Inode::sync() {
    if (doomed.empty()) {
        if (std::exchange(all_changed, false) || mapped) {
            durable = *bytes;
        } else if (changed_first < changed_end) {
            const auto first = static_cast<std::ptrdiff_t>(changed_first);
            const auto end = static_cast<std::ptrdiff_t>(changed_end);
            durable.resize(bytes->size());
            std::copy(bytes->begin() + first, bytes->begin() + end, durable.begin() + first);
        }
        changed_first = changed_end = 0;
        return;
    }
    all_changed = true;
    for (std::size_t i = 0; i < sectors(); ++i) {
        const auto now = sector(*bytes, i);
        const auto lost = doomed.find(i);
        if (lost != doomed.end() && std::ranges::equal(now, lost->second)) continue;
        put(durable, i, now);
        doomed.erase(i);
    }
    durable.resize(bytes->size());
}

void Inode::fail_to_sync(Rng& rng) {
    all_changed = true;
    const bool looks_written = rng.below(2) == 0;
    std::vector<std::byte> after = durable;
    after.resize(bytes->size());
    for (std::size_t i = 0; i < sectors(); ++i) {
        const auto now = sector(*bytes, i);
        if (std::ranges::equal(now, sector(durable, i))) continue;
        if (rng.below(2) == 0) {
            put(after, i, now);
        } else if (looks_written) {
            doomed[i].assign(now.begin(), now.end());
        }
    }
    durable = std::move(after);
    if (!looks_written) std::copy(durable.begin(), durable.end(), bytes->begin());
}

std::vector<std::byte> Inode::torn(Rng& rng) const {
    const std::size_t count = sectors();
    const bool in_order = rng.below(2) == 0;
    const std::size_t reached = rng.below(count + 1);
    const bool longer_lost = rng.below(2) == 0;
    std::vector<std::byte> after = durable;
    after.resize(longer_lost ? durable.size() : bytes->size());
    for (std::size_t i = 0; i < count; ++i) {
        const bool kept = in_order ? i < reached : rng.below(2) == 0;
        const auto now = sector(*bytes, i);
        const auto lost = doomed.find(i);
        const bool is_doomed = lost != doomed.end() && std::ranges::equal(now, lost->second);
        if (!kept || is_doomed) continue;
        const std::size_t first = i * kSectorBytes;
        if (first >= after.size()) break;
        const std::size_t length = std::min(now.size(), after.size() - first);
        std::copy_n(now.begin(), length, after.begin() + static_cast<std::ptrdiff_t>(first));
    }
    return after;
}

}  // namespace fedllm::tools::world
