// Which message may travel when: the session's state machine, without I/O. Both ends run it, each from its
// own side, on everything they send and receive. What it refuses is a peer (or a defect of ours) that breaks
// the protocol, and ends the connection. What merely crossed on the wire is not refused but Stale: messages
// about a task that this session no longer has, chunks of a transfer that was given up.
//
//   greeting      Hello first and once, then Welcome; Goodbye is always possible and final; Ping after
//   Welcome. a task        Task opens it, when none is open. Closed by Verdict or Release (server), by
//   Decline (client). download      Fetch of the open task, one at a time, then chunks until
//   download_finished(). upload        Offer of the open task, once; Proceed; chunks until upload_finished();
//   Verdict. evaluation    of the open task, once (tasks of kind evaluate); Verdict. operators     SubmitJob,
//   ListJobs, ShowJob, ControlJob, Why, AuditJob, Fetch: the next request after the answer to the last, and
//   after its
//                 chunks. SubmitJob is answered by Proceed, chunks, and then by JobAccepted or Refusal.
//
// An Offer for a task that is not open is Stale at the server and not an offence: the Verdict may have been
// lost with the previous connection. The server answers it with a Verdict out of its ledger.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/base/result.hpp"
#include "common/protocol/messages.hpp"

namespace fedllm::protocol {

enum class Side { Server, Client };        // which end this object stands at
enum class PeerRole { Client, Operator };  // what the connecting end's certificate says it is

enum class Relevance {
    Current,  // handle it
    Stale,    // legal, but about something that is over: ignore it, or answer an Offer with a Verdict
};

// Lifecycle: one per connection. Concurrency: a plain value; used on the channel's executor.
class Session {
public:
    Session(Side side, PeerRole role) : side_(side), role_(role) {}

    // Call with each message before handling it. `task` is task_of(message). OutOfOrder names message and
    // state.
    Result<Relevance> on_receive(MessageKind kind, std::string_view task = {});
    // Call with each message before sending it, without suspending in between. OutOfOrder for a chunk also
    // means that the transfer was given up (Release, Verdict, Decline): the sender stops.
    Result<void> on_send(MessageKind kind, std::string_view task = {});

    // The last chunk of the transfer was sent, or received.
    void download_finished();
    void upload_finished();

    bool greeted() const { return phase_ == Phase::Open; }  // Welcome has passed
    bool over() const { return phase_ == Phase::Over; }     // Goodbye was said or heard
    const std::string& task() const { return task_; }       // the open task's id, or ""
    std::string describe() const;                           // "open, task j1/0/site-a, upload running"

private:
    enum class Phase { Silent, Greeting, Open, Over };
    enum class Transfer { None, Asked, Running, Done, Draining };
    struct Move {  // one message, seen from here
        MessageKind kind;
        std::string_view task;
        bool from_server;
        bool sending;
    };

    Result<Relevance> apply(const Move& move);
    Result<Relevance> greet(const Move& move);
    Result<Relevance> client_says(const Move& move);  // role client
    Result<Relevance> server_says(const Move& move);
    Result<Relevance> operator_asks(const Move& move);  // role operator
    Result<Relevance> server_answers(const Move& move);
    Result<Relevance> chunk(const Move& move, Transfer transfer);
    Result<Relevance> other_task(const Move& move, bool may_be_sent);
    void close_task();
    Error out_of_order(const Move& move) const;

    Side side_;
    PeerRole role_;
    Phase phase_ = Phase::Silent;
    Transfer download_ = Transfer::None;
    Transfer upload_ = Transfer::None;
    std::string task_;
    bool evaluated_ = false;              // the open task's Evaluation has passed
    std::optional<MessageKind> request_;  // an operator's, that waits for its answer
};

}  // namespace fedllm::protocol
