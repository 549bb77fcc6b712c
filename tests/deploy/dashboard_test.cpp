// Dashboard and alerts ask only for metrics that the server has.
#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <string>

#include <nlohmann/json.hpp>

#include "common/base/files.hpp"
#include "server/observe/metrics.hpp"

namespace fedllm::server::observe {
namespace {

std::set<std::string> names_in(const std::string& text) {
    static const std::regex name("\\bfedllm_[a-z_]+");
    return {std::sregex_token_iterator(text.begin(), text.end(), name), std::sregex_token_iterator()};
}

// Every name in the exposition after each method was called once.
std::set<std::string> names_served() {
    Metrics metrics;
    const JobId job("j1");
    const ClientId client("library");
    metrics.connection_opened("client");
    metrics.connection_refused("peer_untrusted");
    metrics.message_refused(Errc::Malformed);
    metrics.update_accepted(job);
    metrics.update_refused(job, Errc::Malformed);
    metrics.bytes_moved(client, Direction::Up, 1);
    metrics.task_progress(job, client, 0.5);
    metrics.round_opened(job, 0, 10, 3);
    metrics.round_committed(job, 1, 3);
    metrics.round_closed(job, 0.04);
    metrics.evaluated(job, 1);
    metrics.trained(job, 1);
    metrics.job_waiting(job, "", "updates");
    metrics.job_ended(job, "finished");
    return names_in(metrics.render());
}

TEST(Dashboard, EveryPanelAsksForMetricsTheServerHas) {
    const auto served = names_served();
    const auto board = nlohmann::json::parse(read_file("deploy/grafana/fedllm.json").value());
    std::size_t queries = 0;
    for (const auto& panel : board.at("panels")) {
        for (const auto& target : panel.at("targets")) {
            const std::string query = target.at("expr");
            for (const std::string& name : names_in(query)) {
                EXPECT_TRUE(served.contains(name)) << panel.at("title") << ": " << name << " in " << query;
            }
            ++queries;
        }
    }
    EXPECT_GT(queries, 10u);
}

TEST(Alerts, EveryRuleAsksForMetricsTheServerHas) {
    const auto served = names_served();
    const auto asked = names_in(read_file("deploy/prometheus/alerts.yml").value());
    EXPECT_GT(asked.size(), 4u);
    for (const std::string& name : asked) EXPECT_TRUE(served.contains(name)) << name;
}

TEST(Metrics, AJobWaitsForOneThingAtATime) {
    Metrics metrics;
    const JobId job("j1");
    metrics.job_waiting(job, "", "clients");
    metrics.job_waiting(job, "clients", "updates");
    EXPECT_NE(metrics.render().find("fedllm_job_waiting{job=\"j1\",reason=\"updates\"} 1"),
              std::string::npos);
    EXPECT_EQ(metrics.render().find("reason=\"clients\""), std::string::npos) << "an old reason stays";
    metrics.job_waiting(job, "updates", "");
    EXPECT_EQ(metrics.render().find("fedllm_job_waiting{"), std::string::npos) << "a job that is over waits";
}

TEST(Metrics, AJobThatEndedAsksNobody) {
    Metrics metrics;
    metrics.round_opened(JobId("j1"), 3, 10, 3);
    metrics.job_ended(JobId("j1"), "failed");
    EXPECT_NE(metrics.render().find("fedllm_round_clients{job=\"j1\",state=\"asked\"} 0"), std::string::npos)
        << metrics.render();
}

}  // namespace
}  // namespace fedllm::server::observe
