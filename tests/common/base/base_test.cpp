#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "common/base/files.hpp"
#include "common/base/ids.hpp"
#include "common/base/memory.hpp"
#include "common/base/philox.hpp"
#include "common/base/text.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm {
namespace {

// The known answers of the Random123 distribution (kat_vectors, philox4x32-10).
TEST(Philox, MatchesThePublishedVectors) {
    using Block = std::array<std::uint32_t, 4>;
    EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
              (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, StreamsAreReproducibleAndApart) {
    Rng a(7, "init/q_proj");
    Rng b(7, "init/q_proj");
    Rng other_stream(7, "init/k_proj");
    Rng other_seed(8, "init/q_proj");
    int equal_stream = 0;
    int equal_seed = 0;
    for (int i = 0; i < 1000; ++i) {
        const auto value = a.next_u64();
        EXPECT_EQ(value, b.next_u64());
        equal_stream += value == other_stream.next_u64();
        equal_seed += value == other_seed.next_u64();
    }
    EXPECT_EQ(equal_stream, 0);
    EXPECT_EQ(equal_seed, 0);
    EXPECT_NE(Rng(7, 1).next_u64(), Rng(7, 2).next_u64()) << "streams with numbers, such as a row's";
    EXPECT_NE(Rng(7, std::uint64_t{1} << 32).next_u64(), Rng(7, std::uint64_t{2} << 32).next_u64());
}

TEST(Rng, BelowIsUniformAndInRange) {
    Rng rng(1, "below");
    std::array<int, 6> counts{};
    constexpr int kDraws = 60'000;
    for (int i = 0; i < kDraws; ++i) ++counts.at(rng.below(6));
    // Five sigma of a binomial with p = 1/6.
    for (const int count : counts) EXPECT_NEAR(count, kDraws / 6, 5 * std::sqrt(kDraws * 5.0 / 36.0));
}

TEST(Rng, NormalHasMeanZeroAndVarianceOne) {
    Rng rng(3, "normal");
    constexpr int kDraws = 100'000;
    double sum = 0;
    double squares = 0;
    for (int i = 0; i < kDraws; ++i) {
        const double value = rng.normal();
        sum += value;
        squares += value * value;
    }
    EXPECT_NEAR(sum / kDraws, 0.0, 5 / std::sqrt(kDraws));
    EXPECT_NEAR(squares / kDraws, 1.0, 5 * std::sqrt(2.0 / kDraws));
}

TEST(Result, CarriesValueOrError) {
    const auto half = [](int number) -> Result<int> {
        if (number % 2) return make_error(Errc::InvalidArgument, std::to_string(number) + " is odd");
        return number / 2;
    };
    const auto quarter = [&](int number) -> Result<int> {
        FEDLLM_TRY(const int first, half(number));
        return half(first);
    };
    EXPECT_EQ(quarter(12).value(), 3);
    EXPECT_EQ(quarter(6).error(), (Error{Errc::InvalidArgument, "3 is odd"}));
    EXPECT_DEATH({ [[maybe_unused]] auto value = quarter(6).value(); }, "3 is odd");
}

TEST(Result, EveryCodeHasItsOwnNameAndASentence) {
    std::map<std::string_view, int> names;
    for (int code = 0; code <= static_cast<int>(Errc::Cancelled); ++code) {
        ++names[name(static_cast<Errc>(code))];
        EXPECT_GT(describe(static_cast<Errc>(code)).size(), 10u);
    }
    EXPECT_EQ(names.size(), static_cast<std::size_t>(Errc::Cancelled) + 1);
}

TEST(Files, AtomicWriteReplacesWhollyAndKeepsSecretsPrivate) {
    const test::TempDir dir;
    const Path file = dir.path() / "a.txt";
    ASSERT_TRUE(write_file_atomically(file, "first"));
    ASSERT_TRUE(write_file_atomically(file, "second"));
    EXPECT_EQ(read_file(file).value(), "second");
    ASSERT_TRUE(write_file_atomically(dir.path() / "key", "secret", FileMode::Secret));
    struct stat status {};
    ASSERT_EQ(::stat((dir.path() / "key").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    // No temporary file stays behind.
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2);
}

TEST(Files, ErrorsNameTheFile) {
    const auto missing = read_file("no/such/file");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, Errc::NotFound);
    EXPECT_NE(missing.error().message.find("no/such/file"), std::string::npos);

    const test::TempDir dir;
    ASSERT_TRUE(write_file_atomically(dir.path() / "big", std::string(100, 'x')));
    EXPECT_EQ(read_file(dir.path() / "big", 99).error().code, Errc::TooLarge);
    EXPECT_EQ(read_file(dir.path()).error().code, Errc::InvalidFile);
    EXPECT_FALSE(write_file_atomically("/proc/nowhere/file", "x"));
}

TEST(Files, AWritableMapIsTheFile) {
    const test::TempDir dir;
    const Path temporary = dir.path() / "a.tmp", file = dir.path() / "a";
    auto map = WritableMap::create(temporary, 10'000);
    ASSERT_TRUE(map) << map.error().message;
    ASSERT_EQ(map->bytes().size(), 10'000u);
    map->bytes().back() = std::byte{7};
    ASSERT_TRUE(commit_file(temporary, file));
    const auto read = MappedFile::open(file);
    ASSERT_TRUE(read);
    ASSERT_EQ(read->bytes().size(), 10'000u);
    EXPECT_EQ(read->bytes().front(), std::byte{0});
    EXPECT_EQ(read->bytes().back(), std::byte{7});
}

TEST(Disk, KeepsAnOpenFileWhateverBecomesOfItsName) {
    const test::TempDir dir;
    auto made = disk().create_unique(dir.path() / "up.", ".part");
    ASSERT_TRUE(made) << made.error().message;
    EXPECT_TRUE(made->path.filename().string().starts_with("up."));
    EXPECT_EQ(made->path.extension(), ".part");
    const std::string text = "abcdef";
    ASSERT_TRUE(made->file->write(0, std::as_bytes(std::span(text))));
    ASSERT_TRUE(disk().rename(made->path, dir.path() / "b"));
    EXPECT_FALSE(disk().find(made->path).value());
    ASSERT_TRUE(disk().remove(dir.path() / "b"));
    ASSERT_TRUE(disk().remove(dir.path() / "b")) << "what is not there need not be removed";
    ASSERT_TRUE(disk().make_directory(dir.path() / "folder"));
    write_file_atomically(dir.path() / "folder" / "c", std::string_view("c")).value();
    EXPECT_FALSE(disk().remove(dir.path() / "folder")) << "it is not empty";
    ASSERT_TRUE(disk().remove(dir.path() / "folder" / "c"));
    ASSERT_TRUE(disk().remove(dir.path() / "folder"));
    EXPECT_FALSE(disk().find(dir.path() / "folder").value());
    std::array<char, 4> read{};
    EXPECT_EQ(made->file->read(4, std::as_writable_bytes(std::span(read))).value(), 2u);
    EXPECT_EQ(std::string_view(read.data(), 2), "ef");
    ASSERT_TRUE(made->file->resize(3));
    EXPECT_EQ(made->file->size().value(), 3u);
    EXPECT_TRUE(disk().list(dir.path()).value().empty());
}

TEST(Disk, TellsFilesFromFoldersAndFollowsLinks) {
    const test::TempDir dir;
    using Kind = Disk::Status::Kind;
    ASSERT_TRUE(write_file_atomically(dir.path() / "a", "four"));
    ASSERT_TRUE(make_directories(dir.path() / "x/y"));
    ASSERT_TRUE(make_directories(dir.path() / "x/y")) << "there already";
    const auto in_the_way = make_directories(dir.path() / "a/b");
    EXPECT_EQ(in_the_way.error().code, Errc::IoFailed);
    EXPECT_NE(in_the_way.error().message.find("a file has its name"), std::string::npos)
        << in_the_way.error().message;
    ASSERT_TRUE(disk().link("a", dir.path() / "l"));
    ASSERT_TRUE(disk().link("nothing", dir.path() / "dangling"));
    EXPECT_EQ(disk().find(dir.path() / "l").value()->bytes, 4u);
    EXPECT_EQ(disk().find(dir.path() / "l").value()->kind, Kind::File);
    EXPECT_EQ(disk().find(dir.path() / "x").value()->kind, Kind::Directory);
    EXPECT_FALSE(disk().find(dir.path() / "dangling").value());
    EXPECT_EQ(disk().list(dir.path()).value().size(), 4u);
}

TEST(Disk, LocksAFileForOneWhoHasItOpen) {
    const test::TempDir dir;
    auto first = disk().open(dir.path() / "lock", Disk::Open::Write);
    auto second = disk().open(dir.path() / "lock", Disk::Open::Write);
    ASSERT_TRUE(first && second);
    EXPECT_TRUE((*first)->lock().value());
    EXPECT_FALSE((*second)->lock().value());
    first->reset();
    EXPECT_TRUE((*second)->lock().value());
}

// A machine with 8 GiB free, in a group that may hold 3 GiB, of which 2 are held, half of them pages of
// files.
TEST(Memory, IsWhatTheMachineAndTheControlGroupsLeave) {
    const test::TempDir dir;
    const Path proc = dir.path() / "proc", groups = dir.path() / "groups", inner = groups / "outer/inner";
    ASSERT_TRUE(make_directories(proc / "self"));
    ASSERT_TRUE(make_directories(inner));
    const auto write = [](const Path& file, const char* text) {
        ASSERT_TRUE(write_file_atomically(file, std::string_view(text)));
    };
    write(proc / "self/status", "VmRSS:\t 2048 kB\nRssAnon:\t    1024 kB\n");
    EXPECT_EQ(memory_limit(proc, groups), 0u) << "a system that does not tell";
    write(proc / "meminfo", "MemTotal:  16777216 kB\nMemAvailable:    8388608 kB\n");
    constexpr std::size_t kMib = std::size_t{1} << 20;
    EXPECT_EQ(memory_limit(proc, groups), 8193 * kMib);
    write(proc / "self/cgroup", "9:name=systemd:/\n0::/outer/inner\n");
    write(inner / "memory.max", "max\n");
    EXPECT_EQ(memory_limit(proc, groups), 8193 * kMib);
    write(groups / "outer/memory.max", "3221225472\n");
    write(groups / "outer/memory.current", "2147483648\n");
    write(groups / "outer/memory.stat", "anon 1073741824\nfile 1073741824\n");
    EXPECT_EQ(memory_limit(proc, groups), (2048 + 1) * kMib);
    EXPECT_GT(memory_limit(), 64 * kMib) << "of this machine";
}

TEST(Text, FindsTheNearestNameButNotAFarOne) {
    const std::array<std::string_view, 3> known{"listen.port", "listen.address", "tls.ca"};
    EXPECT_EQ(nearest_name("listen.prot", known), "listen.port");
    EXPECT_EQ(nearest_name("tls.cA", known), "tls.ca");
    EXPECT_EQ(nearest_name("colour", known), "");
    EXPECT_EQ(format_bytes(1536), "1.5 KiB");
    EXPECT_EQ(format_bytes(12), "12 B");
}

}  // namespace
}  // namespace fedllm
