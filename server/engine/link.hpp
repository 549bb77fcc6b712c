// A connected client as the engine sees it: somewhere to put messages.
#pragma once

#include <string>

#include "common/protocol/messages.hpp"

namespace fedllm::server::engine {

// Concurrency: the control strand. Both calls return at once; the connection sends in the order of the calls.
class Link {
public:
    virtual ~Link() = default;
    virtual void post(protocol::ServerMessage message) = 0;
    virtual void end(const std::string& reason) = 0;  // says Goodbye and closes
};

}  // namespace fedllm::server::engine
