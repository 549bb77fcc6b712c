#include "tools/hub/pull.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <thread>

#include "common/hub/cache.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/tools/hub/fake_hub.hpp"

namespace fedllm::tools::hub {
namespace {

namespace fs = std::filesystem;
using testing::FakeHub;
using testing::hash_of;
using testing::Reply;
using testing::Seen;

class Pull : public ::testing::Test {
protected:
    Pull() {
        options.id = "org/name";
        options.endpoint = fake.hub.url();
        options.token = "hf_secret";
        options.root = folder.path() / "hub";
        options.attempts = 3;
        options.first_wait = std::chrono::milliseconds(1);
        options.http.stall = std::chrono::seconds(5);
    }
    Path model() const { return fedllm::hub::model_cache(options.root, "org/name"); }
    Path blob(const std::string& path) const {
        const bool large = fake.large.contains(path);
        return model() / "blobs" /
               hash_of(large ? HashKind::Sha256 : HashKind::GitBlob,
                       large ? fake.large.at(path) : fake.small.at(path));
    }
    std::string content(const std::string& path) const {
        return read_file(model() / "snapshots" / FakeHub::kCommit / path).value();
    }
    std::vector<std::string> ranges() const {
        std::vector<std::string> all;
        for (const Seen& seen : fake.store.seen()) all.push_back(seen.range);
        return all;
    }
    Error refused() const {
        const auto pulled = pull(options);
        EXPECT_FALSE(pulled);
        return pulled ? Error{} : pulled.error();
    }

    test::TempDir folder;
    FakeHub fake;
    PullOptions options;
};

constexpr const char* kWeights = "model.safetensors";

TEST_F(Pull, LaysOutTheCacheAsHuggingFaceHubDoes) {
    const Pulled pulled = pull(options).value();
    EXPECT_EQ(pulled.files, 3U);
    EXPECT_EQ(pulled.bytes_fetched, 300'000U + 9 + 2);
    EXPECT_EQ(pulled.snapshot, model() / "snapshots" / FakeHub::kCommit);
    EXPECT_EQ(read_file(model() / "refs/main").value(), FakeHub::kCommit);
    for (const auto& files : {fake.small, fake.large}) {
        for (const auto& [path, text] : files) {
            EXPECT_EQ(content(path), text);
            EXPECT_EQ(fs::read_symlink(pulled.snapshot / path), Path("../../blobs") / blob(path).filename());
        }
    }
    EXPECT_EQ(fedllm::hub::newest_snapshot(options.root, "org/name").value(), pulled.snapshot);
    EXPECT_EQ(pull(options).value().bytes_fetched, 0U);  // all is there
}

TEST_F(Pull, ATokenStaysWithTheHub) {
    ASSERT_TRUE(pull(options));
    for (const Seen& seen : fake.hub.seen()) EXPECT_EQ(seen.authorization, "Bearer hf_secret") << seen.path;
    ASSERT_EQ(fake.store.seen().size(), 1U);
    EXPECT_EQ(fake.store.seen()[0].authorization, "");
}

TEST_F(Pull, CutsAreContinuedAtTheByte) {
    int cuts = 0;
    fake.store_mood = [&](const Seen& seen) -> std::optional<Reply> {
        if (++cuts > 4) return std::nullopt;
        Reply reply = testing::content_reply(fake.large.at(kWeights), seen);
        reply.cut_after = 50'000;
        return reply;
    };
    options.attempts = 2;  // each cut brought bytes, so attempts count anew
    const Pulled pulled = pull(options).value();
    EXPECT_EQ(content(kWeights), fake.large.at(kWeights));
    EXPECT_EQ(pulled.bytes_fetched, 300'000U + 9 + 2);  // no byte twice
    EXPECT_EQ(ranges(), (std::vector<std::string>{"", "bytes=50000-", "bytes=100000-", "bytes=150000-",
                                                  "bytes=200000-"}));
}

TEST_F(Pull, WhatAnEarlierCallLeftIsContinued) {
    make_directories(model() / "blobs").value();
    write_file_atomically(blob(kWeights).string() + ".incomplete", std::string(299'990, 'w')).value();
    ASSERT_TRUE(pull(options));
    EXPECT_EQ(ranges(), std::vector<std::string>{"bytes=299990-"});
    EXPECT_EQ(content(kWeights), fake.large.at(kWeights));
    EXPECT_FALSE(fs::exists(blob(kWeights).string() + ".incomplete"));
}

TEST_F(Pull, AFragmentThatIsWrongIsFetchedAnew) {
    make_directories(model() / "blobs").value();
    for (const std::string& fragment :
         {std::string(1000, 'x'), std::string(400'000, 'w'), std::string(300'000, 'x')}) {
        fs::remove(blob(kWeights));
        write_file_atomically(blob(kWeights).string() + ".incomplete", fragment).value();
        const auto pulled = pull(options);
        ASSERT_TRUE(pulled) << pulled.error().message;
        EXPECT_EQ(content(kWeights), fake.large.at(kWeights));
    }
}

TEST_F(Pull, AServerWithoutRangesStartsOver) {
    int calls = 0;
    fake.store_mood = [&](const Seen&) -> std::optional<Reply> {
        return Reply{200, {}, fake.large.at(kWeights), ++calls == 1 ? 1000U : std::string::npos};
    };
    ASSERT_TRUE(pull(options));
    EXPECT_EQ(content(kWeights), fake.large.at(kWeights));
}

TEST_F(Pull, AServerThatOnlyEverBeginsEndsIt) {
    fake.store_mood = [&](const Seen&) -> std::optional<Reply> {
        return Reply{200, {}, fake.large.at(kWeights), 1000};
    };
    EXPECT_EQ(refused().code, Errc::PeerClosed);
    EXPECT_LE(fake.store.seen().size(), 8U);
}

TEST_F(Pull, WrongContentNeverGetsAName) {
    fake.store_mood = [&](const Seen&) -> std::optional<Reply> {
        return Reply{200, {}, std::string(300'000, 'x')};
    };
    const Error error = refused();
    EXPECT_EQ(error.code, Errc::DigestMismatch);
    EXPECT_NE(error.message.find(kWeights), std::string::npos) << error.message;
    EXPECT_FALSE(fs::exists(blob(kWeights)));
    EXPECT_FALSE(fs::exists(model() / "snapshots" / FakeHub::kCommit / kWeights));
    EXPECT_FALSE(fs::exists(model() / "refs/main"));
    fake.hub_mood = [](const Seen& seen) -> std::optional<Reply> {
        if (!seen.path.ends_with("config.json")) return std::nullopt;
        return Reply{200, {}, "{\"a\": 2}\n"};
    };
    fs::remove(blob("config.json"));
    EXPECT_EQ(refused().code, Errc::DigestMismatch);  // small files are checked too
}

TEST_F(Pull, MoreOrLessThanAnnouncedIsRefused) {
    fake.store_mood = [&](const Seen&) -> std::optional<Reply> {
        return Reply{200, {}, std::string(300'001, 'w')};
    };
    EXPECT_EQ(refused().code, Errc::TooLarge);
    fs::remove_all(model());
    fake.store_mood = [&](const Seen&) -> std::optional<Reply> {
        return Reply{200, {}, std::string(299'999, 'w')};
    };
    EXPECT_EQ(refused().code, Errc::DigestMismatch);
}

TEST_F(Pull, TroubleOfTheServerIsWaitedOut) {
    int calls = 0;
    fake.hub_mood = [&](const Seen&) -> std::optional<Reply> {
        ++calls;
        if (calls == 1) return Reply{503, {}, "busy"};
        if (calls == 2) return Reply{429, {{"Retry-After", "0"}}, ""};
        return std::nullopt;
    };
    EXPECT_TRUE(pull(options));
    fake.hub_mood = [&](const Seen&) -> std::optional<Reply> { return Reply{500, {}, "broken"}; };
    const Error error = refused();
    EXPECT_EQ(error.code, Errc::PeerClosed);
    EXPECT_NE(error.message.find("500"), std::string::npos) << error.message;
}

TEST_F(Pull, RefusalsSayWhatToDoAndNeverTheToken) {
    struct Case {
        unsigned status;
        Errc code;
        const char* words;
    };
    for (const Case& c : {Case{401, Errc::PermissionDenied, "does not accept this token"},
                          Case{403, Errc::PermissionDenied, "accept the model's terms"},
                          Case{404, Errc::NotFound, "no such model"}}) {
        fake.hub_mood = [&](const Seen&) -> std::optional<Reply> {
            return Reply{c.status, {{"X-Error-Message", "because"}}, ""};
        };
        const Error error = refused();
        EXPECT_EQ(error.code, c.code);
        EXPECT_NE(error.message.find(c.words), std::string::npos) << error.message;
        EXPECT_NE(error.message.find("because"), std::string::npos) << error.message;
        EXPECT_EQ(error.message.find("hf_secret"), std::string::npos);
    }
    options.token.clear();
    fake.hub_mood = [](const Seen&) -> std::optional<Reply> { return Reply{401, {}, ""}; };
    EXPECT_NE(refused().message.find("HF_TOKEN"), std::string::npos);
}

TEST_F(Pull, RedirectsEnd) {
    fake.hub_mood = [&](const Seen&) -> std::optional<Reply> {
        return Reply{302, {{"Location", "/again"}}, ""};
    };
    EXPECT_EQ(refused().code, Errc::Malformed);
    fake.hub_mood = [&](const Seen&) -> std::optional<Reply> {
        return Reply{302, {{"Location", "file:///etc/passwd"}}, ""};
    };
    EXPECT_EQ(refused().code, Errc::Malformed);
}

TEST_F(Pull, NobodyThereIsSaid) {
    options.endpoint = "http://127.0.0.1:1";
    EXPECT_EQ(refused().code, Errc::PeerClosed);
}

TEST_F(Pull, TakesWhatAModelIsLoadedFromOrWhatIsAskedFor) {
    fake.small["pytorch_model.bin"] = "twice the same weights";
    fake.small["onnx/config.json"] = "{}";
    ASSERT_TRUE(pull(options));
    const Path snapshot = model() / "snapshots" / FakeHub::kCommit;
    EXPECT_FALSE(fs::exists(snapshot / "pytorch_model.bin"));
    EXPECT_FALSE(fs::exists(snapshot / "onnx"));
    options.include = {"onnx/*", "*.bin"};
    ASSERT_TRUE(pull(options));
    EXPECT_TRUE(fs::exists(snapshot / "pytorch_model.bin"));
    EXPECT_EQ(fs::read_symlink(snapshot / "onnx/config.json"),
              Path("../../../blobs") / blob("onnx/config.json").filename());
    options.include = {"*.gguf"};
    EXPECT_EQ(refused().code, Errc::NotFound);
}

TEST_F(Pull, SizesAreCheckedBeforeAnythingIsWritten) {
    options.bytes_max = 1000;
    EXPECT_EQ(refused().code, Errc::TooLarge);
    options.bytes_max = std::uint64_t{1} << 60;
    fake.edit_listing = [](nlohmann::json& json) {
        for (auto& entry : json["siblings"]) {
            if (entry.contains("lfs")) entry["lfs"]["size"] = std::uint64_t{4} << 40;
        }
    };
    const Error error = refused();
    EXPECT_EQ(error.code, Errc::IoFailed);
    EXPECT_NE(error.message.find("left"), std::string::npos) << error.message;
    EXPECT_TRUE(fake.store.seen().empty());
}

TEST_F(Pull, TwoAtOnceFetchEachContentOnce) {
    std::optional<Result<Pulled>> first, second;
    std::thread other([&] { first.emplace(pull(options)); });
    second.emplace(pull(options));
    other.join();
    ASSERT_TRUE(*first) << first->error().message;
    ASSERT_TRUE(*second) << second->error().message;
    EXPECT_EQ(first->value().bytes_fetched + second->value().bytes_fetched, 300'000U + 9 + 2);
}

TEST_F(Pull, BadNamesAreRefused) {
    options.id = "name";
    EXPECT_EQ(refused().code, Errc::InvalidArgument);
    options.id = "org/name";
    for (const char* revision : {"", "../x", "/x", "a b", "x/"}) {
        options.revision = revision;
        EXPECT_EQ(refused().code, Errc::InvalidArgument) << revision;
    }
    EXPECT_TRUE(fake.hub.seen().empty());
}

TEST_F(Pull, TheEnvironmentIsHuggingFaceHubs) {
    for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT",
                             "HF_HUB_OFFLINE", "HF_TOKEN_PATH"}) {
        ::unsetenv(name);
    }
    ::setenv("HF_HOME", folder.path().c_str(), 1);
    write_file_atomically(folder.path() / "token", "hf_file\n").value();
    PullOptions read = options_from_environment().value();
    EXPECT_EQ(read.root, folder.path() / "hub");
    EXPECT_EQ(read.endpoint, "https://huggingface.co");
    EXPECT_EQ(read.token, "hf_file");
    ::setenv("HF_TOKEN", "hf_variable", 1);
    ::setenv("HF_ENDPOINT", "http://mirror/", 1);
    read = options_from_environment().value();
    EXPECT_EQ(read.token, "hf_variable");
    EXPECT_EQ(read.endpoint, "http://mirror");
    ::setenv("HF_TOKEN", "two words", 1);
    EXPECT_EQ(options_from_environment().error().code, Errc::InvalidArgument);
    EXPECT_EQ(options_from_environment().error().message.find("words"), std::string::npos);
    ::setenv("HF_HUB_OFFLINE", "1", 1);
    EXPECT_EQ(options_from_environment().error().code, Errc::PermissionDenied);
}

}  // namespace
}  // namespace fedllm::tools::hub
