// Until when each of those still asked is waited for. A round closes at the latest of these moments.
#pragma once

#include <map>
#include <optional>
#include <set>

#include "common/base/clock.hpp"
#include "common/base/ids.hpp"

namespace fedllm::server::round {

// A value. Kept, because with a crowd asked, looking at all of them at each event is most of the work.
class LastMoments {
public:
    void put(const ClientId& client, Duration moment) {
        erase(client);
        of_.emplace(client, moment);
        all_.insert(moment);
    }
    void erase(const ClientId& client) {
        const auto known = of_.find(client);
        if (known == of_.end()) return;
        all_.erase(all_.find(known->second));
        of_.erase(known);
    }
    std::optional<Duration> latest() const {
        return all_.empty() ? std::nullopt : std::optional(*all_.rbegin());
    }
    bool operator==(const LastMoments&) const = default;

private:
    std::map<ClientId, Duration> of_;
    std::multiset<Duration> all_;
};

}  // namespace fedllm::server::round
