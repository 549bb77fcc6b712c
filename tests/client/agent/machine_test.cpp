// The client's decisions as scripts: what happens, and what it does then, word by word.
#include "client/agent/machine.hpp"

#include <gtest/gtest.h>

namespace fedllm::client::agent {
namespace {

Task make_task(const std::string& id, TaskKind kind = TaskKind::Train) {
    Task task;
    task.id = TaskId(id);
    task.kind = kind;
    task.model_digest = "version-of-" + id;
    task.model_bytes = 100;
    return task;
}

const update::Claim kClaim{.digest = "d", .bytes = 40};
const update::Evaluation kEvaluation{.loss_sum = 12, .tokens = 3};
const Error kCancelled = make_error(Errc::Cancelled, "stopped");

struct Shorten {
    std::string operator()(const Prepare& e) const {
        return (e.whole ? "prepare whole " : "prepare ") + e.task.id.get();
    }
    std::string operator()(const MakeInitial& e) const { return "make " + e.task.id.get(); }
    std::string operator()(const StartWork& e) const { return "work " + e.task.id.get(); }
    std::string operator()(const StopWork&) const { return "stop"; }
    std::string operator()(const SendProgress& e) const { return "progress " + e.id.get(); }
    std::string operator()(const SendOffer& e) const { return "offer " + e.id.get(); }
    std::string operator()(const SendEvaluation& e) const { return "evaluation " + e.id.get(); }
    std::string operator()(const SendDecline& e) const {
        return "decline " + e.id.get() + " " + std::string(name(e.error.code));
    }
    std::string operator()(const Upload& e) const {
        return "upload " + e.id.get() + " " + std::to_string(e.offset);
    }
    std::string operator()(const DropUpdate& e) const {
        const std::string id = e.id.get();
        return e.fate == Fate::Counted      ? "keep " + id
               : e.fate == Fate::NotCounted ? "drop " + id
                                            : "forget " + id;
    }
    std::string operator()(const Disconnect&) const { return "disconnect"; }
    std::string operator()(const SendGoodbye&) const { return "goodbye"; }
    std::string operator()(const Say&) const { return ""; }
};

class Script : public testing::Test {
protected:
    // The effects of the event, without what is only said, as "a; b".
    std::string on(const Event& event) {
        std::string text;
        for (const Effect& effect : machine_.step(event)) {
            const std::string word = std::visit(Shorten{}, effect);
            if (!word.empty()) text += (text.empty() ? "" : "; ") + word;
        }
        return text;
    }

    void begin_work(const std::string& id = "a", TaskKind kind = TaskKind::Train) {
        on(Welcomed{});
        ASSERT_EQ(on(TaskArrived{make_task(id, kind)}), "prepare " + id);
        ASSERT_EQ(on(VersionHeld{TaskId(id)}), "work " + id);
    }
    void finish_work() {
        begin_work();
        ASSERT_EQ(on(Trained{a_, kClaim}), "offer a");
    }

    Machine machine_;
    const TaskId a_{"a"}, b_{"b"};
};

TEST_F(Script, ARoundWithoutTrouble) {
    EXPECT_EQ(on(Welcomed{}), "");
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "prepare a");
    EXPECT_EQ(on(VersionHeld{a_}), "work a");
    EXPECT_TRUE(machine_.working());
    EXPECT_EQ(on(Progressed{a_, {}}), "progress a");
    EXPECT_EQ(on(Trained{a_, kClaim}), "offer a");
    EXPECT_FALSE(machine_.working());
    EXPECT_EQ(on(ProceedArrived{a_, 8}), "upload a 8");
    EXPECT_EQ(on(VerdictArrived{a_, Outcome::Accepted, "", ""}), "keep a");
    EXPECT_FALSE(machine_.task());
    EXPECT_EQ(on(TaskArrived{make_task("b")}), "prepare b");
}

TEST_F(Script, AnEvaluation) {
    begin_work("a", TaskKind::Evaluate);
    EXPECT_EQ(on(Evaluated{a_, kEvaluation}), "evaluation a");
    EXPECT_EQ(on(Disconnected{}), "");
    EXPECT_EQ(on(Welcomed{}), "");
    EXPECT_EQ(on(TaskArrived{make_task("a", TaskKind::Evaluate)}), "evaluation a") << "the answer was lost";
    EXPECT_EQ(on(ProceedArrived{a_, 0}), "") << "there is nothing to upload";
    EXPECT_EQ(on(VerdictArrived{a_, Outcome::Accepted, "", ""}), "");
}

TEST_F(Script, AnUpdateFromBeforeARestartIsOfferedAgain) {
    on(Welcomed{});
    on(TaskArrived{make_task("a")});
    EXPECT_EQ(on(UpdateFound{a_, kClaim}), "offer a");
}

TEST_F(Script, DisconnectedWhileFetching) {
    on(Welcomed{});
    on(TaskArrived{make_task("a")});
    EXPECT_EQ(on(Disconnected{}), "");
    EXPECT_EQ(on(VersionHeld{a_}), "") << "nobody is there to fetch from";
    EXPECT_EQ(on(Welcomed{}), "");
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "prepare a");
    EXPECT_EQ(on(VersionHeld{a_}), "work a");
}

TEST_F(Script, DisconnectedWhileTraining) {
    begin_work();
    EXPECT_EQ(on(Disconnected{}), "") << "training goes on";
    EXPECT_EQ(on(Progressed{a_, {}}), "");
    EXPECT_EQ(on(Welcomed{}), "");
    EXPECT_EQ(on(Progressed{a_, {}}), "") << "not before the server asks again";
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "");
    EXPECT_EQ(on(Progressed{a_, {}}), "progress a");
    EXPECT_EQ(on(Trained{a_, kClaim}), "offer a");
}

TEST_F(Script, TrainedWhileDisconnected) {
    begin_work();
    on(Disconnected{});
    EXPECT_EQ(on(Trained{a_, kClaim}), "");
    on(Welcomed{});
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "offer a");
}

TEST_F(Script, DisconnectedWhileUploading) {
    finish_work();
    EXPECT_EQ(on(ProceedArrived{a_, 0}), "upload a 0");
    EXPECT_EQ(on(Disconnected{}), "");
    on(Welcomed{});
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "offer a");
    EXPECT_EQ(on(ProceedArrived{a_, 33}), "upload a 33") << "at the byte where it stopped";
    EXPECT_EQ(on(VerdictArrived{a_, Outcome::AlreadyAccepted, "", ""}), "keep a");
}

TEST_F(Script, ReleasedAtEachStep) {
    on(Welcomed{});
    on(TaskArrived{make_task("a")});
    EXPECT_EQ(on(ReleaseArrived{a_, "late"}), "drop a");
    EXPECT_EQ(on(VersionHeld{a_}), "");

    EXPECT_EQ(on(TaskArrived{make_task("b")}), "prepare b");
    EXPECT_EQ(on(VersionHeld{b_}), "work b");
    EXPECT_EQ(on(ReleaseArrived{b_, "late"}), "stop; drop b");
    EXPECT_EQ(on(WorkFailed{b_, kCancelled}), "");
    EXPECT_FALSE(machine_.working());

    finish_work();
    EXPECT_EQ(on(ReleaseArrived{a_, "late"}), "drop a");
    EXPECT_EQ(on(ProceedArrived{a_, 0}), "");
}

TEST_F(Script, ANewTaskWaitsForTheWorkerToLetGo) {
    begin_work();
    EXPECT_EQ(on(ReleaseArrived{a_, "late"}), "stop; drop a");
    EXPECT_EQ(on(TaskArrived{make_task("b")}), "");
    EXPECT_EQ(on(WorkFailed{a_, kCancelled}), "prepare b");
    EXPECT_EQ(on(VersionHeld{b_}), "work b");
}

TEST_F(Script, ReleasedTheMomentItWasDone) {
    begin_work();
    EXPECT_EQ(on(ReleaseArrived{a_, "late"}), "stop; drop a");
    EXPECT_EQ(on(TaskArrived{make_task("b")}), "");
    EXPECT_EQ(on(Trained{a_, kClaim}), "drop a; prepare b");
}

TEST_F(Script, ReleasedTheMomentItWasDoneAndAskedAgain) {
    begin_work();
    EXPECT_EQ(on(ReleaseArrived{a_, "paused"}), "stop; drop a");
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "");
    EXPECT_EQ(on(Trained{a_, kClaim}), "prepare a") << "the release may have taken the file that it left";
}

TEST_F(Script, ReleasedAndAskedAgain) {
    begin_work();
    on(ReleaseArrived{a_, "late"});
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "");
    EXPECT_EQ(on(WorkFailed{a_, kCancelled}), "prepare a");
}

TEST_F(Script, AnotherTaskAfterAReconnectionEndsTheOldOne) {
    begin_work();
    on(Disconnected{});
    on(Welcomed{});
    EXPECT_EQ(on(TaskArrived{make_task("b")}), "stop; drop a");
    EXPECT_EQ(on(WorkFailed{a_, kCancelled}), "prepare b");
}

TEST_F(Script, TheNextTaskSaysWhatBecameOfAnUpdateWhoseVerdictWasLost) {
    finish_work();
    on(Disconnected{});
    on(Welcomed{});
    Task next = make_task("b");
    next.counted = a_;
    EXPECT_EQ(on(TaskArrived{next}), "keep a; prepare b");
    Task other = make_task("c");
    other.job_id = JobId("another job");
    EXPECT_EQ(on(TaskArrived{other}), "forget b; prepare c") << "it knows nothing of that job's tasks";
}

TEST_F(Script, TheSameTaskOnAnotherVersionIsAnotherTask) {
    finish_work();
    on(Disconnected{});
    on(Welcomed{});
    Task changed = make_task("a");
    changed.model_digest = "other";
    EXPECT_EQ(on(TaskArrived{changed}), "drop a; prepare a");
}

TEST_F(Script, WorkThatFailsIsDeclined) {
    begin_work();
    EXPECT_EQ(on(WorkFailed{a_, make_error(Errc::NotFinite, "NaN")}), "decline a not_finite");
    on(Disconnected{});
    on(Welcomed{});
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "decline a not_finite") << "without training again";
    EXPECT_EQ(on(TaskArrived{make_task("b")}), "drop a; prepare b");
}

TEST_F(Script, AfterADiskThatFailsTheTaskIsComeBackFor) {
    on(Welcomed{});
    on(TaskArrived{make_task("a")});
    const Error full = make_error(Errc::IoFailed, "disk full");
    EXPECT_EQ(on(WorkFailed{a_, full}), "disconnect") << "while fetching";
    EXPECT_EQ(on(Disconnected{}), "");
    on(Welcomed{});
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "prepare a");
    EXPECT_EQ(on(VersionHeld{a_}), "work a");
    EXPECT_EQ(on(Disconnected{}), "");
    EXPECT_EQ(on(WorkFailed{a_, full}), "") << "while away: nothing to end";
    on(Welcomed{});
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "prepare a");
}

TEST_F(Script, ADamagedVersionIsFetchedOnceMore) {
    begin_work();
    const Error damaged = make_error(Errc::DigestMismatch, "damaged");
    EXPECT_EQ(on(WorkFailed{a_, damaged}), "prepare whole a") << "and not by steps";
    EXPECT_EQ(on(Disconnected{}), "");
    on(Welcomed{});
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "prepare whole a") << "still";
    EXPECT_EQ(on(VersionHeld{a_}), "work a");
    EXPECT_EQ(on(WorkFailed{a_, damaged}), "decline a digest_mismatch");
}

TEST_F(Script, TheFirstVersionIsMadeFromTheSeed) {
    on(Welcomed{});
    on(TaskArrived{make_task("a")});
    EXPECT_EQ(on(InitialWanted{a_}), "make a");
    EXPECT_TRUE(machine_.working());
    EXPECT_EQ(on(InitialMade{a_}), "prepare a") << "whether it is the version is seen there";
    EXPECT_EQ(on(VersionHeld{a_}), "work a");
}

TEST_F(Script, ATaskWaitsForTheWorkerThatMakesTheFirstVersionOfAnother) {
    on(Welcomed{});
    on(TaskArrived{make_task("a")});
    EXPECT_EQ(on(InitialWanted{a_}), "make a");
    EXPECT_EQ(on(ReleaseArrived{a_, "late"}), "drop a");
    EXPECT_EQ(on(TaskArrived{make_task("b")}), "");
    EXPECT_EQ(on(InitialMade{a_}), "prepare b");
}

TEST_F(Script, DisconnectedWhileTheFirstVersionIsMade) {
    on(Welcomed{});
    on(TaskArrived{make_task("a")});
    EXPECT_EQ(on(InitialWanted{a_}), "make a");
    EXPECT_EQ(on(Disconnected{}), "");
    EXPECT_EQ(on(InitialMade{a_}), "");
    on(Welcomed{});
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "prepare a");
    EXPECT_EQ(on(InitialWanted{a_}), "make a");
    EXPECT_EQ(on(Disconnected{}), "");
    on(Welcomed{});
    EXPECT_EQ(on(TaskArrived{make_task("a")}), "") << "the worker has it";
    EXPECT_EQ(on(InitialMade{a_}), "prepare a");
}

TEST_F(Script, APolicyRefusalIsDeclinedAndEndsWhatWas) {
    begin_work();
    on(Disconnected{});
    on(Welcomed{});
    EXPECT_EQ(on(TaskRefused{b_, make_error(Errc::PolicyRefused, "rank")}),
              "stop; forget a; decline b policy_refused");
}

TEST_F(Script, ARefusedUpdateIsDropped) {
    finish_work();
    EXPECT_EQ(on(VerdictArrived{a_, Outcome::Refused, "stale", "too late"}), "drop a");
    EXPECT_FALSE(machine_.task());
}

TEST_F(Script, AProceedBeyondTheEndBreaksTheProtocol) {
    finish_work();
    EXPECT_EQ(on(ProceedArrived{a_, kClaim.bytes}), "upload a 40") << "the verdict is still to come";
    EXPECT_EQ(on(ProceedArrived{a_, kClaim.bytes + 1}), "disconnect");
}

TEST_F(Script, MessagesAboutOtherTasksChangeNothing) {
    finish_work();
    EXPECT_EQ(on(ProceedArrived{b_, 0}), "");
    EXPECT_EQ(on(VerdictArrived{b_, Outcome::Accepted, "", ""}), "");
    EXPECT_EQ(on(ReleaseArrived{b_, ""}), "");
    EXPECT_EQ(on(ProceedArrived{a_, 0}), "upload a 0");
}

TEST_F(Script, StoppingAtEachStep) {
    EXPECT_EQ(on(StopAsked{}), "") << "never connected";
    EXPECT_EQ(on(StopAsked{}), "");

    machine_ = Machine();
    begin_work();
    EXPECT_EQ(on(StopAsked{}), "stop; goodbye");
    EXPECT_TRUE(machine_.working()) << "until the worker says so";
    EXPECT_EQ(on(TaskArrived{make_task("b")}), "");
    EXPECT_EQ(on(WorkFailed{a_, kCancelled}), "") << "stopping is no reason to decline";
    EXPECT_FALSE(machine_.working());

    machine_ = Machine();
    begin_work();
    on(StopAsked{});
    EXPECT_EQ(on(Trained{a_, kClaim}), "") << "kept on disk, offered after the restart";

    machine_ = Machine();
    on(Welcomed{});
    on(TaskArrived{make_task("a")});
    EXPECT_EQ(on(StopAsked{}), "goodbye");
    EXPECT_EQ(on(VersionHeld{a_}), "");

    machine_ = Machine();
    begin_work();
    on(Disconnected{});
    EXPECT_EQ(on(StopAsked{}), "stop");
}

}  // namespace
}  // namespace fedllm::client::agent
