// How the f32 values of an update, or of the difference between two model versions, become bytes: defined
// once for client and server. A codec is a set of plain functions chosen by its id: no classes to derive
// from, so the same inline bodies can serve a GPU.
//
// none: every value as little-endian IEEE f32, in manifest order, nothing else. 4 bytes per element.
// All others: one self-describing container (container.hpp) around segments of 2^17 values:
//   bf16 (dense.hpp); int8, int4, sign (blocks.hpp); topk (topk.hpp); deadzone (deadzone.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"
#include "common/codec/layout.hpp"

namespace fedllm::codec {

enum class CodecId : std::uint8_t {  // the numbers are on the wire
    None = 0,
    Bf16 = 1,
    Int8 = 2,
    Int4 = 3,
    Sign = 4,
    TopK = 5,
    Deadzone = 6,
};
enum class Rounding : std::uint8_t { Nearest, Stochastic };
enum class TopKValues : std::uint8_t { Bf16 = 0, Int4 = 1 };  // the numbers are on the wire

// What the encoder is told. The decoder needs none of it: the bytes describe themselves.
struct Spec {
    CodecId id = CodecId::None;
    double step = 2.5;  // deadzone: of the quantiser, in root mean squares of all values
    double bits = 0.0;  // deadzone: > 0: the step that takes about so many bits per value, in place of `step`
    Rounding rounding = Rounding::Nearest;      // int8, int4
    double density = 0.05;                      // topk: the share of values that is sent
    TopKValues topk_values = TopKValues::Int4;  // topk: how they are sent
    bool operator==(const Spec&) const = default;
};

std::string_view name(CodecId codec);

// The same for values of which many are exactly zero and stand for nothing (a frozen A, other segments): step
// and bits count for the others.
Spec without_zeros(const Spec& spec, std::uint64_t elements, std::uint64_t zeros);
Spec without_zeros(const Spec& spec, std::span<const float> values);

// The least and the most bytes that any values of this layout can take, so that a claim of any other size is
// refused before a byte is taken.
struct ByteRange {
    std::uint64_t least = 0;
    std::uint64_t most = 0;
    bool operator==(const ByteRange&) const = default;
};
ByteRange encoded_bytes(CodecId codec, const Layout& layout);

// Calls each(0) to each(count - 1), in any order and on any threads, and is back when all have returned.
using InParts = std::function<void(std::size_t count, const std::function<void(std::size_t)>& each)>;
void one_after_another(std::size_t count, const std::function<void(std::size_t)>& each);

// values: layout.elements numbers; every codec but `none` refuses NaN and infinity (NotFinite). `key` numbers
// the random stream of stochastic rounding: the same key gives the same bytes. So do any threads: what
// they do apart does not depend on how many they are.
Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values,
                                      std::uint64_t key, const InParts& in_parts = one_after_another);

// Takes values in order, in slices that stay in the cache: elements [first_element, first_element +
// values.size()).
using Sink = std::function<void(std::uint64_t first_element, std::span<const float> values)>;
constexpr std::size_t kSliceValuesMax = 4096;

// Decodes bytes that arrive in pieces of any size. Values leave through a sink and not in one vector, because
// few bytes may stand for many values. Hostile input: every count and size is checked against the layout
// before memory is taken; values are finite for every codec but `none`. Memory: one segment (at most 2.1
// bytes per value of 2^17) and 17 KiB per group of the layout. Errors: TooLarge (bytes beyond the last
// value), Malformed, ManifestMismatch (made for another layout or codec). After an error the decoder must not
// be used again; what reached the sink is void.
class Decoder {
public:
    Decoder(CodecId codec, const Layout& layout);
    ~Decoder();
    Decoder(Decoder&&) noexcept;
    Decoder& operator=(Decoder&&) noexcept;

    Result<void> push(std::span<const std::byte> bytes, const Sink& sink);

    std::uint64_t decoded() const;
    bool complete() const;  // every value has been decoded, and no byte is missing

private:
    struct State;
    std::unique_ptr<State> state_;
};

// What a Decoder may hold at once, in bytes.
std::uint64_t decoder_bytes(CodecId codec, const Layout& layout);

// A complete encoded update, say a mapped spool file, in order. ManifestMismatch where bytes are missing;
// else as Decoder.
Result<void> decode(CodecId codec, const Layout& layout, std::span<const std::byte> encoded,
                    const Sink& sink);

}  // namespace fedllm::codec
