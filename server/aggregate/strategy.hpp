// From the mean update to the next global version. Plain functions on spans: further methods become further
// functions here, chosen by the job.
#pragma once

#include <span>

namespace fedllm::server::aggregate {

// FedAvg (McMahan et al. 2017, algorithm 1) in its update form: global + learning_rate * mean_update,
// computed in double and rounded once; `global` is changed in place.
void fed_avg(std::span<float> global, std::span<const float> mean_update, double learning_rate);

}  // namespace fedllm::server::aggregate
