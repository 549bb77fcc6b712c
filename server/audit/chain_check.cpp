#include <algorithm>

#include "server/audit/audit.hpp"
#include "server/store/chain.hpp"

namespace fedllm::server::audit {
namespace {

std::string number(RoundId round) { return std::to_string(round.get()); }

// The rounds' numbers and versions must be one line: each starts from what the one before made.
std::string broken_line(const History& history, std::size_t index) {
    const store::RoundRow& round = history.rounds[index];
    if (round.round.get() != index) {
        return "the ledger has no round " + std::to_string(index) + " before round " + number(round.round);
    }
    if (index > 0 && round.model_digest != history.rounds[index - 1].next_digest) {
        return "it starts from another version than round " + std::to_string(index - 1) + " made";
    }
    if (history.versions.empty()) return "";
    if (index + 1 >= history.versions.size() || history.versions[index + 1].digest != round.next_digest) {
        return "the ledger's list of versions does not have the one that it made";
    }
    return "";
}

RoundFinding check_round(const History& history, std::size_t index) {
    const store::RoundRow& round = history.rounds[index];
    RoundFinding finding;
    finding.round = round.round;
    finding.contributions = history.counted[index].size();
    finding.chain = round.chain;
    for (const store::PartRow& part : history.counted[index]) finding.weight += part.weight;
    const std::string& before = index == 0 ? history.job.chain : history.rounds[index - 1].chain;
    const std::string computed = store::chain_of_round(before, round, history.counted[index]);
    if (computed != round.chain) {
        finding.problem = "its inputs, weights or result are not those that were sealed (the chain says " +
                          round.chain.substr(0, 12) + ", the ledger's rows give " + computed.substr(0, 12) +
                          ")";
    } else {
        finding.problem = broken_line(history, index);
    }
    finding.link = finding.problem.empty() ? Verdict::Fits : Verdict::Broken;
    return finding;
}

std::string broken_job(const History& history, std::string_view initial) {
    const store::JobRow& job = history.job;
    if (store::chain_of_job(job.id, job.yaml, initial) != job.chain) {
        return "its job file or initial version is not the one that was sealed";
    }
    if (history.rounds.size() != job.round.get()) {
        return "the ledger says that " + number(job.round) + " rounds were committed, and has " +
               std::to_string(history.rounds.size());
    }
    if (!history.rounds.empty() && history.rounds.back().next_digest != job.model_digest) {
        return "its latest version is not the one that the last round made";
    }
    return "";
}

bool occurs(const History& history, std::string_view expected) {
    return history.job.chain == expected ||
           std::ranges::any_of(history.rounds, [&](const auto& round) { return round.chain == expected; });
}

}  // namespace

std::string_view name(Verdict verdict) {
    switch (verdict) {
        case Verdict::Fits: return "fits";
        case Verdict::Broken: return "BROKEN";
        case Verdict::NotKept: return "not kept";
        case Verdict::NotChecked: return "-";
    }
    return "unknown";
}

Result<History> read_history(const store::Ledger& ledger, const JobId& job) {
    FEDLLM_TRY([[maybe_unused]] const store::Transaction moment, ledger.moment());
    History history;
    FEDLLM_TRY(history.job, ledger.job(job));
    FEDLLM_TRY(auto rounds, ledger.rounds(job));
    for (store::RoundRow& round : rounds) {
        if (round.status != store::RoundStatus::Committed || round.next_digest.empty()) continue;
        FEDLLM_TRY(auto counted, ledger.contributions(job, round.round));
        history.counted.push_back(std::move(counted));
        history.rounds.push_back(std::move(round));
    }
    FEDLLM_TRY(history.versions, ledger.versions(job));
    return history;
}

std::optional<std::string> Report::first_problem() const {
    if (!problem.empty()) return problem;
    for (const RoundFinding& round : rounds) {
        if (!round.problem.empty()) return "round " + number(round.round) + ": " + round.problem;
    }
    return std::nullopt;
}

Report check_chain(const History& history, std::string_view expected) {
    Report report;
    report.job = history.job.id;
    report.chain = history.job.chain;
    const std::string initial = !history.rounds.empty()     ? history.rounds.front().model_digest
                                : !history.versions.empty() ? history.versions.front().digest
                                                            : history.job.model_digest;
    for (std::size_t i = 0; i < history.rounds.size(); ++i) report.rounds.push_back(check_round(history, i));
    if (!report.rounds.empty()) report.chain = report.rounds.back().chain;
    report.problem = broken_job(history, initial);
    if (report.problem.empty() && !expected.empty() && !occurs(history, expected)) {
        report.problem = "the value " + std::string(expected.substr(0, 12)) +
                         " that was noted does not occur in its chain: the chain was written anew";
    }
    return report;
}

}  // namespace fedllm::server::audit
