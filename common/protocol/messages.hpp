// Control messages: bytes to checked Protobuf messages and back.
//
// What parse_* returns has: its body set; no enum UNSPECIFIED; digests of 64 lower-case hexadecimal digits;
// names printable and within 1..kNameBytesMax; texts within their limits and valid UTF-8; no NaN or infinity
// in what clients say. Whether the *claims* are true is for the caller. Before Protobuf sees a byte, a walk
// over the wire format counts elements and nesting, because 2 bytes of empty sub-message become 200 of
// memory. Unknown fields are skipped, and not kept: a newer peer may say more.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"
#include "common/protocol/federation.pb.h"
#include "common/protocol/limits.hpp"

namespace fedllm::protocol {

// Everything that can travel, chunks included; see session.hpp for when.
enum class MessageKind {
    Hello,
    Fetch,
    Progress,
    Offer,
    Evaluation,
    Decline,
    SubmitJob,
    ListJobs,
    ShowJob,
    ControlJob,
    Why,
    AuditJob,  // to the server
    Welcome,
    Task,
    Proceed,
    Verdict,
    Release,
    JobAccepted,
    JobList,
    JobReport,
    Refusal,
    Blob,
    JobControlled,
    Because,
    AuditRows,  // from the server
    Ping,
    Goodbye,
    Chunk,  // both
};
inline constexpr int kMessageKinds = static_cast<int>(MessageKind::Chunk) + 1;

std::string_view name(MessageKind kind);  // "Hello", as in federation.proto

// The body must be set.
MessageKind kind_of(const ClientMessage& message);
MessageKind kind_of(const ServerMessage& message);

// The task the message is about, or "".
std::string_view task_of(const ClientMessage& message);
std::string_view task_of(const ServerMessage& message);

// What a field for people takes of a text: kTextBytesMax bytes at most, cut between characters, and a '?' for
// each byte that is no UTF-8. A peer refuses anything else, and would never learn what we have to say.
std::string sendable(std::string_view text);

std::vector<std::byte> encode(const ClientMessage& message);
std::vector<std::byte> encode(const ServerMessage& message);

// Malformed, naming the field, or TooLarge.
Result<ClientMessage> parse_client_message(std::span<const std::byte> bytes);
Result<ServerMessage> parse_server_message(std::span<const std::byte> bytes);

// The error code whose name() this is; Internal for a name this version does not know (a newer peer's).
Errc errc_of(std::string_view reason);

}  // namespace fedllm::protocol
