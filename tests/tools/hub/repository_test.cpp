#include "tools/hub/repository.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace fedllm::tools::hub {
namespace {

using nlohmann::json;

const std::string kSha1(40, 'a');
const std::string kSha256(64, 'b');

json listing(const json& siblings) { return {{"sha", kSha1}, {"siblings", siblings}}; }

TEST(HubRepository, ReadsFilesWithTheirHashes) {
    const json siblings{{{"rfilename", "config.json"}, {"size", 3}, {"blobId", kSha1}},
                        {{"rfilename", "a/model.safetensors"},
                         {"size", 5},
                         {"blobId", kSha1},
                         {"lfs", {{"sha256", kSha256}, {"size", 5}}}}};
    const auto repository = parse_repository(listing(siblings).dump(), "m").value();
    EXPECT_EQ(repository.commit, kSha1);
    EXPECT_EQ(repository.files[0], (RemoteFile{"config.json", 3, HashKind::GitBlob, kSha1}));
    EXPECT_EQ(repository.files[1], (RemoteFile{"a/model.safetensors", 5, HashKind::Sha256, kSha256}));
}

TEST(HubRepository, RefusesWhatCannotBeStoredSafely) {
    const json good{{"rfilename", "x"}, {"size", 3}, {"blobId", kSha1}};
    std::vector<json> bad;
    for (const char* path : {"", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".", "a\\b", "a\nb"}) {
        bad.push_back(good);
        bad.back()["rfilename"] = path;
    }
    for (const json& value : {json(), json("../../x"), json(std::string(40, 'g')), json(kSha256)}) {
        bad.push_back(good);
        bad.back()["blobId"] = value;
    }
    for (const json& value : {json(), json(-1), json(1.5), json(std::uint64_t{1} << 60)}) {
        bad.push_back(good);
        bad.back()["size"] = value;
    }
    bad.push_back(good);
    bad.back()["lfs"] = {{"size", 3}};
    bad.push_back(1);
    for (const json& entry : bad) {
        const auto made = parse_repository(listing(json::array({entry})).dump(), "m");
        ASSERT_FALSE(made) << entry;
        EXPECT_EQ(made.error().code, Errc::Malformed) << entry;
    }
    for (const char* text : {"[]", "{}", R"({"sha": "main", "siblings": []})"}) {
        EXPECT_EQ(parse_repository(text, "m").error().code, Errc::Malformed);
    }
    EXPECT_FALSE(parse_repository("{", "m"));
}

// printf abc | git hash-object --stdin; printf abc | sha256sum
TEST(HubRepository, HashesAsTheHubDoes) {
    ContentHash git(HashKind::GitBlob, 3);
    git.update("a");
    git.update("bc");
    EXPECT_EQ(git.finish(), "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f");
    ContentHash sha(HashKind::Sha256, 3);
    sha.update("abc");
    EXPECT_EQ(sha.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(HubRepository, EscapesForUrls) {
    EXPECT_EQ(url_escape("a b/ü?", Slashes::Keep), "a%20b/%C3%BC%3F");
    EXPECT_EQ(url_escape("refs/pr/1", Slashes::Encode), "refs%2Fpr%2F1");
}

}  // namespace
}  // namespace fedllm::tools::hub
