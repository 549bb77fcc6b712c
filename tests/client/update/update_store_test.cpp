#include "client/update/update_store.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "common/crypto/sha256.hpp"

namespace fedllm::client::update {
namespace {

namespace fs = std::filesystem;

class UpdateStoreTest : public testing::Test {
protected:
    UpdateStoreTest() : folder_(fs::temp_directory_path() / ("update_store." + std::to_string(::getpid()))) {
        fs::remove_all(folder_);
    }
    ~UpdateStoreTest() override { fs::remove_all(folder_); }

    UpdateStore store() const { return UpdateStore::open(folder_).value(); }
    std::ptrdiff_t files() const {
        return std::count_if(fs::directory_iterator(folder_), fs::directory_iterator(),
                             [](const auto& entry) { return entry.is_regular_file(); });
    }
    Path file(const char* extension) const { return folder_ / ("j1-3-site-a" + std::string(extension)); }

    Claim save(const UpdateStore& store) const {
        const auto bytes = std::as_bytes(std::span(text_));
        Claim claim{.digest = crypto::to_hex(crypto::sha256(bytes)),
                    .bytes = bytes.size(),
                    .samples = 12,
                    .tokens = 345,
                    .train_loss = 2.718281828459045,
                    .train_seconds = 0.1,
                    .update_norm = 1e-300,
                    .evaluation = {.loss_sum = 1e9 / 3, .tokens = 77}};
        EXPECT_TRUE(store.save(task_, claim, bytes));
        return claim;
    }

    Path folder_;
    TaskId task_{"j1/3/site-a"};
    std::string text_ = "encoded update bytes";
};

TEST_F(UpdateStoreTest, GivesBackExactlyWhatWasSaved) {
    const Claim claim = save(store());
    EXPECT_EQ(store().find(task_), claim) << "and another process finds it too";
    EXPECT_EQ(store().map(task_)->bytes().size(), claim.bytes);
    EXPECT_EQ(store().find(TaskId("j1/4/site-a")), std::nullopt);
}

TEST_F(UpdateStoreTest, ACrashBeforeTheSidecarMeansNoUpdate) {
    save(store());
    fs::remove(file(".yaml"));
    EXPECT_EQ(store().find(task_), std::nullopt);
    EXPECT_FALSE(fs::exists(file(".update"))) << "the leftover is cleared away";
}

TEST_F(UpdateStoreTest, DamageMeansNoUpdate) {
    for (std::size_t length = 0; length < text_.size(); ++length) {
        save(store());
        fs::resize_file(file(".update"), length);
        EXPECT_EQ(store().find(task_), std::nullopt) << length;
    }
    save(store());
    ASSERT_TRUE(write_file_atomically(file(".update"), "encoded update byteS"));
    EXPECT_EQ(store().find(task_), std::nullopt) << "one bit";
    save(store());
    const auto sidecar = read_file(file(".yaml")).value();
    for (std::size_t length = 0; length < sidecar.size(); length += 7) {
        save(store());
        ASSERT_TRUE(write_file_atomically(file(".yaml"), std::string_view(sidecar).substr(0, length)));
        const auto found = store().find(task_);
        EXPECT_TRUE(!found || length > sidecar.size() - 7) << length;
    }
}

TEST_F(UpdateStoreTest, TasksWithTheSameFileNameAreToldApart) {
    save(store());
    EXPECT_EQ(store().find(TaskId("j1-3.site-a")), std::nullopt);
}

TEST_F(UpdateStoreTest, TaskIdsNeverLeaveTheFolder) {
    const UpdateStore updates = store();
    const TaskId hostile("../../../tmp/x\n" + std::string(500, 'y'));
    ASSERT_TRUE(updates.save(hostile, Claim{}, {}));
    EXPECT_EQ(files(), 2);
}

TEST_F(UpdateStoreTest, DropsOneOrAllOthers) {
    const UpdateStore updates = store();
    save(updates);
    updates.drop_all_but(task_);
    EXPECT_TRUE(updates.find(task_));
    updates.drop_all_but(TaskId("j1/4/site-a"));
    EXPECT_FALSE(updates.find(task_));
    save(updates);
    updates.drop(task_);
    EXPECT_FALSE(updates.find(task_));
    EXPECT_EQ(files(), 0);
}

}  // namespace
}  // namespace fedllm::client::update
