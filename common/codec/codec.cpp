#include "common/codec/codec.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

namespace fedllm::codec {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian, and values are copied");

namespace {

constexpr std::size_t kRawBytes = 4;             // of one value under CodecId::None
constexpr std::size_t kSliceBytes = 256 * 1024;  // decoded at a time

}  // namespace

std::string_view name(CodecId codec) {
    switch (codec) {
        case CodecId::None: return "none";
    }
    return "unknown";
}

ByteRange encoded_bytes(CodecId codec, const Layout& layout) {
    switch (codec) {
        case CodecId::None: return {kRawBytes * layout.elements, kRawBytes * layout.elements};
    }
    return {};
}

Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values,
                                      [[maybe_unused]] std::uint64_t key) {
    FEDLLM_CHECK(spec.id == CodecId::None && values.size() == layout.elements);
    std::vector<std::byte> bytes(values.size_bytes());
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

Decoder::Decoder(CodecId codec, const Layout& layout) : codec_(codec), elements_(layout.elements) {}

Result<void> Decoder::push(std::span<const std::byte> bytes, std::vector<float>& values) {
    values.clear();
    const std::uint64_t missing = kRawBytes * (elements_ - decoded_) - partial_bytes_;
    if (bytes.size() > missing) {
        return make_error(Errc::TooLarge,
                          "an update of " + std::to_string(elements_) + " values goes on for " +
                              std::to_string(bytes.size() - missing) + " bytes after its end");
    }
    const std::size_t available = partial_bytes_ + bytes.size();
    values.resize(available / kRawBytes);
    const std::span<std::byte> out = std::as_writable_bytes(std::span(values));
    if (out.empty()) {
        std::copy(bytes.begin(), bytes.end(), partial_.begin() + static_cast<std::ptrdiff_t>(partial_bytes_));
        partial_bytes_ = available;
        return {};
    }
    const std::size_t taken = out.size() - partial_bytes_;
    std::memcpy(out.data(), partial_.data(), partial_bytes_);
    std::memcpy(out.data() + partial_bytes_, bytes.data(), taken);
    partial_bytes_ = bytes.size() - taken;
    std::copy(bytes.begin() + static_cast<std::ptrdiff_t>(taken), bytes.end(), partial_.begin());
    decoded_ += values.size();
    return {};
}

Result<void> decode(CodecId codec, const Layout& layout, std::span<const std::byte> encoded,
                    const Sink& sink) {
    Decoder decoder(codec, layout);
    std::vector<float> values;
    for (std::size_t at = 0; at < encoded.size(); at += kSliceBytes) {
        const std::size_t bytes = std::min(kSliceBytes, encoded.size() - at);
        FEDLLM_TRY_VOID(decoder.push(encoded.subspan(at, bytes), values));
        if (!values.empty()) sink(decoder.decoded() - values.size(), values);
    }
    if (decoder.complete()) return {};
    return make_error(Errc::ManifestMismatch, "the encoded values end after " +
                                                  std::to_string(decoder.decoded()) + " of " +
                                                  std::to_string(layout.elements));
}

}  // namespace fedllm::codec
