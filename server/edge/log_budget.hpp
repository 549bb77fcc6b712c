// How many lines strangers may make us log: a few at once, then a count.
#pragma once

#include <cstddef>

namespace fedllm::server::edge {

// Time in seconds of a monotonic clock. Concurrency: one thread.
class LogBudget {
public:
    LogBudget(std::size_t lines, double window) : lines_(lines), window_(window) {}

    // Whether one more line may be written now.
    bool take(double now) {
        if (now - began_ >= window_) {
            began_ = now;
            used_ = 0;
        }
        if (used_ < lines_) return ++used_, true;
        ++missed_;
        return false;
    }

    // The lines not written since the last call.
    std::size_t take_missed() {
        const std::size_t missed = missed_;
        missed_ = 0;
        return missed;
    }

private:
    std::size_t lines_;
    double window_;
    double began_ = -1e300;
    std::size_t used_ = 0;
    std::size_t missed_ = 0;
};

}  // namespace fedllm::server::edge
