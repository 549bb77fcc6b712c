#include "common/protocol/messages.hpp"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <string>

#include "common/base/text.hpp"
#include "common/protocol/validate.hpp"
#include "common/protocol/wire_scan.hpp"

namespace fedllm::protocol {
namespace {

template <class Message>
std::vector<std::byte> encode_message(const Message& message) {
    std::vector<std::byte> bytes(message.ByteSizeLong());
    FEDLLM_CHECK(message.SerializeToArray(bytes.data(), static_cast<int>(bytes.size())),
                 "a message serializes");
    return bytes;
}

template <class Message>
Result<Message> parse_message(std::span<const std::byte> bytes, std::size_t elements_max) {
    if (bytes.size() > FrameLimits{}.control_bytes_max) {
        return make_error(Errc::TooLarge, "control message of " + std::to_string(bytes.size()) + " bytes");
    }
    FEDLLM_TRY_VOID(scan_wire(bytes, *Message::descriptor(), elements_max, kMessageNestingMax));
    google::protobuf::io::CodedInputStream stream(reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                                  static_cast<int>(bytes.size()));
    stream.SetRecursionLimit(kMessageNestingMax);
    stream.SetTotalBytesLimit(static_cast<int>(bytes.size()));
    Message message;
    if (!message.ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage()) {
        return make_error(Errc::Malformed, Message::descriptor()->name() + ": Protobuf cannot read it");
    }
    message.DiscardUnknownFields();
    FEDLLM_TRY_VOID(validate(message));
    return message;
}

}  // namespace

std::string_view name(MessageKind kind) {
    switch (kind) {
        case MessageKind::Hello: return "Hello";
        case MessageKind::Fetch: return "Fetch";
        case MessageKind::Progress: return "Progress";
        case MessageKind::Offer: return "Offer";
        case MessageKind::Evaluation: return "Evaluation";
        case MessageKind::Decline: return "Decline";
        case MessageKind::SubmitJob: return "SubmitJob";
        case MessageKind::ListJobs: return "ListJobs";
        case MessageKind::ShowJob: return "ShowJob";
        case MessageKind::ControlJob: return "ControlJob";
        case MessageKind::Why: return "Why";
        case MessageKind::AuditJob: return "AuditJob";
        case MessageKind::Welcome: return "Welcome";
        case MessageKind::Task: return "Task";
        case MessageKind::Proceed: return "Proceed";
        case MessageKind::Verdict: return "Verdict";
        case MessageKind::Release: return "Release";
        case MessageKind::JobAccepted: return "JobAccepted";
        case MessageKind::JobList: return "JobList";
        case MessageKind::JobReport: return "JobReport";
        case MessageKind::Refusal: return "Refusal";
        case MessageKind::Blob: return "Blob";
        case MessageKind::JobControlled: return "JobControlled";
        case MessageKind::Because: return "Because";
        case MessageKind::AuditRows: return "AuditRows";
        case MessageKind::Ping: return "Ping";
        case MessageKind::Goodbye: return "Goodbye";
        case MessageKind::Chunk: return "Chunk";
    }
    return "unknown";
}

std::string sendable(std::string_view text) {
    std::string sent;
    while (!text.empty()) {
        const std::size_t length = utf8_sequence_length(text);
        if (sent.size() + std::max<std::size_t>(length, 1) > kTextBytesMax) break;
        sent += length > 0 ? text.substr(0, length) : "?";
        text.remove_prefix(std::max<std::size_t>(length, 1));
    }
    return sent;
}

MessageKind kind_of(const ClientMessage& message) {
    switch (message.body_case()) {
        case ClientMessage::kHello: return MessageKind::Hello;
        case ClientMessage::kFetch: return MessageKind::Fetch;
        case ClientMessage::kProgress: return MessageKind::Progress;
        case ClientMessage::kOffer: return MessageKind::Offer;
        case ClientMessage::kEvaluation: return MessageKind::Evaluation;
        case ClientMessage::kDecline: return MessageKind::Decline;
        case ClientMessage::kPing: return MessageKind::Ping;
        case ClientMessage::kGoodbye: return MessageKind::Goodbye;
        case ClientMessage::kSubmitJob: return MessageKind::SubmitJob;
        case ClientMessage::kListJobs: return MessageKind::ListJobs;
        case ClientMessage::kShowJob: return MessageKind::ShowJob;
        case ClientMessage::kControlJob: return MessageKind::ControlJob;
        case ClientMessage::kWhy: return MessageKind::Why;
        case ClientMessage::kAuditJob: return MessageKind::AuditJob;
        case ClientMessage::BODY_NOT_SET: break;
    }
    FEDLLM_CHECK(false, "ClientMessage without a body");
    return MessageKind::Goodbye;
}

MessageKind kind_of(const ServerMessage& message) {
    switch (message.body_case()) {
        case ServerMessage::kWelcome: return MessageKind::Welcome;
        case ServerMessage::kTask: return MessageKind::Task;
        case ServerMessage::kProceed: return MessageKind::Proceed;
        case ServerMessage::kVerdict: return MessageKind::Verdict;
        case ServerMessage::kRelease: return MessageKind::Release;
        case ServerMessage::kPing: return MessageKind::Ping;
        case ServerMessage::kGoodbye: return MessageKind::Goodbye;
        case ServerMessage::kJobAccepted: return MessageKind::JobAccepted;
        case ServerMessage::kJobList: return MessageKind::JobList;
        case ServerMessage::kJobReport: return MessageKind::JobReport;
        case ServerMessage::kRefusal: return MessageKind::Refusal;
        case ServerMessage::kBlob: return MessageKind::Blob;
        case ServerMessage::kJobControlled: return MessageKind::JobControlled;
        case ServerMessage::kBecause: return MessageKind::Because;
        case ServerMessage::kAuditRows: return MessageKind::AuditRows;
        case ServerMessage::BODY_NOT_SET: break;
    }
    FEDLLM_CHECK(false, "ServerMessage without a body");
    return MessageKind::Goodbye;
}

std::string_view task_of(const ClientMessage& message) {
    switch (message.body_case()) {
        case ClientMessage::kFetch: return message.fetch().task_id();
        case ClientMessage::kProgress: return message.progress().task_id();
        case ClientMessage::kOffer: return message.offer().task_id();
        case ClientMessage::kEvaluation: return message.evaluation().task_id();
        case ClientMessage::kDecline: return message.decline().task_id();
        default: return {};
    }
}

std::string_view task_of(const ServerMessage& message) {
    switch (message.body_case()) {
        case ServerMessage::kTask: return message.task().task_id();
        case ServerMessage::kProceed: return message.proceed().task_id();
        case ServerMessage::kVerdict: return message.verdict().task_id();
        case ServerMessage::kRelease: return message.release().task_id();
        default: return {};
    }
}

std::vector<std::byte> encode(const ClientMessage& message) { return encode_message(message); }
std::vector<std::byte> encode(const ServerMessage& message) { return encode_message(message); }

Result<ClientMessage> parse_client_message(std::span<const std::byte> bytes) {
    return parse_message<ClientMessage>(bytes, kClientElementsMax);
}

Result<ServerMessage> parse_server_message(std::span<const std::byte> bytes) {
    return parse_message<ServerMessage>(bytes, kServerElementsMax);
}

Errc errc_of(std::string_view reason) {
    for (int code = 0; code <= static_cast<int>(Errc::Cancelled); ++code) {
        if (fedllm::name(static_cast<Errc>(code)) == reason) return static_cast<Errc>(code);
    }
    return Errc::Internal;
}

}  // namespace fedllm::protocol
