// The engine's half about clients: who is there, and what they say besides their updates.
#include "common/config/value.hpp"
#include "common/log/log.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine {

registry::SessionId Engine::join(const ClientId& client, const protocol::Hello& hello, Link& link) {
    registry::Member member;
    member.client = client;
    member.session = registry_.next_session();
    member.software = hello.software();
    member.device = hello.device();
    member.base_models.assign(hello.base_models().begin(), hello.base_models().end());
    member.codecs.assign(hello.codecs().begin(), hello.codecs().end());
    member.since = clock_.now();
    const auto session = member.session;
    const auto base_models = member.base_models;
    if (registry_.join(std::move(member)))
        links_.at(client)->end("a newer connection of this client took over");
    links_[client] = &link;
    // The job that asked it before goes on with it; then it is nobody else's to ask.
    schedule_.join(client, base_models);
    for (const auto& job : jobs_) {
        if (round::is_asked(job->state, client)) schedule_.take(job->id, client);
    }
    // All hear of it before anybody is told that it is free or busy: whom this tells has not to be told
    // again.
    handling_ = true;
    for (const JobId& id : std::vector<JobId>(schedule_.order())) {
        if (schedule_.can_train(id, client) && !schedule_.sees(id, client)) continue;  // told that it is busy
        schedule_.told({id, client, true});
        handle(id, round::ClientJoined{client, base_models});
    }
    handle_all();
    return session;
}

void Engine::leave(const ClientId& client, registry::SessionId session) {
    if (!registry_.leave(client, session, clock_.now())) return;
    links_.erase(client);
    schedule_.leave(client);
    for (const JobId& id : std::vector<JobId>(schedule_.order())) raise(id, round::ClientLeft{client});
}

void Engine::on_progress(const ClientId& client, const protocol::Progress& progress) {
    const auto parsed = parse_task(client, progress.task_id());
    ActiveJob* const job = parsed ? find(parsed->job) : nullptr;
    if (job == nullptr) return;  // about work that is over
    LivePart& live = job->live[client];
    live.step = progress.step();
    live.steps = progress.steps();
    live.loss = progress.loss();
    metrics_.task_progress(job->id, client,
                           live.steps > 0 ? static_cast<double>(live.step) / live.steps : 0.0);
}

// Its job needs to know it a few times per lease, not with every chunk.
void Engine::heard_of(const ClientId& client) {
    const JobId* const holder = schedule_.holder(client);
    ActiveJob* const job = holder != nullptr ? find(*holder) : nullptr;
    if (job == nullptr) return;
    LivePart& live = job->live[client];
    if (clock_.now() - live.heard < std::chrono::seconds(5)) return;
    live.heard = clock_.now();
    raise(job->id, round::SignOfLife{client});
}

void Engine::on_decline(const ClientId& client, const protocol::Decline& decline) {
    log::warn("client declined its task", {{"client", client.get()},
                                           {"task", decline.task_id()},
                                           {"reason", decline.reason()},
                                           {"detail", decline.detail()}});
    const auto parsed = parse_task(client, decline.task_id());
    if (parsed)
        raise(parsed->job, round::ClientDeclined{client, parsed->round, decline.reason(), decline.detail()});
}

// "<job>/<round>/<client>": the client part must be the one of the certificate.
Result<Engine::ParsedTask> Engine::parse_task(const ClientId& client, const std::string& task) const {
    const auto first = task.find('/');
    const auto second = first == std::string::npos ? first : task.find('/', first + 1);
    if (second == std::string::npos) return make_error(Errc::Malformed, "'" + task + "' is no task");
    const auto number = config::parse_unsigned(task.substr(first + 1, second - first - 1));
    if (!number || *number > 0xFFFFFFFFu) return make_error(Errc::Malformed, "'" + task + "' is no task");
    if (task.substr(second + 1) != client.get()) {
        return make_error(Errc::PermissionDenied, "task '" + task + "' belongs to another client");
    }
    return ParsedTask{JobId(task.substr(0, first)), RoundId(static_cast<std::uint32_t>(*number))};
}

}  // namespace fedllm::server::engine
