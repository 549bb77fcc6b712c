// What a parsed message must look like before anybody reads it: see messages.hpp for the rules.
#pragma once

#include "common/base/result.hpp"
#include "common/protocol/federation.pb.h"

namespace fedllm::protocol {

// Malformed or NotFinite, naming the field.
Result<void> validate(const ClientMessage& message);
Result<void> validate(const ServerMessage& message);

}  // namespace fedllm::protocol
