// Any sequence of messages, from either side and role: each is taken or out of order, nothing passes before
// the greeting or after Goodbye, and a task is open only in between.
#include <array>
#include <string_view>

#include "common/protocol/session.hpp"
#include "tests/fuzz/protocol/targets.hpp"

namespace fedllm::fuzz {

using protocol::MessageKind;

namespace {

bool may_come_first(MessageKind kind) {
    return kind == MessageKind::Hello || kind == MessageKind::Welcome || kind == MessageKind::Goodbye;
}

}  // namespace

// The first byte: who we are. Then two bytes a message: which and which way, about which task.
int session(const std::uint8_t* data, std::size_t size) {
    constexpr std::array<std::string_view, 4> kTasks{"", "j1/0/a", "j1/1/a", "j1/0/b"};
    if (size == 0) return 0;
    protocol::Session session(data[0] % 2 == 0 ? protocol::Side::Server : protocol::Side::Client,
                              data[0] % 4 < 2 ? protocol::PeerRole::Client : protocol::PeerRole::Operator);
    for (std::size_t at = 1; at + 1 < size; at += 2) {
        const auto kind = static_cast<MessageKind>(data[at] % protocol::kMessageKinds);
        const std::string_view task = kTasks[data[at + 1] % kTasks.size()];
        const bool greeted = session.greeted(), over = session.over();
        bool taken = false;
        if (data[at] >= 128) {
            const auto sent = session.on_send(kind, task);
            taken = static_cast<bool>(sent);
            FEDLLM_CHECK(sent || sent.error().code == Errc::OutOfOrder, "sent or out of order");
        } else {
            const auto received = session.on_receive(kind, task);
            taken = static_cast<bool>(received);
            FEDLLM_CHECK(received || received.error().code == Errc::OutOfOrder, "taken or out of order");
        }
        FEDLLM_CHECK(!taken || greeted || may_come_first(kind), "the greeting comes first");
        FEDLLM_CHECK(!taken || !over, "nothing comes after Goodbye");
        FEDLLM_CHECK(session.task().empty() || session.greeted(), "a task is open after the greeting only");
        FEDLLM_CHECK(!session.describe().empty(), "there is a description");
    }
    return 0;
}

}  // namespace fedllm::fuzz

#ifdef FEDLLM_FUZZ_ENTRY
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return fedllm::fuzz::session(data, size);
}
#endif
