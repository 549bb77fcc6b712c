#include "client/update/residual_store.hpp"

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>

#include "client/update/file_name.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"

namespace fedllm::client::update {
namespace {

constexpr const char* kStaged = ".staged";
constexpr const char* kResidual = ".residual";
constexpr std::size_t kJobBytes = 40;  // of a job's id in a name
constexpr std::size_t kJobsMax = 4;    // whose residuals stay on disk: the last ones that were worked on

std::string job_prefix(const ResidualStore::Key& key) {
    const auto text = std::as_bytes(std::span(key.job_text.data(), key.job_text.size()));
    return plain_file_name(key.job.get(), kJobBytes) + "-" +
           crypto::to_hex(crypto::sha256(text)).substr(0, 16) + "-";
}

// "j1-0123456789abcdef-7" -> 7
std::optional<std::uint32_t> round_in(const std::string& stem) {
    const std::string digits = stem.substr(stem.rfind('-') + 1);
    std::uint32_t round = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), round);
    if (error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
    return round;
}

// What cannot be removed is found stale or damaged later.
void remove_file(const Path& path) { static_cast<void>(disk().remove(path)); }

std::filesystem::file_time_type changed(const Path& path) {
    const auto found = disk().find(path);
    return found && *found ? (*found)->changed : std::filesystem::file_time_type();
}

}  // namespace

Result<ResidualStore> ResidualStore::open(const Path& folder) {
    FEDLLM_TRY_VOID(make_directories(folder));
    return ResidualStore(folder);
}

std::vector<Path> ResidualStore::files(const std::string& prefix, const char* extension) const {
    std::vector<Path> found;
    const auto names = disk().list(folder_);
    if (!names) return found;
    for (const std::string& name : *names) {
        if (name.starts_with(prefix) && Path(name).extension() == extension) found.push_back(folder_ / name);
    }
    return found;
}

std::optional<tensor::ParamSet> ResidualStore::load(const Key& key, const tensor::Manifest& manifest) const {
    // One that is still staged for another round could not be forgotten.
    for (const Path& staged : files("", kStaged)) {
        const std::string stem = staged.stem().string();
        const bool of_job = stem.find("." + job_prefix(key)) != std::string::npos;
        if (of_job && round_in(stem) != key.round.get()) return std::nullopt;
    }
    // The newest: an older one is in it already, and is here only because its removal failed or was lost.
    std::map<std::uint32_t, Path, std::greater<>> usable;
    for (const Path& path : files(job_prefix(key), kResidual)) {
        const auto round = round_in(path.stem().string());
        const bool fresh = round && *round < key.round.get() && key.round.get() - *round <= kRoundsMax;
        if (fresh) {
            usable[*round] = path;
        } else {
            remove_file(path);
        }
    }
    std::optional<tensor::ParamSet> newest;
    if (!usable.empty()) {
        auto residual = formats::read_param_set(usable.begin()->second);
        if (residual && residual->manifest() == manifest) newest = std::move(*residual);
    }
    for (const auto& [round, path] : usable) {
        if (!newest || round != usable.begin()->first) remove_file(path);
    }
    return newest;
}

Result<void> ResidualStore::stage(const TaskId& task, const Key& key,
                                  const tensor::ParamSet& residual) const {
    drop(task);
    const std::string name =
        plain_file_name(task.get()) + "." + job_prefix(key) + std::to_string(key.round.get());
    return formats::write_param_set(folder_ / (name + kStaged), residual);
}

void ResidualStore::keep(const TaskId& task) const {
    const std::string owner = plain_file_name(task.get()) + ".";
    for (const Path& staged : files(owner, kStaged)) {
        const std::string name = staged.stem().string().substr(owner.size());
        const Path kept = folder_ / (name + kResidual);
        if (auto done = commit_file(staged, kept); !done) {
            forget(task);
            return;
        }
        for (const Path& older : files(name.substr(0, name.rfind('-') + 1), kResidual)) {
            if (older != kept) remove_file(older);
        }
    }
    std::vector<Path> all = files("", kResidual);
    std::vector<std::pair<std::filesystem::file_time_type, Path>> by_age;
    for (Path& path : all) by_age.emplace_back(changed(path), std::move(path));
    std::sort(by_age.rbegin(), by_age.rend());
    for (std::size_t i = kJobsMax; i < by_age.size(); ++i) remove_file(by_age[i].second);
}

void ResidualStore::drop(const TaskId& task) const {
    for (const Path& staged : files(plain_file_name(task.get()) + ".", kStaged)) remove_file(staged);
}

void ResidualStore::forget(const TaskId& task) const {
    const std::string owner = plain_file_name(task.get()) + ".";
    for (const Path& staged : files(owner, kStaged)) {
        const std::string name = staged.stem().string().substr(owner.size());
        bool gone = true;
        for (const Path& path : files(name.substr(0, name.rfind('-') + 1), kResidual)) {
            gone &= disk().remove(path).has_value();
        }
        // While what is staged is there, the rest is known to be forgotten: it goes last, on the disk too.
        if (gone && disk().sync_directory(folder_)) remove_file(staged);
    }
}

void ResidualStore::settle_others(const TaskId& task, const JobId& job, const TaskId& counted) const {
    const std::string of_job = plain_file_name(job.get(), kJobBytes) + "-";
    for (const Path& staged : files("", kStaged)) {
        const std::string name = staged.filename().string();
        const TaskId owner(name.substr(0, name.find('.')));
        if (owner.get() == plain_file_name(task.get())) continue;
        if (owner.get() == plain_file_name(counted.get())) {
            keep(owner);
        } else if (name.substr(owner.get().size() + 1).starts_with(of_job)) {
            drop(owner);
        } else {
            forget(owner);
        }
    }
}

}  // namespace fedllm::client::update
