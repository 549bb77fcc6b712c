// How a vector of f32 values becomes bytes on the wire, defined once for both sides. A codec is a row of
// plain functions chosen by its id: no classes to derive from, so the same inline bodies can serve a GPU.
//
// none: every value as little-endian IEEE f32, in manifest order, nothing else. 4 bytes per element.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"

namespace fedllm::codec {

enum class CodecId : std::uint8_t { None };

std::string_view name(CodecId codec);

// The exact size on the wire, so that a claim of any other size is refused before a byte is taken.
std::uint64_t encoded_bytes(CodecId codec, std::uint64_t elements);

std::vector<std::byte> encode(CodecId codec, std::span<const float> values);

// Values [first_element, first_element + out.size()) of a complete encoded update, say a mapped spool file.
// ManifestMismatch when the range reaches beyond the encoded bytes.
Result<void> decode_range(CodecId codec, std::span<const std::byte> encoded, std::uint64_t first_element,
                          std::span<float> out);

// Decodes an update that arrives in pieces of any size; a value may straddle two pieces.
// Limits: refuses (TooLarge) bytes beyond those of the announced number of elements; buffers no more than one
// piece.
class Decoder {
public:
    Decoder(CodecId codec, std::uint64_t elements);

    // `values` becomes the values completed by this piece; they are elements [decoded() - values.size(),
    // decoded()).
    Result<void> push(std::span<const std::byte> bytes, std::vector<float>& values);

    std::uint64_t decoded() const { return decoded_; }
    bool complete() const { return decoded_ == elements_; }

private:
    CodecId codec_;
    std::uint64_t elements_;
    std::uint64_t decoded_ = 0;
    std::array<std::byte, 4> partial_{};  // the first bytes of a value whose rest has not arrived
    std::size_t partial_bytes_ = 0;
};

}  // namespace fedllm::codec
