#include "common/protocol/messages.hpp"

#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/common/protocol/bytes.hpp"

namespace fedllm::protocol {
namespace {

const std::string kDigest(64, 'a');

ClientMessage good_offer() {
    ClientMessage message;
    Offer& offer = *message.mutable_offer();
    offer.set_task_id("j1/0/site-a");
    offer.set_digest(kDigest);
    offer.set_bytes(1000);
    offer.set_samples(12);
    offer.set_train_loss(2.5);
    offer.mutable_evaluation()->set_loss_sum(3.5);
    return message;
}

ServerMessage good_task() {
    ServerMessage message;
    Task& task = *message.mutable_task();
    task.set_task_id("j1/0/site-a");
    task.set_kind(TASK_KIND_TRAIN);
    task.set_job_id("j1");
    task.set_job("name: demo");
    task.set_model_digest(kDigest);
    task.set_model_bytes(1000);
    return message;
}

Error refusal_of(const ClientMessage& message) {
    const auto result = parse_client_message(encode(message));
    return result ? Error{Errc::Internal, "was accepted"} : result.error();
}

Error refusal_of(const ServerMessage& message) {
    const auto result = parse_server_message(encode(message));
    return result ? Error{Errc::Internal, "was accepted"} : result.error();
}

template <class Message>
void expect_refused(const Message& message, Errc code, std::string_view field) {
    const Error error = refusal_of(message);
    EXPECT_EQ(error.code, code) << to_string(error);
    EXPECT_NE(error.message.find(field), std::string::npos) << field << " / " << error.message;
}

TEST(Messages, RoundTrip) {
    const auto offer = parse_client_message(encode(good_offer()));
    ASSERT_TRUE(offer) << to_string(offer.error());
    EXPECT_EQ(offer->offer().samples(), 12u);
    EXPECT_EQ(kind_of(*offer), MessageKind::Offer);
    EXPECT_EQ(task_of(*offer), "j1/0/site-a");
    const auto task = parse_server_message(encode(good_task()));
    ASSERT_TRUE(task) << to_string(task.error());
    EXPECT_EQ(kind_of(*task), MessageKind::Task);
    EXPECT_EQ(task_of(*task), "j1/0/site-a");
}

TEST(Messages, GoldenBytes) {
    ClientMessage ping;
    ping.mutable_ping();
    EXPECT_EQ(encode(ping), from_hex_text("3a 00"));
    ClientMessage fetch;
    fetch.mutable_fetch()->set_digest("ab");
    fetch.mutable_fetch()->set_offset(300);
    fetch.mutable_fetch()->set_task_id(std::string("t"));
    EXPECT_EQ(encode(fetch), from_hex_text("12 0a  0a 02 61 62  10 ac 02  1a 01 74"));
}

// Each wrong field is refused and named.
TEST(Messages, OfferFields) {
    const auto broken = [](Errc code, std::string_view field, const std::function<void(Offer&)>& change) {
        ClientMessage message = good_offer();
        change(*message.mutable_offer());
        expect_refused(message, code, field);
    };
    broken(Errc::Malformed, "Offer.task_id", [](Offer& o) { o.clear_task_id(); });
    broken(Errc::Malformed, "Offer.task_id", [](Offer& o) { o.set_task_id(std::string(129, 'x')); });
    broken(Errc::Malformed, "Offer.task_id", [](Offer& o) { o.set_task_id(std::string("a\nb")); });
    broken(Errc::Malformed, "Offer.digest", [](Offer& o) { o.set_digest(std::string(63, 'a')); });
    broken(Errc::Malformed, "Offer.digest", [](Offer& o) { o.set_digest(std::string(64, 'A')); });
    broken(Errc::Malformed, "Offer.digest", [](Offer& o) { o.set_digest(std::string(64, 'g')); });
    broken(Errc::Malformed, "Offer.bytes", [](Offer& o) { o.clear_bytes(); });
    broken(Errc::NotFinite, "Offer.train_loss", [](Offer& o) { o.set_train_loss(std::nan("")); });
    broken(Errc::NotFinite, "Offer.update_norm", [](Offer& o) { o.set_update_norm(INFINITY); });
    broken(Errc::Malformed, "Offer.train_seconds", [](Offer& o) { o.set_train_seconds(-1); });
    broken(Errc::NotFinite, "Offer.evaluation.loss_sum",
           [](Offer& o) { o.mutable_evaluation()->set_loss_sum(NAN); });
    broken(Errc::Malformed, "Offer.evaluation.task_id",
           [](Offer& o) { o.mutable_evaluation()->set_task_id(std::string("j2")); });
}

TEST(Messages, OtherClientFields) {
    ClientMessage message;
    expect_refused(message, Errc::Malformed, "body");
    message.mutable_hello();
    expect_refused(message, Errc::Malformed, "Hello.protocol_version");
    message.mutable_hello()->set_protocol_version(1);
    EXPECT_TRUE(parse_client_message(encode(message)));
    for (std::size_t i = 0; i <= kBaseModelsMax; ++i)
        message.mutable_hello()->add_base_models(std::string("m"));
    expect_refused(message, Errc::Malformed, "Hello.base_models");
    message.mutable_progress()->set_task_id(std::string("t"));
    EXPECT_TRUE(parse_client_message(encode(message)));
    message.mutable_progress()->set_loss(-INFINITY);
    expect_refused(message, Errc::NotFinite, "Progress.loss");
    message.mutable_decline()->set_task_id(std::string("t"));
    expect_refused(message, Errc::Malformed, "Decline.reason");
    message.mutable_submit_job()->set_job(std::string(kJobBytesMax + 1, 'x'));
    expect_refused(message, Errc::Malformed, "SubmitJob.job");
    message.mutable_show_job();
    expect_refused(message, Errc::Malformed, "ShowJob.job_id");
    message.mutable_show_job()->set_job_id("j1");
    message.mutable_show_job()->set_after_client(std::string(kNameBytesMax + 1, 'x'));
    expect_refused(message, Errc::Malformed, "ShowJob.after_client");
    message.mutable_control_job()->set_job_id("j1");
    expect_refused(message, Errc::Malformed, "ControlJob.action");
    message.mutable_control_job()->set_action(static_cast<JobAction>(99));
    expect_refused(message, Errc::Malformed, "ControlJob.action");
    message.mutable_control_job()->set_action(JOB_ACTION_STOP);
    message.mutable_control_job()->set_cause(std::string(kCauseBytesMax + 1, 'x'));
    expect_refused(message, Errc::Malformed, "ControlJob.cause");
    message.mutable_why();
    expect_refused(message, Errc::Malformed, "Why.subject");
    message.mutable_audit_job();
    expect_refused(message, Errc::Malformed, "AuditJob.job_id");
}

TEST(Messages, ServerFields) {
    const auto broken = [](std::string_view field, const std::function<void(Task&)>& change) {
        ServerMessage message = good_task();
        change(*message.mutable_task());
        expect_refused(message, Errc::Malformed, field);
    };
    broken("Task.kind", [](Task& t) { t.clear_kind(); });
    broken("Task.kind", [](Task& t) { t.set_kind(static_cast<TaskKind>(7)); });
    broken("Task.model_digest", [](Task& t) { t.set_model_digest(std::string("../../etc/passwd")); });
    broken("Task.job", [](Task& t) { t.clear_job(); });
    const std::string other(64, 'b');
    const auto step = [&other](Task& t, const std::string& to) {
        VersionStep& one = *t.add_steps();
        one.set_base_digest(other);
        one.set_digest(to);
        one.set_encoded_digest(other);
        one.set_encoded_bytes(10);
        return &one;
    };
    broken("VersionStep.encoded_digest",
           [&](Task& t) { step(t, t.model_digest())->set_encoded_digest(std::string("x")); });
    broken("Task.steps", [&](Task& t) { step(t, other); });
    broken("Task.steps", [&](Task& t) { step(t, t.model_digest()), step(t, t.model_digest()); });
    broken("Task.steps", [&](Task& t) {
        for (std::size_t i = 0; i < kVersionStepsMax; ++i) step(t, other);
        step(t, t.model_digest());
    });

    ServerMessage message;
    message.mutable_verdict()->set_task_id(std::string("t"));
    expect_refused(message, Errc::Malformed, "Verdict.outcome");
    message.mutable_verdict()->set_outcome(OUTCOME_REFUSED);
    expect_refused(message, Errc::Malformed, "Verdict.reason");
    message.mutable_verdict()->set_reason(std::string(name(Errc::Stale)));
    EXPECT_TRUE(parse_server_message(encode(message)));
}

TEST(Messages, ReportsMayHoldNaN) {
    ServerMessage message;
    message.mutable_job_report()->mutable_summary()->set_job_id("j1");
    message.mutable_job_report()->set_final_eval_loss(NAN);
    message.mutable_job_report()->add_rounds()->set_eval_loss(NAN);
    EXPECT_TRUE(parse_server_message(encode(message)));
}

TEST(Messages, TruncatedAtEachByteNeverCrashes) {
    const auto whole = encode(good_offer());
    for (std::size_t size = 0; size < whole.size(); ++size) {
        const auto result = parse_client_message(std::span(whole).first(size));
        ASSERT_FALSE(result) << size;
        EXPECT_EQ(result.error().code, Errc::Malformed) << size;
        if (size == 0) continue;  // the empty message: no body
        EXPECT_NE(result.error().message.find("ends inside"), std::string::npos)
            << size << result.error().message;
    }
}

// 2 bytes on the wire, 200 in memory: refused before Protobuf allocates.
TEST(Messages, AmplificationIsRefused) {
    std::vector<std::byte> bytes;
    for (std::size_t i = 0; i <= kClientElementsMax; ++i)
        bytes.insert(bytes.end(), {std::byte{0x3a}, std::byte{0}});
    const auto result = parse_client_message(bytes);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::TooLarge);

    ClientMessage message;
    message.mutable_hello()->set_protocol_version(1);
    for (std::size_t i = 0; i < kClientElementsMax; ++i) message.mutable_hello()->add_base_models("");
    expect_refused(message, Errc::TooLarge, "Hello");
    EXPECT_EQ(parse_client_message(std::vector<std::byte>((1 << 20) + 1)).error().code, Errc::TooLarge);
}

TEST(Messages, UnknownFieldsAreSkippedAndForgotten) {
    auto bytes = encode(good_offer());
    const auto extra = from_hex_text("f8 07 01  fa 07 03 61 62 63");  // field 127 as number, as text
    bytes.insert(bytes.end(), extra.begin(), extra.end());
    const auto result = parse_client_message(bytes);
    ASSERT_TRUE(result) << to_string(result.error());
    EXPECT_EQ(encode(*result), encode(good_offer()));
}

TEST(Messages, WireNonsense) {
    for (const std::string_view hex :
         {"08", "ff ff ff ff ff ff ff ff ff ff 01", "0b", "0c", "00 00", "0a 05 08",
          "0a 80 80 80 80 80 80 80 80 80 80 01", "0e", "11 00 00", "15 00"}) {
        const auto result = parse_client_message(from_hex_text(hex));
        ASSERT_FALSE(result) << hex;
        EXPECT_EQ(result.error().code, Errc::Malformed) << hex;
    }
    const auto not_utf8 = parse_client_message(from_hex_text("42 04 0a 02 ff fe"));  // Goodbye.reason
    ASSERT_FALSE(not_utf8);
    EXPECT_EQ(not_utf8.error().code, Errc::Malformed);
    EXPECT_EQ(not_utf8.error().message, "Goodbye: reason is not UTF-8")
        << "found before Protobuf prints about it";
}

// Every repeated field that the protocol has or will have, wherever it is nested: more of it than the scan
// lets pass.
std::vector<std::byte> delimited(int field, std::span<const std::byte> content) {
    std::vector<std::byte> bytes;
    const auto varint = [&bytes](std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<std::byte>(value | 0x80));
        bytes.push_back(static_cast<std::byte>(value));
    };
    varint(static_cast<std::uint64_t>(field) << 3 | 2);
    varint(content.size());
    bytes.insert(bytes.end(), content.begin(), content.end());
    return bytes;
}

using Refuses = std::function<Error(std::span<const std::byte>)>;

int bomb_each_repeated_field(const google::protobuf::Descriptor& type, std::size_t elements_max, int depth,
                             const Refuses& parse) {
    int found = 0;
    for (int i = 0; i < type.field_count() && depth < 6; ++i) {
        const auto& field = *type.field(i);
        EXPECT_FALSE(field.is_packable())
            << field.full_name() << ": packed numbers are not counted by the scan";
        if (field.is_repeated()) {
            std::vector<std::byte> bomb;
            for (std::size_t n = 0; n <= elements_max; ++n) {
                const auto element = delimited(field.number(), {});
                bomb.insert(bomb.end(), element.begin(), element.end());
            }
            const Error error = parse(bomb);
            EXPECT_EQ(error.code, Errc::TooLarge) << field.full_name() << ": " << error.message;
            ++found;
        }
        if (field.message_type() == nullptr) continue;
        const Refuses inside = [&](std::span<const std::byte> bytes) {
            return parse(delimited(field.number(), bytes));
        };
        found += bomb_each_repeated_field(*field.message_type(), elements_max, depth + 1, inside);
    }
    return found;
}

template <class Message>
Refuses refuses(Result<Message> (*parse)(std::span<const std::byte>)) {
    return [parse](std::span<const std::byte> bytes) {
        const auto message = parse(bytes);
        return message ? make_error(Errc::Internal, "it was taken") : message.error();
    };
}

TEST(Messages, NoRepeatedFieldEscapesTheCount) {
    EXPECT_GE(bomb_each_repeated_field(*ClientMessage::descriptor(), kClientElementsMax, 0,
                                       refuses(&parse_client_message)),
              2);
    EXPECT_GE(bomb_each_repeated_field(*ServerMessage::descriptor(), kServerElementsMax, 0,
                                       refuses(&parse_server_message)),
              4);
}

TEST(Messages, AnyTextCanBeSent) {
    EXPECT_EQ(sendable("Gr\u00fc\u00dfe"), "Gr\u00fc\u00dfe");
    EXPECT_EQ(sendable("a\xff\xc3"), "a??");
    std::string longest(kTextBytesMax - 1, 'a');
    EXPECT_EQ(sendable(longest + "\u00fc"), longest) << "half a character is none";
    EXPECT_EQ(sendable(longest + "bc"), longest + "b");
    ServerMessage message;
    message.mutable_refusal()->set_reason("internal");
    message.mutable_refusal()->set_detail(sendable(longest + "\u00fc and \xff"));
    EXPECT_TRUE(parse_server_message(encode(message)));
}

TEST(Messages, ReasonsAreErrorNames) {
    EXPECT_EQ(errc_of("not_finite"), Errc::NotFinite);
    EXPECT_EQ(errc_of("cancelled"), Errc::Cancelled);
    EXPECT_EQ(errc_of("from the future"), Errc::Internal);
}

}  // namespace
}  // namespace fedllm::protocol
