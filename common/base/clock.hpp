// Time enters through Clock&, so that tests and the simulated world can set it.
#pragma once

#include <chrono>

namespace fedllm {

using Duration = std::chrono::milliseconds;
// Milliseconds since the Unix epoch. Rounds outlive processes, so the ledger and the round logic use wall
// time.
using Timestamp = std::chrono::time_point<std::chrono::system_clock, Duration>;

class Clock {
public:
    virtual ~Clock() = default;
    virtual Timestamp now() const = 0;
};

class SystemClock final : public Clock {
public:
    Timestamp now() const override;
};

class ManualClock final : public Clock {
public:
    explicit ManualClock(Timestamp start = Timestamp{}) : now_(start) {}
    Timestamp now() const override { return now_; }
    void advance(Duration step) { now_ += step; }

private:
    Timestamp now_;
};

// Seconds since some fixed point, monotonic: for measuring, never for deciding.
double monotonic_seconds();

}  // namespace fedllm
