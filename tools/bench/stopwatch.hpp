// How long a piece of work took: by the wall, and in this process's processor time.
#pragma once

#include <sys/resource.h>

#include "common/base/clock.hpp"

namespace fedllm::tools::bench {

struct Cost {
    double seconds = 0;
    double core_seconds = 0;
};

class Stopwatch {
public:
    Cost cost() const { return {monotonic_seconds() - began_, core_seconds() - core_began_}; }
    double seconds() const { return cost().seconds; }

private:
    static double core_seconds() {
        rusage usage{};
        ::getrusage(RUSAGE_SELF, &usage);
        const auto of = [](const timeval& time) {
            return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
        };
        return of(usage.ru_utime) + of(usage.ru_stime);
    }

    double began_ = monotonic_seconds();
    double core_began_ = core_seconds();
};

}  // namespace fedllm::tools::bench
