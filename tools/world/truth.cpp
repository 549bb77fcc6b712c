#include "tools/world/truth.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fedllm::tools::world {

namespace store = server::store;

namespace {

__extension__ typedef __int128 Exact;  // wide enough for every sum here

constexpr int kExactBits = 80;           // of a value's fraction in the exact sum
constexpr double kHalfUlp = 0x1p-24;     // of f32, relative
constexpr double kFixedPoint = 0x1p-24;  // the coarsest that the server's sum may be

// "j1/0/site-a"
struct TaskName {
    JobId job;
    RoundId round;
    ClientId client;
};

TaskName parse(const std::string& task) {
    const auto first = task.find('/');
    const auto second = task.find('/', first + 1);
    return {JobId(task.substr(0, first)),
            RoundId(static_cast<std::uint32_t>(std::stoul(task.substr(first + 1, second - first - 1)))),
            ClientId(task.substr(second + 1))};
}

// The parts that a round's sum has. In an asynchronous job they may have started some versions before it.
Result<std::vector<store::PartRow>> counted_in(const store::Ledger& ledger, const job::JobSpec& spec,
                                               const store::RoundRow& round) {
    const bool asynchronous = spec.aggregation.mode == job::Mode::Async;
    const std::uint32_t last = round.round.get();
    const std::uint32_t before = asynchronous ? std::min(last, spec.aggregation.staleness_max) : 0;
    std::vector<store::PartRow> counted;
    for (std::uint32_t from = last - before; from <= last; ++from) {
        FEDLLM_TRY(const auto parts, ledger.parts(round.job, RoundId(from)));
        for (const store::PartRow& part : parts) {
            const bool accepted = part.status == store::PartStatus::Accepted;
            if (accepted && part.counted == round.round) counted.push_back(part);
        }
    }
    return counted;
}

// Whether a job is back at a round because the version that it made was lost before it was on the disk: with
// its set closed, and nothing counted that started from that version.
bool is_made_again(const store::Ledger& ledger, const store::JobRow& job, RoundId lost) {
    if (job.round.get() + 1 != lost.get()) return false;
    const auto rounds = ledger.rounds(job.id);
    const auto parts = ledger.parts(job.id, lost);
    if (!rounds || !parts) return true;  // the ledger is out of order, and its process about to end
    return std::ranges::any_of(*rounds,
                               [&](const store::RoundRow& row) {
                                   return row.round == job.round && row.status == store::RoundStatus::Closing;
                               }) &&
           std::ranges::none_of(
               *parts, [](const store::PartRow& part) { return part.status == store::PartStatus::Accepted; });
}

}  // namespace

void Truth::violated(std::string what) {
    if (!violation_) violation_ = std::move(what);
}

void Truth::made(const TaskId& task, const ClientId& client, const std::string& digest,
                 std::vector<float> values, std::uint64_t samples) {
    const bool is_new =
        made_[task.get()].emplace(digest, Made{client, task, std::move(values), samples}).second;
    if (!is_new) return;
}

// --------------------------------------------------------------------------------------------- what is said

void Truth::on_bytes(std::uint64_t connection, const ClientId& client, Side from,
                     std::span<const std::byte> bytes) {
    Talk& talk = talks_[connection];
    std::vector<std::byte>& pending = talk.pending[static_cast<std::size_t>(from)];
    pending.insert(pending.end(), bytes.begin(), bytes.end());
    std::span<const std::byte> input(pending);
    for (;;) {
        const auto frame = protocol::take_frame(input, protocol::FrameLimits{});
        if (!frame) return violated("a frame that cannot be read: " + to_string(frame.error()));
        if (!*frame) break;
        on_frame(talk, client, from, **frame);
    }
    pending.erase(pending.begin(), pending.end() - static_cast<std::ptrdiff_t>(input.size()));
}

void Truth::on_end(std::uint64_t connection) { talks_.erase(connection); }

void Truth::on_frame(Talk& talk, const ClientId&, Side from, const protocol::Frame& frame) {
    if (frame.kind == protocol::FrameKind::Chunk) {
        if (from == Side::Client) bytes_uploaded_ += frame.bytes.size();
        return;
    }
    if (from == Side::Server) {
        const auto message = protocol::parse_server_message(frame.bytes);
        if (!message) return violated("the server says " + to_string(message.error()));
        return on_server_message(talk, *message);
    }
    const auto message = protocol::parse_client_message(frame.bytes);
    if (!message) return violated("a client says " + to_string(message.error()));
    if (!message->has_offer()) return;
    talk.offers[message->offer().task_id()] = message->offer().digest();
    bytes_made_ += message->offer().bytes();
}

void Truth::on_server_message(Talk& talk, const protocol::ServerMessage& message) {
    if (message.has_task()) {
        const protocol::Task& task = message.task();
        const JobId id(task.job_id());
        same_version(jobs_[id], id, RoundId(task.round()), task.model_digest());
        curious_ = true;
    }
    if (!message.has_verdict() || message.verdict().outcome() == protocol::OUTCOME_REFUSED) return;
    const std::string& task = message.verdict().task_id();
    const auto offer = talk.offers.find(task);
    if (offer == talk.offers.end()) return;  // an evaluation
    const auto [known, is_new] = acknowledged_.emplace(task, offer->second);
    if (!is_new && known->second != offer->second)
        return violated(task + ": two different updates were acknowledged");
    unchecked_.insert(task);
    curious_ = true;
}

void Truth::asked_for(const JobId& job, protocol::JobAction action) {
    jobs_[job].asked_for.insert(action);
    if (jobs_[job].told != store::name(store::JobStatus::Stopped)) jobs_[job].told.clear();
}

void Truth::controlled(const JobId& job, const std::string& status) {
    jobs_[job].told = status;
    curious_ = true;
}

void Truth::same_version(JobTruth& job, const JobId& id, RoundId round, const std::string& digest) {
    const auto [known, is_new] = job.versions.emplace(round, digest);
    if (!is_new && known->second != digest) {
        violated(id.get() + " round " + std::to_string(round.get()) + " starts from version " + digest +
                 ", but started from " + known->second + " before");
    }
}

// ------------------------------------------------------------------------------------------ what is on
// record

void Truth::check(const server::engine::Engine& engine, Thoroughness how) {
    if (how == Thoroughness::Everything) {
        std::set<std::string> all;
        for (const auto& [task, digest] : acknowledged_) all.insert(task);
        check_acknowledged(engine.ledger(), all);
    } else {
        check_acknowledged(engine.ledger(), unchecked_);
    }
    unchecked_.clear();
    curious_ = false;
    const auto jobs = engine.ledger().jobs();
    if (!jobs) return;  // the ledger is out of order, and its process about to end
    for (const store::JobRow& row : *jobs) check_job(engine, row);
}

std::size_t Truth::check_memory(const server::engine::Engine& engine) {
    const auto& memory = engine.upload_memory();
    const std::size_t uploads = engine.uploads_under_way();
    const std::uint64_t least = uploads * protocol::FrameLimits{}.chunk_bytes_max;
    if (memory.bytes_in_use() > memory.bytes_max() || (uploads > 1 && least > memory.bytes_max())) {
        violated(std::to_string(uploads) + " uploads at once take " +
                 std::to_string(std::max(least, memory.bytes_in_use())) + " bytes of " +
                 std::to_string(memory.bytes_max()));
    }
    return memory.waiting();
}

void Truth::check_acknowledged(const store::Ledger& ledger, const std::set<std::string>& tasks) {
    for (const std::string& task : tasks) {
        const TaskName name = parse(task);
        const auto part = ledger.part(name.job, name.round, name.client);
        if (!part) continue;
        const std::string& digest = acknowledged_.at(task);
        if (!*part || (*part)->status != store::PartStatus::Accepted) {
            violated(task + ": its acknowledged update is not in the ledger, which says " +
                     (*part ? std::string(store::name((*part)->status)) : "nothing"));
        } else if ((*part)->update_digest != digest) {
            violated(task + ": the ledger has " + (*part)->update_digest + ", acknowledged was " + digest);
        }
    }
}

void Truth::check_job(const server::engine::Engine& engine, const store::JobRow& row) {
    JobTruth& job = jobs_[row.id];
    check_status(job, row);
    same_version(job, row.id, row.round, row.model_digest);
    if (row.round < job.next && !is_made_again(engine.ledger(), row, job.next)) {
        return violated(row.id.get() + " is at round " + std::to_string(row.round.get()) + ", but was at " +
                        std::to_string(job.next.get()));
    }
    if (row.round <= job.next) return;
    const auto spec = job::parse_job(row.yaml, row.id.get());
    if (!spec) return violated(row.id.get() + ": its job cannot be read");
    job.spec = *spec;
    const auto rounds = engine.ledger().rounds(row.id);
    if (!rounds) return;
    for (const store::RoundRow& round : *rounds) {
        if (round.round < job.next || round.status != store::RoundStatus::Committed) continue;
        if (round.round >= row.round) continue;
        check_round(engine, job, round);
        if (violation_) return;
        job.next = RoundId(round.round.get() + 1);
    }
}

void Truth::check_status(const JobTruth& job, const store::JobRow& row) {
    const auto wished = [&](protocol::JobAction action) { return job.asked_for.contains(action); };
    const std::string status(store::name(row.status));
    if (row.status == store::JobStatus::Paused && !wished(protocol::JOB_ACTION_PAUSE))
        violated(row.id.get() + " is paused, which nobody wished");
    if (row.status == store::JobStatus::Stopped && !wished(protocol::JOB_ACTION_STOP))
        violated(row.id.get() + " is stopped, which nobody wished");
    const bool holds = job.told == store::name(store::JobStatus::Paused) ||
                       job.told == store::name(store::JobStatus::Stopped);
    if (holds && status != job.told)
        violated(row.id.get() + " is " + status + ", but its operator was told that it is " + job.told);
}

void Truth::check_round(const server::engine::Engine& engine, JobTruth& job, const store::RoundRow& round) {
    const std::string where = round.job.get() + " round " + std::to_string(round.round.get());
    const RoundId next_round(round.round.get() + 1);
    const auto parts = counted_in(engine.ledger(), job.spec, round);
    const auto base_row = engine.ledger().version(round.job, round.round);
    const auto next_row = engine.ledger().version(round.job, next_round);
    if (!parts || !base_row || !next_row) return violated(where + ": committed, but its rows cannot be read");
    same_version(job, round.job, round.round, base_row->digest);
    same_version(job, round.job, next_round, next_row->digest);
    const auto base = engine.versions().read(base_row->digest);
    const auto next = engine.versions().read(next_row->digest);
    if (!base) return violated(where + ": its base: " + to_string(base.error()));
    if (!next) return violated(where + ": its version: " + to_string(next.error()));
    const auto mean = exact_mean(job, round, *parts);
    if (!mean) return;
    const bool whole = job.spec.download.codec.id == codec::CodecId::None;
    if (whole || job.exact.empty()) job.exact.assign(base->values().begin(), base->values().end());
    std::vector<double> actual(next->values().begin(), next->values().end());
    bool comparable = true;
    if (!whole) {
        const auto residual = engine.versions().map(store::Attachment::Residual, next_row->residual_digest);
        comparable = residual.has_value();
        for (std::size_t i = 0; comparable && i < actual.size(); ++i) {
            float left = 0;
            std::memcpy(&left, residual->bytes().data() + i * sizeof left, sizeof left);
            actual[i] += left;
        }
    }
    const double rate = job.spec.server_learning_rate;
    for (std::size_t i = 0; i < actual.size(); ++i) {
        const double before = job.exact[i];
        job.exact[i] = before + rate * (*mean)[i];
        const double rounds = whole ? 1 : 1 + round.round.get();  // each may add its rounding to the residual
        const double bound =
            rounds *
            (rate * kFixedPoint + 4 * kHalfUlp * (std::abs(before) + rate * std::abs((*mean)[i]) + 1e-3));
        if (comparable && !(std::abs(actual[i] - job.exact[i]) <= bound)) {
            return violated(where + ": value " + std::to_string(i) + " is " + std::to_string(actual[i]) +
                            ", the exact mean of the ledger's contributions gives " +
                            std::to_string(job.exact[i]));
        }
    }
    ++rounds_checked_;
}

std::optional<std::vector<double>> Truth::exact_mean(const JobTruth& job, const store::RoundRow& round,
                                                     const std::vector<store::PartRow>& parts) {
    if (parts.size() < job.spec.clients_minimum || parts.size() > job::updates_per_version(job.spec)) {
        violated(round.job.get() + " round " + std::to_string(round.round.get()) + ": committed with " +
                 std::to_string(parts.size()) + " contributions");
        return std::nullopt;
    }
    std::vector<Exact> sums;
    std::uint64_t total = 0;
    for (const store::PartRow& part : parts) {
        const auto& of_task = made_[part.task.get()];
        const auto found = of_task.find(part.update_digest);
        if (found == of_task.end()) {
            violated(part.task.get() + ": the ledger counts " + part.update_digest + ", which nobody made");
            return std::nullopt;
        }
        const Made& made = found->second;
        const std::uint32_t staleness = round.round.get() - part.round.get();
        const std::uint64_t weight = (job.spec.weighting == job::Weighting::Samples ? made.samples : 1) *
                                     job::staleness_weight(job.spec.aggregation, staleness);
        stale_ += staleness > 0;
        if (made.client != part.client || part.weight != weight) {
            violated(part.task.get() + ": the ledger has another client or weight");
            return std::nullopt;
        }
        sums.resize(made.values.size());
        for (std::size_t i = 0; i < sums.size(); ++i) {
            sums[i] += static_cast<Exact>(std::ldexp(static_cast<double>(made.values[i]), kExactBits)) *
                       static_cast<Exact>(weight);
        }
        total += weight;
    }
    std::vector<double> mean(sums.size());
    for (std::size_t i = 0; i < mean.size(); ++i) {
        mean[i] = static_cast<double>(std::ldexp(static_cast<long double>(sums[i]), -kExactBits) /
                                      static_cast<long double>(total));
    }
    return mean;
}

}  // namespace fedllm::tools::world
