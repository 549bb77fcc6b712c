// Several jobs, one pool of clients: which job sees which client as free.
//
// A client does one task at a time. The jobs stand in an order: by priority, then by who waited longest since
// its last round opened. A free client is seen by the first of them; by the next ones only while none before
// is gathering clients for a round that it could open. So a job with the higher priority gets all it can use,
// equal ones take turns round by round, and no two jobs hold the halves that each needs of the other.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/ids.hpp"
#include "server/round/machine.hpp"

namespace fedllm::server::round {

// Whether a job waits for clients to open or save a round with, and enough of them exist. Asynchronous jobs
// and final evaluations gather nobody: they put each client to work at once.
bool gathers(const JobState& state);

// What a job has to be told: the event ClientFree, or ClientBusy.
struct Tidings {
    JobId job;
    ClientId client;
    bool free = false;
    bool operator==(const Tidings&) const = default;
};

// A value. After each change call next() until it has nothing more, and act on each before the next: whoever
// is told first may take the client.
class Schedule {
public:
    void add(const JobId& job, std::uint32_t priority, const std::string& base_model);
    void remove(const JobId& job);
    void update(const JobId& job, bool gathering, Timestamp last_opened);

    void join(const ClientId& client, const std::vector<std::string>& base_models);  // also anew
    void leave(const ClientId& client);
    void take(const JobId& job, const ClientId& client);
    void release(const JobId& job, const ClientId& client);

    const JobId* holder(const ClientId& client) const;
    const std::vector<JobId>& order() const { return order_; }
    bool can_train(const JobId& job, const ClientId& client) const;
    // Whether the job may ask this client; `once_free`: when it wants nothing more of its present task.
    bool sees(const JobId& job, const ClientId& client, bool once_free = false) const;
    void told(const Tidings& tidings);  // by other means than next()
    std::optional<Tidings> next();

private:
    struct Job {
        std::uint32_t priority = 0;
        std::string base_model;
        bool gathering = false;
        Timestamp last_opened{};
        std::map<ClientId, bool> told;
    };
    struct Client {
        std::set<std::string> base_models;
        std::optional<JobId> holder;
    };

    void sort();
    void look_again_at_all();

    std::map<JobId, Job> jobs_;
    std::vector<JobId> order_;
    std::map<ClientId, Client> clients_;
    std::set<ClientId> changed_;  // what the jobs were told of them may be wrong
};

}  // namespace fedllm::server::round
