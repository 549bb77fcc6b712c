// Every file in configs/ loads, and says what the programs say.
#include <gtest/gtest.h>

#include <filesystem>

#include "client/agent/client_config.hpp"
#include "common/job/job_spec.hpp"
#include "server/app/server_config.hpp"
#include "tools/cli/commands.hpp"

namespace fedllm {
namespace {

namespace fs = std::filesystem;

TEST(Configs, EveryRecipeLoadsAndPrintsBackEqual) {
    std::size_t recipes = 0;
    for (const auto& entry : fs::directory_iterator("configs/recipes")) {
        ASSERT_EQ(entry.path().extension(), ".yaml") << entry.path();
        const auto job = job::load_job(entry.path());
        ASSERT_TRUE(job) << to_string(job.error());
        const auto again = job::parse_job(job::print_job(*job), "printed");
        ASSERT_TRUE(again) << to_string(again.error());
        EXPECT_EQ(*again, *job) << entry.path();
        ++recipes;
    }
    EXPECT_GE(recipes, 3u);
}

TEST(Configs, ServerExampleIsWhatTheServerPrints) {
    const auto loaded = server::app::load_server_config("configs/server.yaml");
    ASSERT_TRUE(loaded) << to_string(loaded.error());
    const server::app::ServerConfig defaults;
    EXPECT_EQ(read_file("configs/server.yaml").value(),
              server::app::print_server_config(defaults, config::Comments::Yes));
}

TEST(Configs, ClientExampleIsWhatTheClientPrints) {
    const auto loaded = client::agent::load_client_config("configs/client.yaml");
    ASSERT_TRUE(loaded) << to_string(loaded.error());
    EXPECT_EQ(read_file("configs/client.yaml").value(),
              client::agent::print_client_config(client::agent::example_client_config()));
}

TEST(Configs, ReferenceIsUpToDate) {
    EXPECT_EQ(read_file("configs/REFERENCE.md").value(), tools::cli::configuration_reference())
        << "regenerate it: build/release/tools/fedllm config > configs/REFERENCE.md";
}

}  // namespace
}  // namespace fedllm
