#include "client/agent/client_config.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/temp_dir.hpp"

namespace fedllm::client::agent {
namespace {

const std::string kLeast =
    "server:\n  host: hub\nmodels:\n  demo: bases/models/demo\ndata:\n  path: train.jsonl\n";

std::string error_of(const std::string& yaml) {
    const auto config = parse_client_config(yaml, "client.yaml", "/site");
    return config ? "no error" : to_string(config.error());
}

TEST(ClientConfig, NeedsServerModelsAndData) {
    const auto config = parse_client_config(kLeast, "client.yaml", "/site");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->server_name(), "hub");
    EXPECT_NE(error_of("models:\n  a: b\ndata:\n  path: x\n").find("server.host: this key is required"),
              std::string::npos);
    EXPECT_NE(error_of("server:\n  host: h\ndata:\n  path: x\n").find("models: this key is required"),
              std::string::npos);
    EXPECT_NE(error_of("server:\n  host: h\nmodels:\n  a: b\n").find("data.path: this key is required"),
              std::string::npos);
}

TEST(ClientConfig, AModelMayBeAnIdOfTheHub) {
    const std::string yaml = "server:\n  host: hub\nmodels:\n  demo: org/name\ndata:\n  path: train.jsonl\n";
    EXPECT_EQ(parse_client_config(yaml, "client.yaml", "/site")->models.at("demo"), "org/name");
    const test::TempDir site;  // unless a folder of that name is there
    std::filesystem::create_directories(site.path() / "org/name");
    EXPECT_EQ(parse_client_config(yaml, "client.yaml", site.path())->models.at("demo"),
              site.path() / "org/name");
}

TEST(ClientConfig, RelativePathsStartAtTheFile) {
    const auto config =
        parse_client_config(kLeast + "tls:\n  ca: ../ca.crt\n  key: /keys/k\n", "client.yaml", "/site");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->models.at("demo"), "/site/bases/models/demo");
    EXPECT_EQ(config->data.path, "/site/train.jsonl");
    EXPECT_EQ(config->data.eval_path, "") << "absent stays absent";
    EXPECT_EQ(config->tls.ca, "/ca.crt");
    EXPECT_EQ(config->tls.key, "/keys/k");
    EXPECT_EQ(config->state_directory, "/site/state");
}

TEST(ClientConfig, ErrorsNameFileKeyAndWhatToDo) {
    EXPECT_NE(
        error_of(kLeast + "thread: 3\n").find("client.yaml:7: thread: unknown key; did you mean 'threads'?"),
        std::string::npos);
    EXPECT_NE(
        error_of(kLeast + "policy:\n  methods: [lora, ful]\n").find("policy.methods: 'ful' is not one of"),
        std::string::npos);
    EXPECT_NE(error_of(kLeast + "policy:\n  methods: []\n").find("every job would be refused"),
              std::string::npos);
    EXPECT_NE(error_of(kLeast + "policy:\n  upload_rate_max: 4 KiB\n").find("policy.upload_rate_max: 4096 bytes"),
              std::string::npos);
    EXPECT_NE(error_of(kLeast + "gpus: []\n").find("gpus: names none"), std::string::npos);
    EXPECT_NE(error_of(kLeast + "gpus: [1, 1]\n").find("gpus: names one twice"), std::string::npos);
    EXPECT_NE(error_of(kLeast + "gpus: [0, one]\n").find("client.yaml:7: gpus: "), std::string::npos);
    EXPECT_NE(error_of("server:\n  host: h\nmodels: {}\ndata:\n  path: x\n").find("lists no base model"),
              std::string::npos);
    EXPECT_NE(error_of(kLeast + "log:\n  level: loud\n").find("log.level: 'loud' is not one of"),
              std::string::npos);
    EXPECT_NE(error_of("server:\n  host: h\n  port: 70000\nmodels:\n  a: b\ndata:\n  path: x\n")
                  .find("client.yaml:3: server.port: the number is too large"),
              std::string::npos);
    std::string many = "server:\n  host: h\ndata:\n  path: x\nmodels:\n";
    for (int i = 0; i < 65; ++i) many += "  m" + std::to_string(i) + ": f\n";
    EXPECT_NE(error_of(many).find("models: lists 65"), std::string::npos) << error_of(many);
}

TEST(ClientConfig, PrintsWhatItReads) {
    ClientConfig config = example_client_config();
    config.models["second: odd"] = "with space";
    config.policy.target_modules = {"q_proj"};
    config.gpus = {0, 2};
    config.log.format = log::Format::Json;
    const std::string text = print_client_config(config);
    const auto again = parse_client_config(text, "printed", "");
    ASSERT_TRUE(again) << again.error().message << text;
    EXPECT_EQ(*again, config);
}

TEST(ClientConfig, TheExampleFileIsTheGeneratedOne) {
    const auto text = read_file("configs/client.yaml");
    ASSERT_TRUE(text) << text.error().message;
    EXPECT_EQ(*text, print_client_config(example_client_config()))
        << "write the new one with: fedllm-client --print-config > configs/client.yaml";
    EXPECT_TRUE(load_client_config("configs/client.yaml"));
}

}  // namespace
}  // namespace fedllm::client::agent
