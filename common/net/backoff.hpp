// How long to wait before the next attempt: exponential with full jitter, so that ten thousand clients of a
// restarted server do not come back in the same second (M. Brooker, "Exponential Backoff And Jitter", AWS
// 2015).
#pragma once

#include "common/base/clock.hpp"
#include "common/base/philox.hpp"

namespace fedllm::net {

struct BackoffOptions {
    Duration first = std::chrono::milliseconds(500);
    Duration longest = std::chrono::seconds(30);
};

class Backoff {
public:
    explicit Backoff(BackoffOptions options = {}) : options_(options), ceiling_(options.first) {}

    // Uniform in [first/2, ceiling]; the ceiling doubles up to `longest`.
    Duration next(Rng& rng);
    void reset() { ceiling_ = options_.first; }  // after a connection that worked

private:
    BackoffOptions options_;
    Duration ceiling_;
};

}  // namespace fedllm::net
