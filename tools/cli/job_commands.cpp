// fedllm job submit|list|show|pause|resume|stop: what an operator asks of the server.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <thread>

#include "common/base/text.hpp"
#include "common/crypto/secure_rng.hpp"
#include "common/formats/param_set_file.hpp"
#include "common/hub/cache.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"
#include "tools/federation/operator_link.hpp"
#include "tools/local/workspace.hpp"

namespace fedllm::tools::cli {
namespace {

using federation::OperatorLink;

Result<std::unique_ptr<OperatorLink>> connect(const std::string& folder) {
    FEDLLM_TRY(const auto config, federation::load_operator_config(folder));
    return OperatorLink::connect(config);
}

// -----------------------------------------------------------------------------------------------------------
// submit

// The first version as the safetensors bytes that travel.
Result<std::string> initial_version(const client::model::BaseModel& model, const job::JobSpec& job) {
    FEDLLM_TRY(const auto start, local::initial_state(model, job));
    const Path file = std::filesystem::temp_directory_path() /
                      ("fedllm-initial-" + crypto::SecureRng().random_hex(8) + ".safetensors");
    auto written = formats::write_param_set(file, start.params);
    auto bytes = written ? read_file(file, std::size_t{1} << 40) : Result<std::string>(written.error());
    std::error_code ignored;
    std::filesystem::remove(file, ignored);
    return bytes;
}

Result<void> submit(const std::string& recipe, const std::string& model_folder, const std::string& hub,
                    bool json) {
    FEDLLM_TRY(job::JobSpec job, job::load_job(recipe));
    FEDLLM_TRY(const Path folder, fedllm::hub::find_model(model_folder));
    FEDLLM_TRY(const auto model, client::model::BaseModel::load(folder));
    job.base_fingerprint = model.fingerprint();
    FEDLLM_TRY(const std::string initial, initial_version(model, job));
    FEDLLM_TRY(const auto link, connect(hub));
    FEDLLM_TRY(const JobId id,
               link->submit(job::print_job(job), std::as_bytes(std::span(initial.data(), initial.size()))));
    if (json) {
        std::printf("%s\n", Json{{"job", id.get()}}.dump(2).c_str());
    } else {
        std::printf(
            "%s submitted: %u rounds of %u clients\n  follow it with: fedllm job show %s --follow --dir %s\n",
            id.get().c_str(), job.rounds, job.clients_per_round, id.get().c_str(), hub.c_str());
    }
    return {};
}

// -------------------------------------------------------------------------------------------------------------
// show

Json to_json(const protocol::JobSummary& job) {
    return {{"job", job.job_id()},
            {"name", job.name()},
            {"state", job.state()},
            {"round", job.round()},
            {"rounds", job.rounds()},
            {"model_digest", job.model_digest()},
            {"waiting_for", job.waiting_for()},
            {"cause", job.cause()},
            {"chain", job.chain()},
            {"created_ms", job.created_ms()}};
}

// Bytes in bf16 over the bytes that were sent; NaN before there is an update.
double ratio_of(const protocol::Part& part) {
    if (part.elements() == 0 || part.bytes_up() == 0) return std::nan("");
    return 2.0 * static_cast<double>(part.elements()) / static_cast<double>(part.bytes_up());
}

Json to_json(const protocol::Part& part) {
    return {
        {"client", part.client()},
        {"state", part.state()},
        {"step", part.step()},
        {"steps", part.steps()},
        {"loss", part.loss()},
        {"samples", part.samples()},
        {"bytes_up", part.bytes_up()},
        {"bytes_down", part.bytes_down()},
        {"codec", part.codec()},
        {"compression_ratio", number(ratio_of(part))},
        {"quantisation_error", part.quantisation_error()},
        {"residual_norm", part.residual_norm()},
        {"train_seconds", part.train_seconds()},
        {"eval_loss", number(part.eval_tokens() ? part.eval_loss_sum() / part.eval_tokens() : std::nan(""))},
        {"eval_tokens", part.eval_tokens()},
        {"detail", part.detail()}};
}

Json to_json(const protocol::JobReport& report) {
    Json json = to_json(report.summary());
    json["final_eval_loss"] = number(report.final_eval_loss());
    json["adapter_path"] = report.adapter_path();
    json["rounds_done"] = Json::array();
    for (const auto& round : report.rounds()) {
        Json entry{{"round", round.round()},
                   {"state", round.state()},
                   {"model_digest", round.model_digest()},
                   {"eval_loss", number(round.eval_loss())},
                   {"train_loss", number(round.train_loss())},
                   {"seconds", round.seconds()}};
        entry["clients"] = Json::array();
        for (const auto& part : round.parts()) entry["clients"].push_back(to_json(part));
        json["rounds_done"].push_back(std::move(entry));
    }
    return json;
}

std::string status_of(const protocol::Part& part) {
    if (part.state() != "working" || part.steps() == 0) return part.state();
    return "step " + std::to_string(part.step()) + "/" + std::to_string(part.steps());
}

std::string render(const protocol::JobReport& report) {
    const auto& job = report.summary();
    std::string text = job.job_id() + "  " + job.name() + "  " + job.state() + "  round " +
                       std::to_string(job.round()) + "/" + std::to_string(job.rounds()) + "\n";
    if (!job.waiting_for().empty()) text += "waiting for " + job.waiting_for() + "\n";
    if (!job.cause().empty()) text += job.state() + ": " + job.cause() + "\n";
    std::vector<std::vector<std::string>> rows;
    for (const auto& round : report.rounds()) {
        const bool final = round.round() == job.rounds();
        rows.push_back({final ? "final" : std::to_string(round.round()), round.state(), "", "",
                        fixed(round.train_loss(), 4), fixed(round.eval_loss(), 4), "", "", "", "",
                        fixed(round.seconds(), 1)});
        for (const auto& part : round.parts()) {
            const double eval = part.eval_tokens() ? part.eval_loss_sum() / part.eval_tokens() : std::nan("");
            rows.push_back({"", "", part.client(), status_of(part),
                            part.loss() != 0 ? fixed(part.loss(), 4) : "-", fixed(eval, 4),
                            format_bytes(part.bytes_up()), format_bytes(part.bytes_down()),
                            std::isnan(ratio_of(part)) ? "-" : fixed(ratio_of(part), 1) + "x",
                            part.quantisation_error() > 0 ? fixed(part.quantisation_error(), 3) : "-",
                            part.train_seconds() > 0 ? fixed(part.train_seconds(), 1) : "-"});
        }
    }
    if (!rows.empty()) {
        text += table({"round", "state", "client", "progress", "loss", "held-out", "up", "down", "of bf16",
                       "error", "seconds"},
                      rows);
    }
    if (!std::isnan(report.final_eval_loss())) {
        text += "final held-out loss " + fixed(report.final_eval_loss(), 4) + "\n";
    }
    if (!job.chain().empty()) text += "chain " + job.chain() + "  (fedllm audit --expect)\n";
    if (!report.adapter_path().empty()) text += "adapter on the server: " + report.adapter_path() + "\n";
    return text;
}

// One line for each round as it ends, and one that is rewritten in place while it runs.
class Follower {
public:
    void show(const protocol::JobReport& report) {
        for (const auto& round : report.rounds()) {
            if (round.state() == "committed" && round.round() >= next_) finish(report, round);
        }
        if (report.rounds().empty() || report.summary().state() != "running") return;
        const auto& open = report.rounds(report.rounds_size() - 1);
        std::string line =
            "round " + std::to_string(open.round() + 1) + "/" + std::to_string(report.summary().rounds());
        if (open.round() == report.summary().rounds()) line = "final evaluation";
        line += open.parts_size() <= kNamedMax ? each(open) : tally(open);
        if (isatty_) std::fprintf(stderr, "\r\033[K%s", line.c_str());
    }

    RoundId next() const { return RoundId(next_); }  // those before it were shown

private:
    static constexpr int kNamedMax = 8;

    static std::string each(const protocol::RoundReport& round) {
        std::string text;
        for (const auto& part : round.parts()) {
            text += "  " + part.client() + " " + status_of(part);
            if (part.state() == "working" && part.loss() != 0) text += " loss " + fixed(part.loss(), 3);
        }
        return text;
    }
    static std::string tally(const protocol::RoundReport& round) {
        std::map<std::string, int> counts;
        for (const auto& part : round.parts()) ++counts[part.state()];
        std::string text;
        for (const auto& [state, count] : counts) text += "  " + std::to_string(count) + " " + state;
        return text;
    }
    void finish(const protocol::JobReport& report, const protocol::RoundReport& round) {
        if (isatty_) std::fprintf(stderr, "\r\033[K");
        next_ = round.round() + 1;
        if (round.round() == report.summary().rounds()) {
            std::printf("final evaluation: held-out loss %s\n", fixed(round.eval_loss(), 4).c_str());
        } else {
            std::uint64_t up = 0;
            std::uint64_t down = 0;
            std::size_t accepted = 0;
            for (const auto& part : round.parts()) {
                up += part.bytes_up();
                down += part.bytes_down();
                accepted += part.state() == "accepted";
            }
            std::printf(
                "round %u/%u  clients %zu/%d  train loss %s  held-out before %s  up %s  down %s  %s s\n",
                round.round() + 1, report.summary().rounds(), accepted, round.parts_size(),
                fixed(round.train_loss(), 4).c_str(), fixed(round.eval_loss(), 4).c_str(),
                format_bytes(up).c_str(), format_bytes(down).c_str(), fixed(round.seconds(), 1).c_str());
        }
        std::fflush(stdout);
    }

    std::uint32_t next_ = 0;
    bool isatty_ = ::isatty(2) == 1;
};

Result<void> follow(OperatorLink& link, const JobId& id) {
    Follower follower;
    for (;;) {
        FEDLLM_TRY(const auto report, link.show_job(id, follower.next()));
        follower.show(report);
        const std::string& state = report.summary().state();
        if (state == "finished") return {};
        if (state != "running" && state != "paused") {
            return make_error(Errc::Cancelled, id.get() + " " + state + ": " + report.summary().cause());
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
}

Result<void> show(const std::string& id, const std::string& hub, bool following, bool json) {
    FEDLLM_TRY(const auto link, connect(hub));
    if (following) {
        FEDLLM_TRY_VOID(follow(*link, JobId(id)));
    }
    FEDLLM_TRY(const auto report, link->show_job(JobId(id)));
    if (json) {
        std::printf("%s\n", to_json(report).dump(2).c_str());
    } else if (!following) {
        std::fputs(render(report).c_str(), stdout);
    }
    return {};
}

Result<void> list(const std::string& hub, bool json) {
    FEDLLM_TRY(const auto link, connect(hub));
    FEDLLM_TRY(const auto jobs, link->list_jobs());
    if (json) {
        Json array = Json::array();
        for (const auto& job : jobs.jobs()) array.push_back(to_json(job));
        std::printf("%s\n", array.dump(2).c_str());
        return {};
    }
    std::vector<std::vector<std::string>> rows;
    for (const auto& job : jobs.jobs()) {
        rows.push_back({job.job_id(), job.name(), job.state(),
                        std::to_string(job.round()) + "/" + std::to_string(job.rounds()),
                        job.waiting_for().empty() ? job.cause() : job.waiting_for()});
    }
    std::fputs(rows.empty()
                   ? "no jobs yet; see 'fedllm job submit --help'\n"
                   : table({"job", "name", "state", "round", "waiting for, or why it ended"}, rows).c_str(),
               stdout);
    return {};
}

Result<void> control(const std::string& id, const std::string& hub, protocol::JobAction action,
                     const std::string& cause, bool json) {
    FEDLLM_TRY(const auto link, connect(hub));
    FEDLLM_TRY(const auto job, link->control_job(JobId(id), action, cause));
    if (json) {
        std::printf("%s\n", to_json(job).dump(2).c_str());
    } else {
        std::printf("%s is %s%s%s\n", job.job_id().c_str(), job.state().c_str(),
                    job.waiting_for().empty() ? "" : ", waiting for ", job.waiting_for().c_str());
    }
    return {};
}

struct Control {
    const char* verb;
    protocol::JobAction action;
    const char* help;
};
constexpr Control kControls[] = {
    {"pause", protocol::JOB_ACTION_PAUSE, "Call its tasks back; what is accepted stays counted"},
    {"resume", protocol::JOB_ACTION_RESUME, "Go on where it was paused"},
    {"stop", protocol::JOB_ACTION_STOP, "End it for good; its versions stay"}};

void add_controls(CLI::App& job, Chosen& chosen) {
    auto hub = std::make_shared<std::string>("hub");
    auto id = std::make_shared<std::string>();
    auto cause = std::make_shared<std::string>();
    for (const Control& control_of : kControls) {
        auto* command = job.add_subcommand(control_of.verb, control_of.help);
        command->add_option("job", *id, "id of the job, such as j1")->required();
        if (control_of.action != protocol::JOB_ACTION_RESUME) {
            command->add_option("--cause", *cause, "why, in words: 'job show' and the log say it");
        }
        command->add_option("--dir", *hub, "folder that 'fedllm init' made")->capture_default_str();
        command->callback([=, &chosen, action = control_of.action] {
            chosen.run = [=, &chosen] { return control(*id, *hub, action, *cause, chosen.json); };
        });
    }
}

}  // namespace

void add_job(CLI::App& app, Chosen& chosen) {
    auto hub = std::make_shared<std::string>("hub");
    auto text = std::make_shared<std::string>();
    auto model = std::make_shared<std::string>();
    auto following = std::make_shared<bool>(false);
    auto* job =
        app.add_subcommand("job", "Submit jobs to the server, see how they stand, pause and stop them");
    job->require_subcommand(1);

    auto* submit_command = job->add_subcommand("submit", "Submit a job file; prints the job's id");
    submit_command->footer("The base model is read here for its shapes and its fingerprint; it is not sent.");
    submit_command->add_option("recipe", *text, "job file, such as configs/recipes/demo.yaml")->required();
    submit_command->add_option("--model", *model, "base model: a folder, or ORG/NAME of the hub's cache")
        ->required();
    submit_command->callback(
        [=, &chosen] { chosen.run = [=, &chosen] { return submit(*text, *model, *hub, chosen.json); }; });

    auto* list_command = job->add_subcommand("list", "All jobs, a line each");
    list_command->callback([=, &chosen] { chosen.run = [=, &chosen] { return list(*hub, chosen.json); }; });

    auto* show_command =
        job->add_subcommand("show", "One job: rounds, clients, losses, bytes, what it waits for");
    show_command->add_option("job", *text, "id of the job, such as j1")->required();
    show_command->add_flag("--follow", *following, "stay until the job ends, a line for each round");
    show_command->callback(
        [=, &chosen] { chosen.run = [=, &chosen] { return show(*text, *hub, *following, chosen.json); }; });

    add_controls(*job, chosen);
    for (auto* command : {submit_command, list_command, show_command}) {
        command->add_option("--dir", *hub, "folder that 'fedllm init' made")->capture_default_str();
    }
}

}  // namespace fedllm::tools::cli
