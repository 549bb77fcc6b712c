// A model from the Hugging Face hub into the cache that huggingface_hub and transformers read.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "tools/hub/http.hpp"
#include "tools/hub/repository.hpp"

namespace fedllm::tools::hub {

struct PullProgress {
    std::string file;
    std::uint64_t bytes = 0;  // of this file, of
    std::uint64_t size = 0;
    std::uint64_t bytes_all = 0;  // of all files, of
    std::uint64_t size_all = 0;
};

struct PullOptions {
    std::string id;                 // "ORG/NAME"
    std::string revision = "main";  // branch, tag or commit
    std::vector<std::string>
        include;  // globs over paths, '*' crossing '/'; empty: what a model is loaded from
    std::string endpoint = "https://huggingface.co";
    std::string token;                                 // empty: none
    Path root;                                         // of the cache
    std::uint64_t bytes_max = std::uint64_t{2} << 40;  // of all files together
    int attempts = 6;                                  // of one request without a byte of progress
    std::chrono::milliseconds first_wait{500};         // before the second attempt; doubles up to 30 s
    HttpLimits http{};
    std::function<void(const PullProgress&)> progress{};
};

struct Pulled {
    Path snapshot;
    std::string commit;
    std::size_t files = 0;
    std::uint64_t bytes_fetched = 0;
};

// endpoint, token and root as huggingface_hub finds them: HF_ENDPOINT; HF_TOKEN, else the file HF_TOKEN_PATH
// or HF_HOME/token; HF_HOME and the rest (common/hub). PermissionDenied where HF_HUB_OFFLINE is set.
Result<PullOptions> options_from_environment();

// Fetches what the cache lacks; what an earlier call left unfinished is continued. Every content is checked
// against the hash that the hub announced, and appears under its name only then; refs/REVISION moves last.
// Errors name the file: NotFound, PermissionDenied (token, gated model), DigestMismatch, TooLarge, IoFailed
// (disk), and those of HttpClient once all attempts failed.
Result<Pulled> pull(const PullOptions& options);

}  // namespace fedllm::tools::hub
