// A port of 127.0.0.1 for a server that is started next, and started again later.
#pragma once

#include <cstdint>

namespace fedllm::tools::federation {

// Free when it was looked at, different at every call, and outside the range that the system takes for
// outgoing connections: one of those would keep the server from listening, at its start or between two of
// them. Processes that ask at the same time look in different places. Any thread.
std::uint16_t free_port();

}  // namespace fedllm::tools::federation
