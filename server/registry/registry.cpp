#include "server/registry/registry.hpp"

#include <algorithm>
#include <utility>

namespace fedllm::server::registry {

bool Member::can_train(std::string_view base_model) const {
    return std::find(base_models.begin(), base_models.end(), base_model) != base_models.end();
}

bool Member::can_decode(std::string_view codec) const {
    return std::find(codecs.begin(), codecs.end(), codec) != codecs.end();
}

std::optional<SessionId> Registry::join(Member member) {
    const auto [place, is_new] = members_.try_emplace(member.client);
    std::optional<SessionId> replaced;
    if (!is_new) replaced = place->second.session;
    place->second = std::move(member);
    left_.erase(place->first);
    return replaced;
}

bool Registry::leave(const ClientId& client, SessionId session, Timestamp now) {
    if (!is_current(client, session)) return false;
    members_.erase(client);
    left_[client] = now;
    return true;
}

const Member* Registry::find(const ClientId& client) const {
    const auto place = members_.find(client);
    return place == members_.end() ? nullptr : &place->second;
}

std::optional<Timestamp> Registry::left(const ClientId& client) const {
    const auto place = left_.find(client);
    return place == left_.end() ? std::nullopt : std::optional(place->second);
}

bool Registry::is_current(const ClientId& client, SessionId session) const {
    const Member* member = find(client);
    return member && member->session == session;
}

std::vector<ClientId> Registry::eligible(std::string_view base_model) const {
    std::vector<ClientId> clients;
    for (const auto& [client, member] : members_) {
        if (member.can_train(base_model)) clients.push_back(client);
    }
    return clients;
}

}  // namespace fedllm::server::registry
