#include "common/codec/container.hpp"

#include <algorithm>
#include <array>

#include "common/codec/crc32c.hpp"

namespace fedllm::codec {
namespace {

constexpr std::array<char, 4> kMagic{'F', 'L', 'C', 'U'};

Error mismatch(const std::string& what, std::uint64_t found, std::uint64_t expected) {
    return make_error(Errc::ManifestMismatch, "the encoded update says " + what + " " +
                                                  std::to_string(found) + "; the job has " +
                                                  std::to_string(expected));
}

}  // namespace

void append_header(std::vector<std::byte>& bytes, CodecId codec, const Layout& layout,
                   std::span<const std::byte> parameters) {
    const std::size_t begun = bytes.size();
    for (const char c : kMagic) bytes.push_back(static_cast<std::byte>(c));
    append_number(bytes, kContainerVersion);
    append_number(bytes, static_cast<std::uint8_t>(codec));
    append_number(bytes, static_cast<std::uint16_t>(layout.groups));
    append_number(bytes, layout.elements);
    append_number(bytes, static_cast<std::uint32_t>(parameters.size()));
    bytes.insert(bytes.end(), parameters.begin(), parameters.end());
    append_number(bytes, crc32c(std::span(bytes).subspan(begun)));
}

std::size_t begin_segment(std::vector<std::byte>& bytes) {
    bytes.resize(bytes.size() + kSegmentHeadBytes);
    return bytes.size() - kSegmentHeadBytes;
}

void end_segment(std::vector<std::byte>& bytes, std::size_t begun) {
    const auto payload = std::span<const std::byte>(bytes).subspan(begun + kSegmentHeadBytes);
    const auto size = static_cast<std::uint32_t>(payload.size());
    const std::uint32_t crc = crc32c(payload);
    std::memcpy(bytes.data() + begun, &size, sizeof size);
    std::memcpy(bytes.data() + begun + sizeof size, &crc, sizeof crc);
}

Result<std::uint32_t> check_prelude(std::span<const std::byte> prelude, CodecId codec, const Layout& layout,
                                    std::uint64_t parameter_bytes_most) {
    if (std::memcmp(prelude.data(), kMagic.data(), kMagic.size()) != 0) {
        return make_error(Errc::Malformed, "an encoded update begins with 'FLCU'; this one does not");
    }
    if (const auto version = read_number<std::uint8_t>(prelude, 4); version != kContainerVersion) {
        return make_error(Errc::Malformed, "the encoded update has format version " +
                                               std::to_string(version) + "; version " +
                                               std::to_string(kContainerVersion) + " is what can be read");
    }
    if (const auto found = read_number<std::uint8_t>(prelude, 5); found != static_cast<std::uint8_t>(codec)) {
        return make_error(Errc::ManifestMismatch, "the update is encoded as '" +
                                                      std::string(name(static_cast<CodecId>(found))) +
                                                      "'; expected '" + std::string(name(codec)) + "'");
    }
    if (const auto groups = read_number<std::uint16_t>(prelude, 6); groups != layout.groups) {
        return mismatch("groups:", groups, layout.groups);
    }
    if (const auto elements = read_number<std::uint64_t>(prelude, 8); elements != layout.elements) {
        return mismatch("elements:", elements, layout.elements);
    }
    const auto parameter_bytes = read_number<std::uint32_t>(prelude, 16);
    if (parameter_bytes > parameter_bytes_most) {
        return make_error(Errc::TooLarge, "the encoded update's parameters claim " +
                                              std::to_string(parameter_bytes) + " bytes; at most " +
                                              std::to_string(parameter_bytes_most) + " are possible");
    }
    return parameter_bytes;
}

}  // namespace fedllm::codec
