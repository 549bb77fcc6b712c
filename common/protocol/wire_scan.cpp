#include "common/protocol/wire_scan.hpp"

#include <google/protobuf/descriptor.h>

#include <cstdint>
#include <string>

#include "common/base/text.hpp"

namespace fedllm::protocol {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

class Scan {
public:
    Scan(std::size_t elements_max, int nesting_max)
        : elements_left_(elements_max), nesting_max_(nesting_max) {}

    Result<void> message(std::span<const std::byte> bytes, const Descriptor& type, int depth) {
        if (depth > nesting_max_) return make_error(Errc::TooLarge, type.name() + ": nested too deeply");
        while (!bytes.empty()) {
            if (elements_left_-- == 0) return make_error(Errc::TooLarge, type.name() + ": too many fields");
            FEDLLM_TRY_VOID(field(bytes, type, depth));
        }
        return {};
    }

private:
    static Error malformed(const Descriptor& type, std::string_view what) {
        return make_error(Errc::Malformed, type.name() + ": " + std::string(what));
    }

    static Result<std::uint64_t> varint(std::span<const std::byte>& bytes, const Descriptor& type) {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            if (bytes.empty()) return malformed(type, "ends inside a number");
            const auto byte = std::to_integer<std::uint64_t>(bytes.front());
            bytes = bytes.subspan(1);
            value |= (byte & 0x7f) << shift;
            if (byte < 0x80) return value;
        }
        return malformed(type, "a number of more than 64 bits");
    }

    Result<void> skip(std::span<const std::byte>& bytes, std::uint64_t count, const Descriptor& type) {
        if (count > bytes.size()) return malformed(type, "ends inside a field");
        bytes = bytes.subspan(static_cast<std::size_t>(count));
        return {};
    }

    Result<void> field(std::span<const std::byte>& bytes, const Descriptor& type, int depth) {
        FEDLLM_TRY(const std::uint64_t tag, varint(bytes, type));
        const std::uint64_t number = tag >> 3;
        if (number == 0 || number > static_cast<std::uint64_t>(FieldDescriptor::kMaxNumber)) {
            return malformed(type, "field number " + std::to_string(number));
        }
        switch (tag & 7) {
            case 0: return discard(varint(bytes, type));
            case 1: return skip(bytes, 8, type);
            case 5: return skip(bytes, 4, type);
            case 2: break;
            default: return malformed(type, "wire type " + std::to_string(tag & 7));
        }
        FEDLLM_TRY(const std::uint64_t length, varint(bytes, type));
        const auto content = bytes;
        FEDLLM_TRY_VOID(skip(bytes, length, type));
        const FieldDescriptor* known = type.FindFieldByNumber(static_cast<int>(number));
        if (known == nullptr) return {};
        const auto value = content.first(static_cast<std::size_t>(length));
        if (known->message_type() != nullptr) return message(value, *known->message_type(), depth + 1);
        // Protobuf would refuse it too, but with a line on standard error that a peer could repeat for ever.
        const std::string_view text(reinterpret_cast<const char*>(value.data()), value.size());
        if (known->type() == FieldDescriptor::TYPE_STRING && !is_utf8(text)) {
            return malformed(type, known->name() + " is not UTF-8");
        }
        return {};
    }

    static Result<void> discard(Result<std::uint64_t> value) {
        if (!value) return value.error();
        return {};
    }

    std::size_t elements_left_;
    int nesting_max_;
};

}  // namespace

Result<void> scan_wire(std::span<const std::byte> bytes, const Descriptor& type, std::size_t elements_max,
                       int nesting_max) {
    return Scan(elements_max, nesting_max).message(bytes, type, 1);
}

}  // namespace fedllm::protocol
