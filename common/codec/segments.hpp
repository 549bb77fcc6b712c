// What the codecs' segment decoders share.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "common/codec/codec.hpp"

namespace fedllm::codec {

// One segment's payload, its CRC checked, and the elements it must give.
struct Segment {
    std::uint64_t first_element = 0;
    std::uint64_t count = 0;
    std::span<const std::byte> payload;
};

// "the segment of elements 0 to 131071"
inline std::string describe(const Segment& segment) {
    return "the segment of elements " + std::to_string(segment.first_element) + " to " +
           std::to_string(segment.first_element + segment.count - 1);
}

inline Error malformed(const Segment& segment, const std::string& what) {
    return make_error(Errc::Malformed, describe(segment) + " " + what);
}

// Cuts what a decoder writes into slices for the sink. Call flush() last.
class SliceWriter {
public:
    SliceWriter(const Sink& sink, std::uint64_t first_element) : sink_(sink), first_(first_element) {}

    // Room for `least` values or more (at most kSliceValuesMax); written() says how many were used.
    std::span<float> room(std::size_t least) {
        if (kSliceValuesMax - filled_ < least) flush();
        return std::span(slice_).subspan(filled_);
    }
    void written(std::size_t count) { filled_ += count; }
    void zeros(std::uint64_t count) {
        while (count > 0) {
            const std::span<float> free = room(1);
            const auto some = static_cast<std::size_t>(std::min<std::uint64_t>(count, free.size()));
            std::fill_n(free.begin(), some, 0.0f);
            written(some);
            count -= some;
        }
    }
    void flush() {
        if (filled_ > 0) sink_(first_, std::span<const float>(slice_).first(filled_));
        first_ += filled_;
        filled_ = 0;
    }

private:
    const Sink& sink_;
    std::uint64_t first_;
    std::size_t filled_ = 0;
    std::array<float, kSliceValuesMax> slice_;
};

}  // namespace fedllm::codec
