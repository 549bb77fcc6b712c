// One look at every value of an update: is it a number within the bound, and what do their squares sum to.
#pragma once

#include <span>

namespace fedllm::server::ingest {

struct Scan {
    bool within = true;     // every |value| <= bound; false for NaN
    double square_sum = 0;  // in double; its last bits depend on the processor's vector width
};

Scan scan(std::span<const float> values, double bound);

}  // namespace fedllm::server::ingest
