// Any bytes as a message of either direction: an error, or a message that survives being encoded and parsed
// again, and that the session state machine takes or refuses without harm.
#include "common/protocol/messages.hpp"
#include "common/protocol/session.hpp"
#include "tests/fuzz/protocol/targets.hpp"

namespace fedllm::fuzz {
namespace {

template <class Message>
void check(const Result<Message>& message, Result<Message> (*parse)(std::span<const std::byte>)) {
    if (!message) return;
    const auto bytes = protocol::encode(*message);
    const auto again = parse(bytes);
    FEDLLM_CHECK(again && protocol::encode(*again) == bytes, "a parsed message parses again");
    for (const auto side : {protocol::Side::Server, protocol::Side::Client}) {
        protocol::Session session(side, protocol::PeerRole::Client);
        const auto taken = session.on_receive(protocol::kind_of(*message), protocol::task_of(*message));
        FEDLLM_CHECK(taken || taken.error().code == Errc::OutOfOrder, "taken or out of order");
    }
}

}  // namespace

int messages(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
    check(protocol::parse_client_message(bytes), &protocol::parse_client_message);
    check(protocol::parse_server_message(bytes), &protocol::parse_server_message);
    return 0;
}

}  // namespace fedllm::fuzz

#ifdef FEDLLM_FUZZ_ENTRY
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return fedllm::fuzz::messages(data, size);
}
#endif
