// How the f32 values of an update, or of the difference between two model versions, become bytes: defined
// once for client and server. A codec is a set of plain functions chosen by its id: no classes to derive
// from, so the same inline bodies can serve a GPU.
//
// none: every value as little-endian IEEE f32, in manifest order, nothing else. 4 bytes per element.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"
#include "common/codec/layout.hpp"

namespace fedllm::codec {

enum class CodecId : std::uint8_t { None };

// What the encoder is told. The decoder needs none of it: the bytes describe themselves.
struct Spec {
    CodecId id = CodecId::None;
    bool operator==(const Spec&) const = default;
};

std::string_view name(CodecId codec);

// The least and the most bytes that any values of this layout can take, so that a claim of any other size is
// refused before a byte is taken.
struct ByteRange {
    std::uint64_t least = 0;
    std::uint64_t most = 0;
};
ByteRange encoded_bytes(CodecId codec, const Layout& layout);

// values: layout.elements numbers; every codec but `none` refuses NaN and infinity (NotFinite). `key` numbers
// the random stream of stochastic rounding: the same key gives the same bytes.
Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values,
                                      std::uint64_t key);

// Decodes bytes that arrive in pieces of any size; a value may straddle two pieces. Hostile input: every
// count and size is checked against the layout before memory is taken. Errors: TooLarge (bytes beyond the
// last value), Malformed.
class Decoder {
public:
    Decoder(CodecId codec, const Layout& layout);

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

// A complete encoded update, say a mapped spool file, in slices that stay in the cache, in order.
// ManifestMismatch where bytes are missing; else as Decoder.
using Sink = std::function<void(std::uint64_t first_element, std::span<const float> values)>;
Result<void> decode(CodecId codec, const Layout& layout, std::span<const std::byte> encoded,
                    const Sink& sink);

}  // namespace fedllm::codec
