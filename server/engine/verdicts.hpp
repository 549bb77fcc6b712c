// What an upload is answered.
#pragma once

#include <string>

#include "common/base/ids.hpp"
#include "common/base/result.hpp"
#include "common/protocol/messages.hpp"

namespace fedllm::server::engine {

inline protocol::Verdict outcome(const TaskId& task, protocol::Outcome value) {
    protocol::Verdict verdict;
    verdict.set_task_id(task.get());
    verdict.set_outcome(value);
    return verdict;
}

inline protocol::Verdict refusal(const TaskId& task, const Error& error) {
    protocol::Verdict verdict = outcome(task, protocol::OUTCOME_REFUSED);
    verdict.set_reason(std::string(name(error.code)));
    verdict.set_detail(protocol::sendable(error.message));
    return verdict;
}

}  // namespace fedllm::server::engine
