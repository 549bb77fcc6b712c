#include "client/agent/version_store.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"

namespace fedllm::client::agent {
namespace {

namespace fs = std::filesystem;

class VersionStoreTest : public testing::Test {
protected:
    VersionStoreTest()
        : folder_(fs::temp_directory_path() / ("version_store." + std::to_string(::getpid()))) {
        fs::remove_all(folder_);
    }
    ~VersionStoreTest() override { fs::remove_all(folder_); }

    VersionStore store() const { return VersionStore::open(folder_).value(); }
    std::span<const std::byte> bytes(std::size_t first, std::size_t count) const {
        return std::as_bytes(std::span(text_)).subspan(first, count);
    }
    void receive_all() const {
        auto writer = store().resume(digest_, text_.size());
        ASSERT_TRUE(writer);
        ASSERT_TRUE(writer->append(writer->held(), bytes(writer->held(), text_.size() - writer->held())));
    }

    Path folder_;
    std::string text_ = "a model version's bytes";
    std::string digest_ = crypto::to_hex(crypto::sha256(text_));
};

TEST_F(VersionStoreTest, GoesOnAtTheByteAfterEveryCut) {
    for (std::size_t cut = 0; cut <= text_.size(); ++cut) {
        fs::remove_all(folder_);
        {
            auto writer = store().resume(digest_, text_.size());
            ASSERT_TRUE(writer);
            if (cut > 0) {
                ASSERT_TRUE(writer->append(0, bytes(0, cut)));
            }
            EXPECT_EQ(writer->complete(), cut == text_.size());
        }
        auto writer = store().resume(digest_, text_.size());
        ASSERT_TRUE(writer);
        EXPECT_EQ(writer->held(), cut);
        if (cut < text_.size()) {
            ASSERT_TRUE(writer->append(cut, bytes(cut, text_.size() - cut)));
        }
        EXPECT_TRUE(store().complete(digest_, text_.size()));
        const auto path = store().verify(digest_);
        ASSERT_TRUE(path) << path.error().message;
        EXPECT_EQ(read_file(*path).value(), text_);
        EXPECT_TRUE(store().verify(digest_)) << "again, without the partial file";
    }
}

TEST_F(VersionStoreTest, RefusesGapsRepetitionsAndMoreThanAnnounced) {
    auto writer = store().resume(digest_, text_.size());
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->append(0, bytes(0, 5)));
    EXPECT_EQ(writer->append(6, bytes(6, 1)).error().code, Errc::OutOfOrder);
    EXPECT_EQ(writer->append(4, bytes(4, 1)).error().code, Errc::OutOfOrder);
    std::vector<std::byte> more(text_.size() - 5 + 1);
    EXPECT_EQ(writer->append(5, more).error().code, Errc::TooLarge);
    EXPECT_EQ(writer->held(), 5u);
}

TEST_F(VersionStoreTest, OtherBytesAreRemoved) {
    text_[3] ^= 1;
    receive_all();
    const auto path = store().verify(digest_);
    ASSERT_FALSE(path);
    EXPECT_EQ(path.error().code, Errc::DigestMismatch);
    EXPECT_FALSE(store().complete(digest_, text_.size()));
    EXPECT_EQ(store().resume(digest_, text_.size())->held(), 0u);
}

TEST_F(VersionStoreTest, StepsAreHashedAndStayForAnotherTry) {
    receive_all();
    EXPECT_TRUE(store().map_received(digest_));
    EXPECT_FALSE(store().held(digest_)) << "it is no version";
    text_[3] ^= 1;
    fs::remove_all(folder_);
    receive_all();
    EXPECT_EQ(store().map_received(digest_).error().code, Errc::DigestMismatch);
}

TEST_F(VersionStoreTest, WhatIsMadeHereIsKeptOnlyIfItIsTheVersion) {
    tensor::ParamSet params(*tensor::Manifest::create({{"a", {3}}}));
    const Path file = folder_ / "elsewhere";
    ASSERT_TRUE(make_directories(folder_));
    ASSERT_TRUE(formats::write_param_set(file, params));
    const std::string digest = crypto::to_hex(crypto::sha256(*read_file(file)));
    fs::remove(file);
    ASSERT_TRUE(store().resume(digest, 50)->append(0, bytes(0, 10)));
    params.values()[1] = 1;
    EXPECT_EQ(store().add(digest, params).error().code, Errc::DigestMismatch);
    EXPECT_FALSE(store().held(digest));
    EXPECT_EQ(store().resume(digest, 50)->held(), 10u) << "what was fetched of it is not lost";
    params.values()[1] = 0;
    EXPECT_TRUE(store().add(digest, params));
    EXPECT_TRUE(store().held(digest));
}

TEST_F(VersionStoreTest, APartialFileThatIsTooLongBeginsAnew) {
    receive_all();
    EXPECT_EQ(store().resume(digest_, text_.size() - 1)->held(), 0u);
}

TEST_F(VersionStoreTest, KeepsTheNewestVersions) {
    ASSERT_TRUE(make_directories(folder_));
    const auto now = fs::file_time_type::clock::now();
    for (int age = 0; age < 5; ++age) {
        const Path path = folder_ / std::string("v").append(std::to_string(age)).append(".safetensors");
        ASSERT_TRUE(write_file_atomically(path, "x"));
        fs::last_write_time(path, now - std::chrono::hours(age));
    }
    ASSERT_TRUE(write_file_atomically(folder_ / "other.part", "x"));
    ASSERT_TRUE(write_file_atomically(folder_ / "v9.part", "x"));
    ASSERT_TRUE(write_file_atomically(folder_ / "v9.made.tmp17", "x"));
    store().prune(3, {"v9", "v4"});
    EXPECT_TRUE(fs::exists(folder_ / "v0.safetensors"));
    EXPECT_TRUE(fs::exists(folder_ / "v1.safetensors"));
    EXPECT_FALSE(fs::exists(folder_ / "v2.safetensors"));
    EXPECT_TRUE(fs::exists(folder_ / "v9.part")) << "it is the third";
    EXPECT_TRUE(fs::exists(folder_ / "v4.safetensors")) << "old, but needed";
    EXPECT_FALSE(fs::exists(folder_ / "other.part"));
    EXPECT_FALSE(fs::exists(folder_ / "v9.made.tmp17")) << "of a crash";
    store().prune(1, {"v1"});
    EXPECT_TRUE(fs::exists(folder_ / "v1.safetensors"));
    EXPECT_FALSE(fs::exists(folder_ / "v0.safetensors"));
}

}  // namespace
}  // namespace fedllm::client::agent
