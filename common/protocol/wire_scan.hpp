// A look at serialized Protobuf before Protobuf itself sees it.
#pragma once

#include <cstddef>
#include <span>

#include "common/base/result.hpp"

namespace google::protobuf {
class Descriptor;
}

namespace fedllm::protocol {

// Walks the wire format of one message of type `type`: fields, and sub-messages that `type` knows. Malformed
// for bytes that are no such message, TooLarge for more than `elements_max` fields in all, or nesting beyond
// `nesting_max`. Reads only; allocates nothing. Groups (obsolete since proto2) are refused.
Result<void> scan_wire(std::span<const std::byte> bytes, const google::protobuf::Descriptor& type,
                       std::size_t elements_max, int nesting_max);

}  // namespace fedllm::protocol
