// A Task message as something this site has agreed to do.
#pragma once

#include "client/agent/client_config.hpp"
#include "client/agent/machine.hpp"
#include "common/protocol/federation.pb.h"

namespace fedllm::client::agent {

// Everything that can be judged before a byte is fetched: the job's YAML, the site's policy, the base model's
// name, the version's size. The error says why this site declines.
Result<Task> read_task(const protocol::Task& message, const ClientConfig& config);

// What the server is told when we decline. Errors about local files stay at home but for their kind: their
// texts may quote paths and data.
struct DeclineText {
    std::string reason;
    std::string detail;
};
DeclineText decline_text(const Error& error);

// The messages for what the machine wants sent.
protocol::ClientMessage to_message(const SendProgress& effect);
protocol::ClientMessage to_message(const SendOffer& effect);
protocol::ClientMessage to_message(const SendEvaluation& effect);
protocol::ClientMessage to_message(const SendDecline& effect);

}  // namespace fedllm::client::agent
