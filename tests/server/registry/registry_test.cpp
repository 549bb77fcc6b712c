#include "server/registry/registry.hpp"

#include <gtest/gtest.h>

namespace fedllm::server::registry {
namespace {

Member member(Registry& registry, const char* name, std::vector<std::string> models) {
    Member one;
    one.client = ClientId(name);
    one.session = registry.next_session();
    one.base_models = std::move(models);
    return one;
}

TEST(Registry, NewestConnectionOfANameWins) {
    Registry registry;
    const Member old_one = member(registry, "site-a", {"llama"});
    const Member new_one = member(registry, "site-a", {"llama", "tiny"});
    EXPECT_FALSE(registry.join(old_one));
    EXPECT_EQ(registry.join(new_one), old_one.session);
    EXPECT_EQ(registry.members().size(), 1u);
    EXPECT_TRUE(registry.is_current(ClientId("site-a"), new_one.session));
    EXPECT_FALSE(registry.is_current(ClientId("site-a"), old_one.session));

    // The older connection's end comes late and must not take the client away.
    EXPECT_FALSE(registry.leave(ClientId("site-a"), old_one.session, Timestamp(Duration(7))));
    ASSERT_NE(registry.find(ClientId("site-a")), nullptr);
    EXPECT_FALSE(registry.left(ClientId("site-a")));
    EXPECT_TRUE(registry.leave(ClientId("site-a"), new_one.session, Timestamp(Duration(7))));
    EXPECT_EQ(registry.left(ClientId("site-a")), Timestamp(Duration(7)));
    EXPECT_EQ(registry.find(ClientId("site-a")), nullptr);
    EXPECT_FALSE(registry.leave(ClientId("site-a"), new_one.session, Timestamp(Duration(7))));
}

TEST(Registry, EligibleAreThoseWithTheBaseModelSortedByName) {
    Registry registry;
    registry.join(member(registry, "site-c", {"tiny"}));
    registry.join(member(registry, "site-a", {"llama", "tiny"}));
    registry.join(member(registry, "site-b", {"llama"}));
    EXPECT_EQ(registry.eligible("tiny"), (std::vector<ClientId>{ClientId("site-a"), ClientId("site-c")}));
    EXPECT_TRUE(registry.eligible("tin").empty());
}

}  // namespace
}  // namespace fedllm::server::registry
