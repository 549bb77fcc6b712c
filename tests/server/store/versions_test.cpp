#include "server/store/versions.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>
#include <limits>

#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"
#include "common/formats/safetensors.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::store {
namespace {

using test::TempDir;

tensor::ParamSet some_params() {
    tensor::ParamSet params(
        *tensor::Manifest::create({{"b.lora_A.weight", {2, 3}}, {"a.lora_B.weight", {3, 2}}}));
    float next = 0.5f;
    for (float& value : params.values()) value = next *= -1.25f;
    return params;
}

std::size_t files_in(const Path& folder) {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

class VersionsTest : public ::testing::Test {
protected:
    Versions versions() const { return *Versions::open(dir_.path()); }
    Path folder() const { return dir_.path() / "versions"; }
    TempDir dir_;
};

TEST_F(VersionsTest, SameSetGivesTheSameFileNamedByItsHash) {
    const auto file = versions().write(some_params());
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(versions().write(some_params())->digest, file->digest);
    EXPECT_EQ(files_in(folder()), 1u);
    const auto bytes = versions().map(file->digest);
    ASSERT_TRUE(bytes);
    EXPECT_EQ(bytes->bytes().size(), file->bytes);
    EXPECT_EQ(crypto::to_hex(crypto::sha256(bytes->bytes())), file->digest);
    EXPECT_EQ(*versions().read(file->digest), some_params());
}

TEST_F(VersionsTest, ChangedBytesAreNeverRead) {
    const auto file = *versions().write(some_params());
    const Path path = versions().path_of(file.digest);
    for (std::uint64_t at = 0; at < file.bytes; ++at) {
        std::fstream damaged(path, std::ios::in | std::ios::out | std::ios::binary);
        damaged.seekg(static_cast<long>(at));
        const char before = static_cast<char>(damaged.get());
        damaged.seekp(static_cast<long>(at));
        damaged.put(static_cast<char>(before ^ 0x20));
        damaged.flush();
        ASSERT_EQ(versions().map(file.digest).error().code, Errc::DigestMismatch) << "byte " << at;
        damaged.seekp(static_cast<long>(at));
        damaged.put(before);
    }
    EXPECT_TRUE(versions().read(file.digest));
    std::filesystem::resize_file(path, file.bytes - 1);
    EXPECT_EQ(versions().read(file.digest).error().code, Errc::DigestMismatch);
}

TEST_F(VersionsTest, AdoptsAnUploadAfterJudgingIt) {
    const Path upload = dir_.path() / "upload";
    ASSERT_TRUE(formats::write_param_set(upload, some_params()));
    const auto digest = crypto::to_hex(crypto::sha256(*read_file(upload)));
    EXPECT_EQ(versions().adopt(upload, std::string(64, '0')).error().code, Errc::DigestMismatch);
    ASSERT_TRUE(versions().adopt(upload, digest));
    EXPECT_FALSE(std::filesystem::exists(upload));
    EXPECT_EQ(*versions().read(digest), some_params());
}

TEST_F(VersionsTest, WhatNobodyNamesIsPrunedAndNothingElse) {
    const Versions all = versions();
    VersionRow named;
    named.digest = all.write(some_params())->digest;
    named.encoded_digest = all.write(Attachment::Step, std::as_bytes(std::span("a step")))->digest;
    named.residual_digest = all.write(Attachment::Residual, std::as_bytes(std::span("left")))->digest;
    for (const auto kind : {Attachment::Step, Attachment::Residual}) {
        ASSERT_TRUE(all.write(kind, std::as_bytes(std::span("another"))));
    }
    ASSERT_TRUE(write_file_atomically(all.path_of(std::string(64, 'a')), std::string_view("a version")));
    ASSERT_TRUE(write_file_atomically(folder() / "README", std::string_view("an operator's note")));
    const Path copy = folder() / (std::string(64, 'a') + ".copy");
    ASSERT_TRUE(write_file_atomically(copy, std::string_view("an operator's, too")));
    const auto paths = all.paths_of(named);
    ASSERT_TRUE(all.prune({paths.begin(), paths.end()}));
    for (const Path& path : paths) EXPECT_TRUE(std::filesystem::exists(path)) << path;
    EXPECT_TRUE(std::filesystem::exists(folder() / "README"));
    EXPECT_TRUE(std::filesystem::exists(copy));
    EXPECT_EQ(files_in(folder()), 5u);
}

// Bytes that this process may change: what RLIMIT_DATA limits.
std::uint64_t data_bytes() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        std::uint64_t kilobytes = 0;
        if (word == "VmData:" && status >> kilobytes) return kilobytes << 10;
    }
    return 0;
}

TEST_F(VersionsTest, AdoptingTakesNoMemoryOfTheModelsSize) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer's own memory counts too";
#endif
    const Path upload = dir_.path() / "upload";
    const auto header = *formats::param_set_header(*tensor::Manifest::create({{"x", {16 << 20}}}));
    ASSERT_TRUE(write_file_atomically(upload, header));
    std::filesystem::resize_file(upload, header.size() + (std::uint64_t{64} << 20));
    const auto digest = crypto::to_hex(crypto::sha256(MappedFile::open(upload)->bytes()));
    const auto adopt_in_little = [&] {
        const rlim_t most = data_bytes() + (std::uint64_t{16} << 20);
        const rlimit limit{most, most};
        const bool limited = ::setrlimit(RLIMIT_DATA, &limit) == 0;
        std::exit(limited && versions().adopt(upload, digest) ? 0 : 1);
    };
    EXPECT_EXIT(adopt_in_little(), ::testing::ExitedWithCode(0), "");
}

TEST_F(VersionsTest, RefusesUploadsThatAreNoParamSet) {
    const auto refusal = [&](const Path& file) {
        const auto digest = crypto::to_hex(crypto::sha256(*read_file(file)));
        const auto result = versions().adopt(file, digest);
        return result ? Errc::Internal : result.error().code;
    };
    const Path file = dir_.path() / "upload";
    std::ofstream(file) << std::string("\x02\0\0\0\0\0\0\0[]", 10);  // a header that is no object
    EXPECT_EQ(refusal(file), Errc::InvalidFile);

    const std::vector<std::byte> half(4);
    ASSERT_TRUE(formats::write_safetensors(
        file, std::vector<formats::TensorToWrite>{{"x", tensor::DType::F16, {2}, half}}));
    EXPECT_EQ(refusal(file), Errc::ManifestMismatch);

    auto broken = some_params();
    broken.values()[7] = std::numeric_limits<float>::infinity();
    ASSERT_TRUE(formats::write_param_set(file, broken));
    EXPECT_EQ(refusal(file), Errc::NotFinite);
    EXPECT_EQ(files_in(folder()), 0u);
}

TEST_F(VersionsTest, AttachmentsAreNamedAndCheckedAsVersionsAre) {
    std::vector<std::byte> bytes(100, std::byte{7});
    const auto step = *versions().write(Attachment::Step, bytes);
    EXPECT_EQ(*versions().write(Attachment::Step, bytes), step) << "again, after a crash";
    const auto residual = *versions().write(Attachment::Residual, bytes);
    EXPECT_EQ(step.digest, crypto::to_hex(crypto::sha256(bytes)));
    EXPECT_EQ(step, residual);
    EXPECT_EQ(files_in(folder()), 2u) << "a kind each, and nothing temporary";
    EXPECT_EQ(versions().map(Attachment::Step, step.digest)->bytes().size(), 100u);
    EXPECT_EQ(versions().map(step.digest).error().code, Errc::NotFound) << "it is no version";
    versions().remove(Attachment::Residual, residual.digest);
    EXPECT_EQ(versions().map(Attachment::Residual, residual.digest).error().code, Errc::NotFound);
    EXPECT_TRUE(versions().map(Attachment::Step, step.digest));
    std::ofstream(versions().path_of(Attachment::Step, step.digest)) << "other bytes";
    EXPECT_EQ(versions().map(Attachment::Step, step.digest).error().code, Errc::DigestMismatch);
    EXPECT_EQ(versions().map(Attachment::Step, "../ledger").error().code, Errc::NotFound);
}

TEST_F(VersionsTest, LeftoversOfACrashAreSweptAndNamesAreChecked) {
    std::filesystem::create_directories(folder());
    std::ofstream(folder() / "writing-abcdef") << "half a version";
    EXPECT_TRUE(versions().write(some_params()));
    EXPECT_EQ(files_in(folder()), 1u);
    EXPECT_EQ(versions().map("../ledger").error().code, Errc::NotFound);
    EXPECT_EQ(versions().map(std::string(64, 'f')).error().code, Errc::NotFound);
}

}  // namespace
}  // namespace fedllm::server::store
