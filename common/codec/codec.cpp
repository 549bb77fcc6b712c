#include "common/codec/codec.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

namespace fedllm::codec {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian, and values are copied");

namespace {
constexpr std::size_t kRawBytes = 4;  // of one value under CodecId::None
}

std::string_view name(CodecId codec) {
    switch (codec) {
        case CodecId::None: return "none";
    }
    return "unknown";
}

std::uint64_t encoded_bytes(CodecId codec, std::uint64_t elements) {
    switch (codec) {
        case CodecId::None: return kRawBytes * elements;
    }
    return 0;
}

std::vector<std::byte> encode(CodecId codec, std::span<const float> values) {
    std::vector<std::byte> bytes(encoded_bytes(codec, values.size()));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

Result<void> decode_range(CodecId codec, std::span<const std::byte> encoded, std::uint64_t first_element,
                          std::span<float> out) {
    const std::uint64_t elements = encoded.size() / encoded_bytes(codec, 1);
    if (first_element > elements || out.size() > elements - first_element) {
        return make_error(Errc::ManifestMismatch, "an encoded update of " + std::to_string(encoded.size()) +
                                                      " bytes ends before element " +
                                                      std::to_string(first_element) + " + " +
                                                      std::to_string(out.size()));
    }
    if (!out.empty()) std::memcpy(out.data(), encoded.data() + first_element * kRawBytes, out.size_bytes());
    return {};
}

Decoder::Decoder(CodecId codec, std::uint64_t elements) : codec_(codec), elements_(elements) {}

Result<void> Decoder::push(std::span<const std::byte> bytes, std::vector<float>& values) {
    values.clear();
    const std::uint64_t missing = encoded_bytes(codec_, elements_ - decoded_) - partial_bytes_;
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

}  // namespace fedllm::codec
