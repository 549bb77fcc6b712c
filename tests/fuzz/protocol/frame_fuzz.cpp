// Any bytes: the decoder ends with frames that encode back to the same bytes, or with an error.
#include <cstring>
#include <vector>

#include "common/protocol/frame.hpp"
#include "tests/fuzz/protocol/targets.hpp"

namespace fedllm::fuzz {

int frame(const std::uint8_t* data, std::size_t size) {
    std::span<const std::byte> input(reinterpret_cast<const std::byte*>(data), size);
    while (true) {
        const auto before = input;
        const auto taken = protocol::take_frame(input, {});
        if (!taken || !*taken) return 0;
        const protocol::Frame& frame = **taken;
        const auto again = frame.kind == protocol::FrameKind::Control
                               ? protocol::encode_control(frame.bytes)
                               : protocol::encode_chunk(frame.offset, frame.bytes);
        const std::size_t used = before.size() - input.size();
        FEDLLM_CHECK(again.size() == used && std::memcmp(again.data(), before.data(), used) == 0,
                     "same bytes");
    }
}

}  // namespace fedllm::fuzz

#ifdef FEDLLM_FUZZ_ENTRY
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return fedllm::fuzz::frame(data, size);
}
#endif
