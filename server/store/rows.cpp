#include "server/store/rows.hpp"

namespace fedllm::server::store {

std::string_view name(JobStatus status) {
    switch (status) {
        case JobStatus::Running: return "running";
        case JobStatus::Finished: return "finished";
        case JobStatus::Failed: return "failed";
        case JobStatus::Paused: return "paused";
        case JobStatus::Stopped: return "stopped";
    }
    return "unknown";
}

std::string_view name(RoundStatus status) {
    switch (status) {
        case RoundStatus::Open: return "open";
        case RoundStatus::Closing: return "closing";
        case RoundStatus::Committed: return "committed";
    }
    return "unknown";
}

std::string_view name(PartStatus status) {
    switch (status) {
        case PartStatus::Asked: return "asked";
        case PartStatus::Accepted: return "accepted";
        case PartStatus::Refused: return "refused";
        case PartStatus::Declined: return "declined";
        case PartStatus::Dropped: return "dropped";
        case PartStatus::Evaluated: return "evaluated";
    }
    return "unknown";
}

}  // namespace fedllm::server::store
