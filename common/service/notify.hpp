// Telling the service manager how we are (sd_notify(3)): one datagram to the socket named in $NOTIFY_SOCKET.
// The protocol is a few lines, so libsystemd is not needed; without the variable nothing happens.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.hpp"

namespace fedllm::service {

// `state` as in "READY=1", "STOPPING=1", "STATUS=training step 3 of 40"; several are separated by newlines.
// Success when there is no service manager. Never blocks: a full socket is an error.
Result<void> notify(std::string_view state);

}  // namespace fedllm::service
