#include "common/net/identity.hpp"

namespace fedllm::net {
namespace {

constexpr std::string_view kScheme = "fedllm://";

bool is_name_character(char c, bool first) {
    const bool letter_or_digit = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    return letter_or_digit || (!first && (c == '.' || c == '_' || c == '-'));
}

}  // namespace

std::string_view name(Role role) {
    switch (role) {
        case Role::Client: return "client";
        case Role::Operator: return "operator";
        case Role::Server: return "server";
    }
    return "unknown";
}

Result<Role> role_of(std::string_view text) {
    for (const Role role : {Role::Client, Role::Operator, Role::Server}) {
        if (name(role) == text) return role;
    }
    return make_error(Errc::InvalidArgument,
                      "role '" + std::string(text) + "' is none of client, operator, server");
}

Result<void> check_peer_name(std::string_view text) {
    bool good = !text.empty() && text.size() <= 64;
    for (std::size_t i = 0; good && i < text.size(); ++i) good = is_name_character(text[i], i == 0);
    if (good) return {};
    return make_error(Errc::InvalidArgument,
                      "the name '" + std::string(text.substr(0, 80)) +
                          "' must have 1 to 64 of a-z A-Z 0-9 . _ - and start with a letter "
                          "or digit");
}

std::string to_uri(Role role, std::string_view peer) {
    return std::string(kScheme) + std::string(name(role)) + "/" + std::string(peer);
}

Result<PeerIdentity> identity_from_uri(std::string_view uri) {
    const auto refuse = [&](std::string_view why) {
        return make_error(Errc::PeerUntrusted, "certificate URI '" + std::string(uri.substr(0, 120)) + "': " +
                                                   std::string(why) + "; expected fedllm://<role>/<name>");
    };
    if (!uri.starts_with(kScheme)) return refuse("not of this federation");
    const std::string_view rest = uri.substr(kScheme.size());
    const std::size_t slash = rest.find('/');
    if (slash == std::string_view::npos) return refuse("no name");
    const auto role = role_of(rest.substr(0, slash));
    if (!role) return refuse("unknown role");
    if (!check_peer_name(rest.substr(slash + 1))) return refuse("bad name");
    return PeerIdentity{ClientId(std::string(rest.substr(slash + 1))), *role, ""};
}

}  // namespace fedllm::net
