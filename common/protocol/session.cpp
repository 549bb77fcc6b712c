#include "common/protocol/session.hpp"

namespace fedllm::protocol {

Result<Relevance> Session::on_receive(MessageKind kind, std::string_view task) {
    return apply({kind, task, /*from_server=*/side_ == Side::Client, /*sending=*/false});
}

Result<void> Session::on_send(MessageKind kind, std::string_view task) {
    FEDLLM_TRY([[maybe_unused]] const Relevance relevance,
               apply({kind, task, /*from_server=*/side_ == Side::Server, /*sending=*/true}));
    return {};
}

Result<Relevance> Session::apply(const Move& move) {
    if (phase_ == Phase::Over) {
        if (move.sending) return out_of_order(move);
        return Relevance::Stale;  // was on its way when the Goodbye was said
    }
    if (move.kind == MessageKind::Goodbye) {
        phase_ = Phase::Over;
        return Relevance::Current;
    }
    if (phase_ != Phase::Open) return greet(move);
    if (move.kind == MessageKind::Ping) return Relevance::Current;
    if (move.kind == MessageKind::Chunk) return chunk(move, move.from_server ? download_ : upload_);
    if (role_ == PeerRole::Operator) return move.from_server ? server_answers(move) : operator_asks(move);
    return move.from_server ? server_says(move) : client_says(move);
}

Result<Relevance> Session::greet(const Move& move) {
    if (phase_ == Phase::Silent && move.kind == MessageKind::Hello && !move.from_server) {
        phase_ = Phase::Greeting;
    } else if (phase_ == Phase::Greeting && move.kind == MessageKind::Welcome && move.from_server) {
        phase_ = Phase::Open;
    } else {
        return out_of_order(move);
    }
    return Relevance::Current;
}

// A message about a task that is not the open one: received, it crossed with what closed the task.
Result<Relevance> Session::other_task(const Move& move, bool may_be_sent) {
    if (move.sending && !may_be_sent) return out_of_order(move);
    return Relevance::Stale;
}

Result<Relevance> Session::client_says(const Move& move) {
    const bool current = !task_.empty() && move.task == task_;
    const bool idle = upload_ == Transfer::None || upload_ == Transfer::Draining;
    switch (move.kind) {
        case MessageKind::Fetch:
            if (!current) return other_task(move, /*may_be_sent=*/false);
            if (download_ == Transfer::Running) return out_of_order(move);
            download_ = Transfer::Running;
            return Relevance::Current;
        case MessageKind::Progress:
            return current ? Relevance::Current : other_task(move, /*may_be_sent=*/false);
        case MessageKind::Offer:
            if (!current) return other_task(move, /*may_be_sent=*/true);
            if (!idle || evaluated_) return out_of_order(move);
            upload_ = Transfer::Asked;
            return Relevance::Current;
        case MessageKind::Evaluation:
            if (!current) return other_task(move, /*may_be_sent=*/false);
            if (!idle || evaluated_) return out_of_order(move);
            evaluated_ = true;
            return Relevance::Current;
        case MessageKind::Decline:
            if (!current) return other_task(move, /*may_be_sent=*/false);
            // The server's chunks that are still under way arrive here; ours have all been sent before.
            download_ = move.sending && download_ == Transfer::Running ? Transfer::Draining : Transfer::None;
            upload_ = Transfer::None;
            close_task();
            return Relevance::Current;
        default: return out_of_order(move);
    }
}

Result<Relevance> Session::server_says(const Move& move) {
    const bool current = !task_.empty() && move.task == task_;
    const bool answerable =
        evaluated_ || upload_ == Transfer::Asked || upload_ == Transfer::Running || upload_ == Transfer::Done;
    switch (move.kind) {
        case MessageKind::Task:
            if (!task_.empty() || move.task.empty()) return out_of_order(move);
            task_ = move.task;
            return Relevance::Current;
        case MessageKind::Proceed:
            if (!current) return other_task(move, /*may_be_sent=*/false);
            if (upload_ != Transfer::Asked) return out_of_order(move);
            upload_ = Transfer::Running;
            return Relevance::Current;
        case MessageKind::Verdict:
            if (!current) return other_task(move, /*may_be_sent=*/true);
            if (!answerable) return out_of_order(move);
            break;
        case MessageKind::Release:
            if (!current) return other_task(move, /*may_be_sent=*/false);
            break;
        default: return out_of_order(move);
    }
    // Closed by the server: the client's chunks that are still under way arrive there.
    upload_ = move.sending && upload_ == Transfer::Running ? Transfer::Draining
              : upload_ == Transfer::Draining              ? Transfer::Draining
                                                           : Transfer::None;
    download_ = Transfer::None;
    close_task();
    return Relevance::Current;
}

void Session::close_task() {
    task_.clear();
    evaluated_ = false;
}

Result<Relevance> Session::operator_asks(const Move& move) {
    switch (move.kind) {
        case MessageKind::SubmitJob:
        case MessageKind::ListJobs:
        case MessageKind::ShowJob:
        case MessageKind::ControlJob:
        case MessageKind::Why:
        case MessageKind::AuditJob:
        case MessageKind::Fetch: break;
        default: return out_of_order(move);
    }
    if (request_ || download_ == Transfer::Running) return out_of_order(move);
    request_ = move.kind;
    upload_ = Transfer::None;
    return Relevance::Current;
}

Result<Relevance> Session::server_answers(const Move& move) {
    const auto answers = [&](MessageKind request) { return request_ == request; };
    switch (move.kind) {
        case MessageKind::Proceed:
            if (!answers(MessageKind::SubmitJob) || upload_ != Transfer::None) return out_of_order(move);
            upload_ = Transfer::Running;
            return Relevance::Current;
        case MessageKind::JobAccepted:
            if (!answers(MessageKind::SubmitJob) || upload_ == Transfer::Running) return out_of_order(move);
            break;
        case MessageKind::JobList:
            if (!answers(MessageKind::ListJobs)) return out_of_order(move);
            break;
        case MessageKind::JobReport:
            if (!answers(MessageKind::ShowJob)) return out_of_order(move);
            break;
        case MessageKind::JobControlled:
            if (!answers(MessageKind::ControlJob)) return out_of_order(move);
            break;
        case MessageKind::Because:
            if (!answers(MessageKind::Why)) return out_of_order(move);
            break;
        case MessageKind::AuditRows:
            if (!answers(MessageKind::AuditJob)) return out_of_order(move);
            break;
        case MessageKind::Blob:
            if (!answers(MessageKind::Fetch)) return out_of_order(move);
            download_ = Transfer::Running;
            break;
        case MessageKind::Refusal:
            if (!request_) return out_of_order(move);
            break;
        default: return out_of_order(move);
    }
    request_.reset();
    upload_ = move.sending && upload_ == Transfer::Running ? Transfer::Draining : Transfer::None;
    return Relevance::Current;
}

Result<Relevance> Session::chunk(const Move& move, Transfer transfer) {
    if (transfer == Transfer::Running) return Relevance::Current;
    if (transfer == Transfer::Draining && !move.sending) return Relevance::Stale;
    return out_of_order(move);
}

void Session::download_finished() {
    if (download_ == Transfer::Running) download_ = Transfer::None;
}

void Session::upload_finished() {
    if (upload_ == Transfer::Running) upload_ = Transfer::Done;
}

std::string Session::describe() const {
    constexpr std::string_view phases[] = {"before Hello", "before Welcome", "open", "after Goodbye"};
    constexpr std::string_view transfers[] = {"none", "asked for", "running", "done", "draining"};
    std::string text(phases[static_cast<std::size_t>(phase_)]);
    if (phase_ != Phase::Open) return text;
    if (role_ == PeerRole::Client) text += task_.empty() ? ", no task" : ", task " + task_;
    if (request_) text += ", unanswered " + std::string(name(*request_));
    text += ", download " + std::string(transfers[static_cast<std::size_t>(download_)]);
    text += ", upload " + std::string(transfers[static_cast<std::size_t>(upload_)]);
    if (evaluated_) text += ", evaluated";
    return text;
}

Error Session::out_of_order(const Move& move) const {
    std::string text(move.sending ? "sending " : "received ");
    text += name(move.kind);
    if (!move.task.empty()) text += " for task " + std::string(move.task);
    return make_error(Errc::OutOfOrder, text + " in the state: " + describe());
}

}  // namespace fedllm::protocol
