#include "server/ingest/spool.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <iterator>

#include "tests/support/temp_dir.hpp"

namespace fedllm::server::ingest {
namespace {

using test::TempDir;

const TaskId kTask("j1/0/site-a");

std::vector<std::byte> content(std::size_t n) {
    std::vector<std::byte> bytes(n);
    for (std::size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(i * 7 + 3);
    return bytes;
}
std::string digest_of(std::span<const std::byte> bytes) { return crypto::to_hex(crypto::sha256(bytes)); }
Result<void> ignore(std::span<const std::byte>) { return {}; }

std::size_t files_in(const Path& folder) {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
        count += entry.is_regular_file() ? 1 : 0;
    }
    return count;
}

class SpoolTest : public ::testing::Test {
protected:
    Spool spool() const { return *Spool::open(dir_.path()); }
    Path folder() const { return dir_.path() / "spool"; }
    void set_content(std::size_t bytes) {
        bytes_ = content(bytes);
        digest_ = digest_of(bytes_);
    }
    void set_part(std::size_t bytes) const {
        const Path update = spool().update_path(kTask, digest_);
        const Path part = folder() / "parts" / update.filename().replace_extension(".abcdef.part");
        std::ofstream(part, std::ios::binary)
            .write(reinterpret_cast<const char*>(bytes_.data()), static_cast<long>(bytes));
    }

    TempDir dir_;
    std::vector<std::byte> bytes_ = content(96);
    std::string digest_ = digest_of(bytes_);
};

TEST_F(SpoolTest, WholeUploadBecomesAnUpdateFile) {
    auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    EXPECT_EQ(upload.held(), 0u);
    ASSERT_TRUE(upload.append(std::span(bytes_).first(40)));
    ASSERT_TRUE(upload.append(std::span(bytes_).subspan(40)));
    ASSERT_TRUE(upload.commit());
    const auto file = spool().open_update(kTask, digest_, bytes_.size());
    ASSERT_TRUE(file);
    EXPECT_EQ(digest_of(file->bytes()), digest_);
    EXPECT_EQ(files_in(folder()), 1u);
    EXPECT_EQ(spool().open_update(kTask, digest_, 95).error().code, Errc::InvalidFile);
    EXPECT_EQ(spool().open_update(TaskId("j1/0/site-b"), digest_, 96).error().code, Errc::NotFound);
}

// The process may die after any byte: the next one resumes there, and the file is the same.
TEST_F(SpoolTest, ResumesAfterTruncationAtEveryByte) {
    for (std::size_t cut = 0; cut <= bytes_.size(); ++cut) {
        set_part(cut);
        std::vector<std::byte> replayed;
        auto upload = *spool().begin(kTask, digest_, bytes_.size(), [&](std::span<const std::byte> part) {
            replayed.insert(replayed.end(), part.begin(), part.end());
            return Result<void>();
        });
        ASSERT_EQ(upload.held(), cut);
        EXPECT_EQ(upload.resumed(), cut > 0);
        EXPECT_TRUE(std::equal(replayed.begin(), replayed.end(), bytes_.begin()) && replayed.size() == cut);
        ASSERT_TRUE(upload.append(std::span(bytes_).subspan(cut)));
        ASSERT_TRUE(upload.commit()) << "cut at " << cut;
        EXPECT_EQ(digest_of(spool().open_update(kTask, digest_, 96)->bytes()), digest_);
        ASSERT_TRUE(spool().remove(std::span(&kTask, 1)));
        EXPECT_EQ(files_in(folder()), 0u);
    }
}

TEST_F(SpoolTest, ReadsBackWhatItTookOrSaysThatItCannot) {
    auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    ASSERT_TRUE(upload.append(std::span(bytes_).first(40)));
    std::vector<std::byte> read;
    const auto keep = [&](std::span<const std::byte> part) {
        read.insert(read.end(), part.begin(), part.end());
        return Result<void>();
    };
    ASSERT_TRUE(upload.read_back(keep));
    EXPECT_TRUE(std::equal(read.begin(), read.end(), bytes_.begin()) && read.size() == 40);
    ASSERT_TRUE(upload.append(std::span(bytes_).subspan(40)));
    ASSERT_TRUE(upload.commit());
    ASSERT_TRUE(upload.read_back(ignore)) << "after the commit too";
    std::fstream file(spool().update_path(kTask, digest_), std::ios::in | std::ios::out | std::ios::binary);
    file.put('x').flush();
    EXPECT_EQ(upload.read_back(ignore).error().code, Errc::DigestMismatch);
}

// Blocks go past the cache and their rest through it: whatever the pieces are, whenever it is read back or
// left, the file has the bytes in their places.
TEST_F(SpoolTest, LargeUploadsKeepTheirBytesInAnyPieces) {
    set_content(3 * kBlockBytes + 4096 + 5);
    for (const std::size_t piece : {kBlockBytes, kBlockBytes / 2 + 4096, 3 * kBlockBytes, 77'777UL}) {
        const auto send = [&](Upload& upload, std::size_t end) {
            while (upload.held() < end) {
                const std::size_t next = std::min<std::size_t>(piece, end - upload.held());
                ASSERT_TRUE(upload.append(std::span(bytes_).subspan(upload.held(), next)));
            }
        };
        const std::size_t cut = kBlockBytes + 12'345;
        {
            auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
            send(upload, cut);
            ASSERT_TRUE(upload.read_back(ignore)) << piece;
        }
        auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
        ASSERT_EQ(upload.held(), cut) << "what was in memory is in the file when an upload is left";
        send(upload, bytes_.size());
        ASSERT_TRUE(upload.read_back(ignore)) << piece;
        ASSERT_TRUE(upload.commit()) << piece;
        ASSERT_TRUE(upload.read_back(ignore)) << piece;
        EXPECT_TRUE(spool().open_update(kTask, digest_, bytes_.size())) << piece;
        ASSERT_TRUE(spool().remove(std::span(&kTask, 1)));
    }
}

// What was taken before a block could not be written can still be read back, to be withdrawn from a sum.
TEST_F(SpoolTest, AFullDiskLosesNothingThatWasTaken) {
    set_content(2 * kBlockBytes);
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    const rlimit full{kBlockBytes + 4096, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &full), 0);
    ASSERT_TRUE(upload.append(std::span(bytes_).first(kBlockBytes + 5)));
    const auto written = upload.append(std::span(bytes_).subspan(upload.held()));
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_EQ(written.error().code, Errc::IoFailed);
    EXPECT_EQ(upload.held(), kBlockBytes + 5);
    std::vector<std::byte> read;
    ASSERT_TRUE(upload.read_back([&](std::span<const std::byte> part) {
        read.insert(read.end(), part.begin(), part.end());
        return Result<void>();
    }));
    EXPECT_TRUE(std::equal(read.begin(), read.end(), bytes_.begin()) && read.size() == kBlockBytes + 5);
    ASSERT_TRUE(upload.append(std::span(bytes_).subspan(upload.held())));
    EXPECT_TRUE(upload.commit());
}

// The same of whole blocks, which are hashed beside being written: here before it.
TEST_F(SpoolTest, WhatWasHashedAndNotWrittenWasNotTaken) {
    set_content(2 * kBlockBytes);
    DiskMemory memory(bytes_.size());
    std::copy(bytes_.begin(), bytes_.end(), memory.bytes().begin());
    const std::span<const std::byte> bytes = memory.bytes();
    Spool opened = spool();
    int both = 0;
    opened.set_in_parts([&](std::size_t count, const std::function<void(std::size_t)>& each) {
        EXPECT_EQ(count, 2u);
        ++both;
        each(1);
        each(0);
    });
    auto upload = *opened.begin(kTask, digest_, bytes.size(), ignore);
    ASSERT_TRUE(upload.append(bytes.first(kBlockBytes)));
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const rlimit full{kBlockBytes, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &full), 0);
    const auto written = upload.append(bytes.subspan(kBlockBytes));
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_EQ(written.error().code, Errc::IoFailed);
    EXPECT_EQ(upload.held(), kBlockBytes);
    EXPECT_TRUE(upload.read_back(ignore));
    ASSERT_TRUE(upload.append(bytes.subspan(kBlockBytes)));
    EXPECT_TRUE(upload.commit());
    EXPECT_EQ(both, 3);
}

TEST_F(SpoolTest, LeavingAnUploadKeepsItsBytes) {
    {
        auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
        ASSERT_TRUE(upload.append(std::span(bytes_).first(41)));
        EXPECT_EQ(upload.commit().error().code, Errc::OutOfOrder);
    }
    EXPECT_EQ(spool().begin(kTask, digest_, bytes_.size(), ignore)->held(), 41u);
}

// A crash between the rename and the ledger's row: the update is complete, and is offered again.
TEST_F(SpoolTest, CommittedFileIsFoundCompleteAndCommitsAgain) {
    {
        auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
        ASSERT_TRUE(upload.append(bytes_));
        ASSERT_TRUE(upload.commit());
    }
    auto again = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    EXPECT_EQ(again.held(), bytes_.size());
    EXPECT_TRUE(again.commit());
    EXPECT_TRUE(spool().open_update(kTask, digest_, bytes_.size()));
}

TEST_F(SpoolTest, WrongBytesAreRefusedAndGone) {
    auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    bytes_[17] ^= std::byte{1};
    ASSERT_TRUE(upload.append(bytes_));
    EXPECT_EQ(upload.commit().error().code, Errc::DigestMismatch);
    EXPECT_EQ(files_in(folder()), 0u);
}

TEST_F(SpoolTest, RefusesMoreBytesThanAnnounced) {
    auto upload = *spool().begin(kTask, digest_, 95, ignore);
    EXPECT_EQ(upload.append(bytes_).error().code, Errc::TooLarge);
    EXPECT_EQ(upload.held(), 0u);
}

TEST_F(SpoolTest, LeftoversThatCannotBeThisUploadAreDeleted) {
    set_part(96);
    EXPECT_EQ(spool().begin(kTask, digest_, 95, ignore).error().code, Errc::TooLarge);
    EXPECT_EQ(files_in(folder()), 0u);
    set_part(50);
    const auto refuse = [](std::span<const std::byte>) {
        return Result<void>(make_error(Errc::NotFinite, "bad"));
    };
    EXPECT_EQ(spool().begin(kTask, digest_, 96, refuse).error().code, Errc::NotFinite);
    EXPECT_EQ(spool().begin(kTask, digest_, 96, refuse)->held(), 0u);
}

TEST_F(SpoolTest, NamesComeFromCheckedDigestsOnly) {
    for (const std::string bad : {"", "../../etc/passwd", "zz", "ab/cd"}) {
        EXPECT_EQ(spool().begin(kTask, bad, 1, ignore).error().code, Errc::Malformed);
    }
    const auto path = spool().update_path(TaskId("../../x"), digest_);
    EXPECT_EQ(path.parent_path(), folder());
}

TEST_F(SpoolTest, PruneKeepsWhatTheLedgerCounts) {
    const TaskId other("j1/0/site-b");
    for (const TaskId& task : {kTask, other}) {
        auto upload = *spool().begin(task, digest_, bytes_.size(), ignore);
        ASSERT_TRUE(upload.append(bytes_));
        ASSERT_TRUE(upload.commit());
    }
    ASSERT_TRUE(spool().begin(TaskId("j1/0/site-c"), digest_, bytes_.size(), ignore));
    ASSERT_TRUE(spool().prune({spool().update_path(kTask, digest_)}, Spool::Parts::Keep));
    EXPECT_EQ(files_in(folder()), 2u);
    ASSERT_TRUE(spool().prune({spool().update_path(kTask, digest_)}, Spool::Parts::Delete));
    EXPECT_EQ(files_in(folder()), 1u);
    EXPECT_TRUE(spool().open_update(kTask, digest_, bytes_.size()));
}

// One identity, two connections: what the replaced one still writes cannot reach the bytes that were judged.
TEST_F(SpoolTest, ReplacedConnectionCannotTouchTheNewOnesBytes) {
    set_content(kBlockBytes + 96);
    auto old_one = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    ASSERT_TRUE(old_one.append(std::span(bytes_).first(kBlockBytes + 40)));
    auto new_one = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    ASSERT_EQ(new_one.held(), kBlockBytes) << "what the old one has in memory is sent again";
    ASSERT_TRUE(new_one.append(std::span(bytes_).subspan(kBlockBytes)));
    ASSERT_TRUE(new_one.commit());
    ASSERT_TRUE(old_one.append(std::vector<std::byte>(56, std::byte{0xFF})));
    EXPECT_FALSE(old_one.commit());
    EXPECT_TRUE(spool().open_update(kTask, digest_, bytes_.size()));
    // A third one finds the update complete; what it does wrong cannot delete it.
    auto third = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    EXPECT_EQ(third.append(bytes_).error().code, Errc::TooLarge);
    ASSERT_TRUE(third.discard());
    EXPECT_TRUE(spool().open_update(kTask, digest_, bytes_.size()));
}

TEST_F(SpoolTest, DamagedUpdateIsNeverReadAndIsSentAgain) {
    {
        auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
        ASSERT_TRUE(upload.append(bytes_));
        ASSERT_TRUE(upload.commit());
    }
    std::fstream file(spool().update_path(kTask, digest_), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(33);
    file.put('!');
    file.flush();
    EXPECT_EQ(spool().open_update(kTask, digest_, bytes_.size()).error().code, Errc::DigestMismatch);
    auto again = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    EXPECT_EQ(again.held(), 0u);
    ASSERT_TRUE(again.append(bytes_));
    ASSERT_TRUE(again.commit());
    EXPECT_TRUE(spool().open_update(kTask, digest_, bytes_.size()));
}

// A full disk, played by a limit on the size of files: an error that names the file; what was written stays,
// and the upload goes on once there is room.
TEST_F(SpoolTest, FullDiskIsAnErrorAndTheUploadGoesOnLater) {
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    {
        auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
        const rlimit full{50, before.rlim_max};
        ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &full), 0);
        ASSERT_TRUE(upload.append(bytes_));
        const auto written = upload.commit();
        ASSERT_FALSE(written);
        EXPECT_EQ(written.error().code, Errc::IoFailed);
        EXPECT_NE(written.error().message.find(".part"), std::string::npos);
    }
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    auto upload = *spool().begin(kTask, digest_, bytes_.size(), ignore);
    EXPECT_EQ(upload.held(), 50u);
    ASSERT_TRUE(upload.append(std::span(bytes_).subspan(50)));
    EXPECT_TRUE(upload.commit());
}

// The folder cannot be written any more: the error names it.
TEST_F(SpoolTest, LostFolderIsAnErrorThatNamesIt) {
    const Spool opened = spool();
    std::filesystem::remove_all(folder());
    Spool copy = opened;
    const auto begun = copy.begin(kTask, digest_, bytes_.size(), ignore);
    ASSERT_FALSE(begun);
    EXPECT_EQ(begun.error().code, Errc::IoFailed);
    EXPECT_NE(begun.error().message.find(folder().string()), std::string::npos);
}

}  // namespace
}  // namespace fedllm::server::ingest
