// A job whose model and updates are plain f32 of a given size: nothing is trained, so nothing needs a model.
#pragma once

#include <cstdint>
#include <string>

#include "tools/bench/server_process.hpp"
#include "tools/bench/site.hpp"

namespace fedllm::tools::bench {

struct PlainJob {
    std::uint64_t bytes = 0;  // of the model, and of each update
    std::uint32_t clients = 1;
    std::uint32_t rounds = 1;
    std::uint32_t sum_bits = 64;  // 32: with updates and a clip norm so small that they suffice

    Result<JobId> submit(const ServerProcess& server) const;
    Result<ReadyUpdate> make_update(const Path& file) const;  // within the job's clip norm
    std::uint64_t disk_bytes() const;                         // the most that the server writes for it
};

}  // namespace fedllm::tools::bench
