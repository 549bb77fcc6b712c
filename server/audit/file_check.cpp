#include "server/audit/audit.hpp"

namespace fedllm::server::audit {
namespace {

using store::Attachment;

struct FileVerdict {
    Verdict verdict = Verdict::Fits;
    std::string problem;
};

FileVerdict broken(const Error& error) { return {Verdict::Broken, error.message}; }

// The version's file, and where there is one, the step that leads to it.
FileVerdict check_version(const store::VersionRow& row, const store::Versions& versions) {
    if (row.removed) return {Verdict::NotKept, ""};
    if (auto file = versions.map(row.digest); !file) return broken(file.error());
    if (row.encoded_digest.empty()) return {};
    const auto step = versions.map(Attachment::Step, row.encoded_digest);
    if (!step && step.error().code != Errc::NotFound) return broken(step.error());
    return {};
}

FileVerdict check_mean(const History& history, std::size_t index, const store::Versions& versions,
                       const ingest::Spool& spool) {
    const store::VersionRow& base = history.versions[index];
    const store::VersionRow& next = history.versions[index + 1];
    if (base.removed || next.removed) return {Verdict::NotKept, ""};
    const auto same = recompute(history.job.yaml, base, next, history.counted[index], versions, spool);
    if (same) return {};
    if (same.error().code == Errc::NotFound) return {Verdict::NotKept, ""};
    return broken(same.error());
}

void keep_first(std::string& problem, const std::string& found) {
    if (problem.empty()) problem = found;
}

}  // namespace

void check_files(const History& history, const store::Versions& versions, const ingest::Spool& spool,
                 Report& report) {
    if (history.versions.empty()) {
        keep_first(report.problem, "the ledger has no version of it");
        return;
    }
    const FileVerdict initial = check_version(history.versions.front(), versions);
    report.initial = initial.verdict;
    keep_first(report.problem, initial.problem);
    for (std::size_t i = 0; i < report.rounds.size() && i + 1 < history.versions.size(); ++i) {
        RoundFinding& finding = report.rounds[i];
        const FileVerdict version = check_version(history.versions[i + 1], versions);
        finding.version = version.verdict;
        keep_first(finding.problem, version.problem);
        if (finding.link != Verdict::Fits || version.verdict != Verdict::Fits) continue;
        const FileVerdict mean = check_mean(history, i, versions, spool);
        finding.mean = mean.verdict;
        keep_first(finding.problem, mean.problem);
    }
}

}  // namespace fedllm::server::audit
