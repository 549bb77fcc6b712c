#include "common/hub/cache.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>

#include "tests/support/temp_dir.hpp"

namespace fedllm::hub {
namespace {

namespace fs = std::filesystem;

class HubCache : public ::testing::Test {
protected:
    void SetUp() override {
        for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"}) ::unsetenv(name);
        ::setenv("HF_HOME", folder.path().c_str(), 1);
        root = folder.path() / "hub";
    }
    Path snapshot(const std::string& commit) {
        const Path path = model_cache(root, "org/name") / "snapshots" / commit;
        make_directories(path).value();
        write_file_atomically(path / "config.json", "{}").value();
        return path;
    }

    test::TempDir folder;
    Path root;
};

TEST_F(HubCache, KnowsIds) {
    for (const char* good : {"org/name", "HuggingFaceTB/SmolLM2-135M", "a/b_c.d"})
        EXPECT_TRUE(is_model_id(good));
    for (const char* bad : {"name", "a/b/c", "/a", "a/", "../a", "a/..", "a/.b", "a/b--c", "a--b/c", "./a",
                            "a/b c", "", "a/-b", "a/b\n"}) {
        EXPECT_FALSE(is_model_id(bad)) << bad;
    }
    EXPECT_FALSE(is_model_id("a/" + std::string(97, 'b')));
}

TEST_F(HubCache, TheRootIsWhereHuggingFaceHubHasIt) {
    EXPECT_EQ(cache_root(), root);
    ::setenv("HF_HUB_CACHE", "/elsewhere", 1);
    EXPECT_EQ(cache_root(), "/elsewhere");
    ::unsetenv("HF_HUB_CACHE");
    ::unsetenv("HF_HOME");
    ::setenv("XDG_CACHE_HOME", "/x", 1);
    EXPECT_EQ(cache_root(), "/x/huggingface/hub");
}

TEST_F(HubCache, AnIdIsTheSnapshotThatMainNames) {
    const Path first = snapshot("aaaa");
    snapshot("bbbb");
    make_directories(model_cache(root, "org/name") / "refs").value();
    write_file_atomically(model_cache(root, "org/name") / "refs/main", "aaaa").value();
    EXPECT_EQ(find_model("org/name").value(), first);
}

TEST_F(HubCache, WithoutMainTheNewestSnapshotIsTaken) {
    const Path old = snapshot("aaaa");
    const Path fresh = snapshot("bbbb");
    fs::last_write_time(old, fs::last_write_time(fresh) - std::chrono::hours(1));
    fs::create_directories(model_cache(root, "org/name") / "snapshots/cccc");  // nothing in it
    EXPECT_EQ(find_model("org/name").value(), fresh);
    make_directories(model_cache(root, "org/name") / "refs").value();
    for (const char* bad : {"../../x", "dddd", ""}) {
        write_file_atomically(model_cache(root, "org/name") / "refs/main", std::string_view(bad)).value();
        EXPECT_EQ(find_model("org/name").value(), fresh) << bad;
    }
}

TEST_F(HubCache, AFolderWinsAndWhatIsNowhereSaysHowToFetchIt) {
    EXPECT_EQ(find_model(folder.path()).value(), folder.path());
    EXPECT_EQ(find_model("some/longer/path").value(), "some/longer/path");
    const auto missing = find_model("org/other");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, Errc::NotFound);
    EXPECT_NE(missing.error().message.find("fedllm pull org/other"), std::string::npos)
        << missing.error().message;
}

}  // namespace
}  // namespace fedllm::hub
