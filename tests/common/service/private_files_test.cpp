#include "common/service/private_files.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/support/temp_dir.hpp"

namespace fedllm::service {
namespace {

mode_t mode_of(const Path& path) {
    struct stat facts {};
    EXPECT_EQ(::stat(path.c_str(), &facts), 0) << path;
    return facts.st_mode & 0777;
}

TEST(PrivateFiles, WhatIsMadeAndWhatWasThereAreOursAlone) {
    const mode_t before = ::umask(0022);
    const test::TempDir folder;
    const Path state = folder.path() / "state", later = folder.path() / "later";
    ASSERT_TRUE(make_directories(state));
    EXPECT_EQ(mode_of(state), 0755u);
    EXPECT_TRUE(keep_private(state));
    EXPECT_EQ(mode_of(state), 0700u);
    EXPECT_TRUE(keep_private(later)) << "not there yet";
    ASSERT_TRUE(make_directories(later / "versions"));
    ASSERT_TRUE(write_file_atomically(later / "file", std::string_view("x")));
    EXPECT_EQ(mode_of(later), 0700u);
    EXPECT_EQ(mode_of(later / "versions"), 0700u);
    EXPECT_EQ(mode_of(later / "file") & 0077u, 0u);
    ::umask(before);
}

}  // namespace
}  // namespace fedllm::service
