// `deadzone` as a whole: choosing the step and the tables, writing segments, reading them. Bits:
// deadzone.hpp.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/codec/codec.hpp"
#include "common/codec/deadzone.hpp"
#include "common/codec/segments.hpp"

namespace fedllm::codec::deadzone {

// The step that `spec` asks for, 0 where all values are as good as zero; NotFinite where one is not finite.
Result<float> choose_step(const Spec& spec, const Layout& layout, std::span<const float> values,
                          const InParts& in_parts = one_after_another);

Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values,
                                      const InParts& in_parts = one_after_another);

ByteRange segment_bytes(std::uint64_t count);  // with its head; least 0: it may be left out

// What the header gives, ready for use.
class SegmentDecoder {
public:
    static Result<SegmentDecoder> create(std::span<const std::byte> parameters, std::uint32_t groups);

    // Whether the elements of these pieces are in the stream at all.
    bool present(std::span<const Layout::Run> pieces) const;
    Result<void> decode(const Segment& segment, std::span<const Layout::Run> pieces, const Sink& sink) const;

private:
    std::vector<std::int32_t> table_of_;  // by group; -1: nothing but zeros
    std::vector<DecodeTable> tables_;
};

}  // namespace fedllm::codec::deadzone
