// fedllm audit: the hash chain, the version files and the means of a job, checked again.
#include <cstdio>
#include <memory>

#include "common/crypto/sha256.hpp"
#include "server/audit/audit.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"
#include "tools/federation/operator_link.hpp"

namespace fedllm::tools::cli {
namespace {

namespace audit = server::audit;
namespace store = server::store;

struct AuditCommand {
    std::string job, state, hub = "hub", expect;
};

// ------------------------------------------------------------------------------------------------- the rows

store::PartRow part_of(const protocol::AuditContribution& from) {
    store::PartRow part;
    part.client = ClientId(from.client());
    part.round = RoundId(from.from_round());
    part.update_digest = from.digest();
    part.bytes = from.bytes();
    part.weight = from.weight();
    part.codec = from.codec();
    return part;
}

audit::History history_of(const protocol::AuditRows& rows) {
    audit::History history;
    history.job.id = JobId(rows.job_id());
    history.job.yaml = rows.job();
    history.job.round = RoundId(rows.rounds_committed());
    history.job.model_digest = rows.model_digest();
    history.job.chain = rows.chain();
    for (const protocol::AuditRound& from : rows.rounds()) {
        store::RoundRow round;
        round.job = history.job.id;
        round.round = RoundId(from.round());
        round.model_digest = from.base_digest();
        round.next_digest = from.next_digest();
        round.chain = from.chain();
        history.rounds.push_back(round);
        auto& counted = history.counted.emplace_back();
        for (const auto& contribution : from.contributions()) counted.push_back(part_of(contribution));
    }
    return history;
}

// Retention may take a file between the reading of the rows and of the files: then the rows say so by now.
Result<audit::Report> audit_files(const store::Ledger& ledger, const Path& state, const JobId& id,
                                  const std::string& expect) {
    FEDLLM_TRY(audit::History history, audit::read_history(ledger, id));
    for (;;) {
        audit::Report report = audit::check_chain(history, expect);
        audit::check_files(history, store::Versions::to_read(state), server::ingest::Spool::to_read(state),
                           report);
        if (!report.first_problem()) return report;
        FEDLLM_TRY(audit::History now, audit::read_history(ledger, id));
        if (now.versions == history.versions) return report;
        history = std::move(now);
    }
}

Result<std::vector<audit::Report>> audit_offline(const AuditCommand& command) {
    FEDLLM_TRY(const store::Ledger ledger, store::Ledger::open_to_read(command.state));
    std::vector<audit::Report> reports;
    FEDLLM_TRY(const auto jobs, ledger.jobs());
    for (const store::JobRow& job : jobs) {
        if (!command.job.empty() && job.id.get() != command.job) continue;
        FEDLLM_TRY(auto report, audit_files(ledger, command.state, job.id, command.expect));
        reports.push_back(std::move(report));
    }
    if (reports.empty() && !command.job.empty()) {
        return make_error(Errc::NotFound, command.state + " has no job '" + command.job + "'");
    }
    return reports;
}

Result<std::vector<audit::Report>> audit_online(const AuditCommand& command) {
    FEDLLM_TRY(const auto config, federation::load_operator_config(command.hub));
    FEDLLM_TRY(const auto link, federation::OperatorLink::connect(config));
    std::vector<std::string> ids{command.job};
    if (command.job.empty()) {
        FEDLLM_TRY(const auto jobs, link->list_jobs());
        ids.clear();
        for (const auto& job : jobs.jobs()) ids.push_back(job.job_id());
    }
    std::vector<audit::Report> reports;
    for (const std::string& id : ids) {
        FEDLLM_TRY(const auto rows, link->audit_rows(JobId(id)));
        if (rows.initial_digest() !=
            (rows.rounds().empty() ? rows.model_digest() : rows.rounds(0).base_digest())) {
            return make_error(Errc::DigestMismatch,
                              id + ": its first round does not start from its initial version");
        }
        reports.push_back(audit::check_chain(history_of(rows), command.expect));
    }
    return reports;
}

// ------------------------------------------------------------------------------------------------- the
// report

Json to_json(const audit::Report& report) {
    Json json{{"job", report.job.get()},
              {"fits", !report.first_problem()},
              {"problem", report.first_problem().value_or("")},
              {"initial_version", audit::name(report.initial)},
              {"chain", report.chain},
              {"rounds", Json::array()}};
    for (const audit::RoundFinding& round : report.rounds) {
        json["rounds"].push_back({{"round", round.round.get()},
                                  {"contributions", round.contributions},
                                  {"weight", round.weight},
                                  {"chain", round.chain},
                                  {"link", audit::name(round.link)},
                                  {"version", audit::name(round.version)},
                                  {"mean", audit::name(round.mean)},
                                  {"problem", round.problem}});
    }
    return json;
}

std::string render(const audit::Report& report) {
    std::vector<std::vector<std::string>> rows;
    rows.push_back({"-", "", "", "", "", std::string(audit::name(report.initial)), "", report.problem});
    for (const audit::RoundFinding& round : report.rounds) {
        rows.push_back({std::to_string(round.round.get()), std::to_string(round.contributions),
                        std::to_string(round.weight), round.chain.substr(0, 12),
                        std::string(audit::name(round.link)), std::string(audit::name(round.version)),
                        std::string(audit::name(round.mean)), round.problem});
    }
    return report.job.get() + "\n" +
           table({"round", "clients", "weight", "chain", "link", "version", "mean", "problem"}, rows) +
           (report.first_problem() ? "" : "all of it fits; the chain ends in " + report.chain + "\n");
}

Result<void> run_audit(const AuditCommand& command, bool json) {
    if (!command.expect.empty() && !crypto::from_hex(command.expect)) {
        return make_error(Errc::InvalidArgument,
                          "--expect: '" + command.expect +
                              "' is no value of a chain, which has 64 hexadecimal digits; 'fedllm audit "
                              "--json' and the server's log print them all");
    }
    FEDLLM_TRY(const auto reports, command.state.empty() ? audit_online(command) : audit_offline(command));
    Json array = Json::array();
    for (const audit::Report& report : reports) {
        array.push_back(to_json(report));
        if (!json) std::fputs(render(report).c_str(), stdout);
    }
    if (json) std::printf("%s\n", array.dump(2).c_str());
    for (const audit::Report& report : reports) {
        if (const auto problem = report.first_problem()) {
            return make_error(Errc::DigestMismatch, report.job.get() + " does not fit: " + *problem);
        }
    }
    return {};
}

}  // namespace

void add_audit(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<AuditCommand>();
    auto* command =
        app.add_subcommand("audit", "Check again what went into each version of a job, and the versions");
    command->footer(
        "Without --state the server sends the rows of its ledger and the chain is recomputed here. With it "
        "the state\n"
        "directory is read (also beside a running server), and its files too: every version must hash to its "
        "name, and\n"
        "where the updates are still kept (retention.updates) their mean must give the version, bit for "
        "bit.\n"
        "Status 1 and the first round that does not fit, if any.");
    command->add_option("job", options->job, "id of the job, such as j1 (default: every job)");
    command->add_option("--state", options->state, "a server's state directory");
    command->add_option("--dir", options->hub, "folder that 'fedllm init' made")->capture_default_str();
    command->add_option(
        "--expect", options->expect,
        "a value of the chain noted earlier, all 64 digits (--json and the server's log print them): it must "
        "occur");
    command->callback(
        [=, &chosen] { chosen.run = [=, &chosen] { return run_audit(*options, chosen.json); }; });
}

}  // namespace fedllm::tools::cli
