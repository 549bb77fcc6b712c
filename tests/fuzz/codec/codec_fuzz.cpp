// Any bytes as an encoded update: refused, or exactly the layout's values, all finite, whatever the pieces.
// The first byte chooses the codec and the layout, and whether checksums are made right first, so that what
// they guard is reached.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common/codec/codec.hpp"
#include "common/codec/container.hpp"
#include "common/codec/crc32c.hpp"
#include "tests/fuzz/codec/layouts.hpp"

using namespace fedllm;

namespace {

void store(std::vector<std::byte>& bytes, std::size_t at, std::uint32_t number) {
    std::memcpy(bytes.data() + at, &number, sizeof number);
}

// As far as the lengths lead to places inside.
void repair_checksums(std::vector<std::byte>& bytes) {
    using namespace codec;
    if (bytes.size() < kPreludeBytes) return;
    std::size_t at = kPreludeBytes + std::size_t{read_number<std::uint32_t>(bytes, kPreludeBytes - 4)};
    if (at + kCrcBytes > bytes.size()) return;
    store(bytes, at, crc32c(std::span(bytes).first(at)));
    at += kCrcBytes;
    while (at + kSegmentHeadBytes <= bytes.size()) {
        const std::size_t size = read_number<std::uint32_t>(bytes, at);
        if (size > bytes.size() - at - kSegmentHeadBytes) return;
        store(bytes, at + 4, crc32c(std::span(bytes).subspan(at + kSegmentHeadBytes, size)));
        at += kSegmentHeadBytes + size;
    }
}

struct Outcome {
    bool accepted = false;
    std::uint64_t values = 0;
    double sum = 0;
    bool operator==(const Outcome&) const = default;
};

Outcome run(codec::CodecId id, const codec::Layout& layout, std::span<const std::byte> bytes,
            std::size_t piece) {
    Outcome outcome;
    codec::Decoder decoder(id, layout);
    const codec::Sink sink = [&](std::uint64_t first, std::span<const float> values) {
        FEDLLM_CHECK(first == outcome.values && values.size() <= codec::kSliceValuesMax);
        outcome.values += values.size();
        FEDLLM_CHECK(outcome.values <= layout.elements, "no more values than the layout has");
        for (const float value : values) {
            FEDLLM_CHECK(id == codec::CodecId::None || std::isfinite(value), "values are finite");
            outcome.sum += std::isfinite(value) ? static_cast<double>(value) : 0.0;
        }
    };
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
        const auto part = bytes.subspan(at, std::min(piece, bytes.size() - at));
        if (!decoder.push(part, sink)) return outcome;
    }
    outcome.accepted = decoder.complete();
    FEDLLM_CHECK(!outcome.accepted || outcome.values == layout.elements);
    return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const auto id = static_cast<codec::CodecId>((data[0] & 7) % 7);
    const codec::Layout layout = fuzz::codec_layout(data[0] >> 3 & 3);
    std::vector<std::byte> bytes(size - 1);
    if (size > 1) std::memcpy(bytes.data(), data + 1, size - 1);
    if ((data[0] & 0x80) != 0) repair_checksums(bytes);
    const Outcome whole = run(id, layout, bytes, bytes.size() + 1);
    const Outcome pieces = run(id, layout, bytes, 1 + size % 97);
    FEDLLM_CHECK(whole.accepted == pieces.accepted, "pieces do not matter");
    FEDLLM_CHECK(!whole.accepted || whole == pieces);
    if (whole.accepted) {
        const codec::ByteRange range = codec::encoded_bytes(id, layout);
        FEDLLM_CHECK(bytes.size() >= range.least && bytes.size() <= range.most, "the bounds are honest");
    }
    return 0;
}
