// What this site lets a server ask of it. The job comes from outside; the policy is in the client's own file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/config/value.hpp"
#include "common/job/job_spec.hpp"

namespace fedllm::client::agent {

struct Policy {
    std::vector<std::string> methods = {"lora", "full"};
    std::vector<std::string> target_modules;  // empty: any
    std::uint32_t lora_rank_max = 256;
    std::uint32_t sequence_length_max = 8192;
    std::uint32_t batch_rows_max = 256;
    std::uint32_t local_steps_max = 100'000;
    std::uint32_t rounds_max = 100'000;
    double clip_norm_max = 1000;
    config::ByteCount upload_rate_max{0};    // per second; 0: as fast as it goes
    config::ByteCount download_rate_max{0};  // the same
    bool operator==(const Policy&) const = default;
};

// PolicyRefused names the job's field, its value and the policy's limit.
Result<void> check(const job::JobSpec& job, const Policy& policy);

// For jobs that ask for one pass over the data: how many steps that is shows only when the data is read.
Result<void> check_steps(std::uint64_t steps, const Policy& policy);

// The job's base must be the weights this client holds; an empty fingerprint in the job asks for nothing.
Result<void> check_base(const job::JobSpec& job, const std::string& fingerprint);

}  // namespace fedllm::client::agent
