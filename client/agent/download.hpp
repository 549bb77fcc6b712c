// How a task's version comes to be here: it is held, or steps lead to it from one that is, or it is fetched
// whole. A step is an encoded difference (common/codec, by the job's download.codec); adding it to its base,
// element by element in f32, gives exactly the next version.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "client/agent/machine.hpp"
#include "client/agent/version_store.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::agent {

// What is to be on disk before the work can begin.
struct DownloadPlan {
    struct Piece {
        std::string digest;
        std::uint64_t bytes = 0;
        bool operator==(const Piece&) const = default;
    };
    std::string base;           // the held version that the steps start from; empty: no steps
    std::vector<Piece> pieces;  // in order: steps, or the version; empty: nothing is missing
    bool operator==(const DownloadPlan&) const = default;
};

// `held` says which versions are there whole and verified. The fewest steps, and only while they are less
// than the version itself: a server cannot make a client take more than it announced.
DownloadPlan plan_download(const Task& task, const std::function<bool(const std::string&)>& held);
DownloadPlan plan_download(const Task& task, const VersionStore& versions);
DownloadPlan plan_whole(const Task& task);

// What VersionStore::prune must leave alone.
std::set<std::string> needed_by(const DownloadPlan& plan, const Task& task);

// The digest that the job's first version has, where the task tells: what the seed gives may be it. Else "".
std::string initial_digest(const Task& task);

// The version's file, verified, made from the steps where they were fetched. DigestMismatch: what was
// received, or the base, is not what it should be; the version is to be fetched whole. For the worker's
// thread: it hashes, and holds one set of parameters.
Result<Path> obtain_version(const Task& task, const VersionStore& versions);

}  // namespace fedllm::client::agent
