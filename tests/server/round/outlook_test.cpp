// What is expected, and when, in wall time.
#include "server/round/outlook.hpp"

#include "tests/server/round/support.hpp"

namespace fedllm::server::round {
namespace {

TEST(Outlook, ARoundClosesAtTheMomentThatIsSaid) {
    Job job(rules(2, 3, 2));
    EXPECT_FALSE(closes_at(job.state()));
    for (const char* name : {"ash", "birch", "cedar"}) job.join(name);
    ASSERT_EQ(job.phase(), Phase::Training);
    EXPECT_FALSE(closes_at(job.state())) << "not before enough are in";
    job.advance(Duration(5000));
    job.upload("ash");
    job.upload("birch");
    const auto closes = closes_at(job.state());
    ASSERT_TRUE(closes);
    job.send(PauseRequested{"a holiday"});
    EXPECT_FALSE(closes_at(job.state())) << "a pause has no end that is known";
    job.send(ResumeRequested{});
    EXPECT_EQ(closes_at(job.state()), closes) << "resumed at once";
    job.advance(*closes - job.now() - Duration(1));
    job.send(Tick{});
    EXPECT_EQ(job.phase(), Phase::Training);
    job.advance(Duration(1));
    job.send(Tick{});
    EXPECT_EQ(job.phase(), Phase::Aggregating);
    EXPECT_FALSE(closes_at(job.state()));
}

TEST(Outlook, AClientIsExpectedByItsUsualTimeAndCountedOnWhileAway) {
    Job job(rules(9, 2, 2));
    job.join("ash");
    job.join("birch");
    for (int round = 0; round < 4; ++round) {
        const auto expected = expected_of(job.state(), id("ash"));
        ASSERT_TRUE(expected);
        EXPECT_EQ(expected->round, job.state().round);
        EXPECT_EQ(expected->asked, job.now());
        EXPECT_EQ(expected->by.has_value(), round >= 3) << "known after three rounds";
        if (expected->by) {
            EXPECT_GE(*expected->by, job.now() + Duration(60'000));
            EXPECT_LE(*expected->by, job.now() + Duration(120'000));
            break;
        }
        job.advance(Duration(60'000));
        job.upload("ash");
        EXPECT_FALSE(expected_of(job.state(), id("ash")));
        job.upload("birch");
        job.commit();
    }
    job.leave("birch");
    const auto away = expected_of(job.state(), id("birch"));
    ASSERT_TRUE(away);
    EXPECT_EQ(away->left, job.now());
    ASSERT_TRUE(away->counted_on_until);
    EXPECT_FALSE(expected_of(job.state(), id("ash"))->counted_on_until);
    job.advance(*away->counted_on_until - job.now());
    job.send(Tick{});
    EXPECT_FALSE(expected_of(job.state(), id("birch"))->counted_on_until) << "not counted on any more";
}

}  // namespace
}  // namespace fedllm::server::round
