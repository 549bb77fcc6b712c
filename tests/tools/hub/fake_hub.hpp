// A server that speaks the hub's paths, with the moods of a real network: cuts, redirects, refusals.
#pragma once

#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tools/hub/content_hash.hpp"

namespace fedllm::tools::hub::testing {

namespace asio = boost::asio;
namespace http = boost::beast::http;

struct Seen {
    std::string path, authorization, range;
};

struct Reply {
    unsigned status = 200;
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body;
    std::size_t cut_after = std::string::npos;  // bytes of the body that are sent before the line goes dead
};

// One request for each connection, one connection at a time. Handlers run on the server's thread.
class HttpServer {
public:
    using Handler = std::function<Reply(const Seen&)>;

    explicit HttpServer(Handler handler) : handler_(std::move(handler)) {
        acceptor_.emplace(io_, asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), 0));
        thread_ = std::thread([this] { serve(); });
    }
    ~HttpServer() {
        stopping_ = true;
        asio::ip::tcp::socket knock(io_);
        boost::system::error_code ignored;
        knock.connect(acceptor_->local_endpoint(), ignored);
        thread_.join();
    }

    std::string url() const {
        return "http://127.0.0.1:" + std::to_string(acceptor_->local_endpoint().port());
    }
    std::vector<Seen> seen() const {
        const std::lock_guard lock(lock_);
        return seen_;
    }

private:
    void serve() {
        while (!stopping_) {
            asio::ip::tcp::socket socket(io_);
            boost::system::error_code code;
            acceptor_->accept(socket, code);
            if (!code && !stopping_) answer(socket);
        }
    }

    void answer(asio::ip::tcp::socket& socket) {
        boost::beast::flat_buffer buffer;
        http::request<http::empty_body> request;
        boost::system::error_code code;
        http::read(socket, buffer, request, code);
        if (code) return;
        const auto text = [](boost::beast::string_view view) {
            return std::string(view.data(), view.size());
        };
        const Seen seen{text(request.target()), text(request[http::field::authorization]),
                        text(request[http::field::range])};
        {
            const std::lock_guard lock(lock_);
            seen_.push_back(seen);
        }
        const Reply reply = handler_(seen);
        std::string head = "HTTP/1.1 " + std::to_string(reply.status) +
                           " -\r\nConnection: close\r\nContent-Length: " + std::to_string(reply.body.size()) +
                           "\r\n";
        for (const auto& [name, value] : reply.headers) head += name + ": " + value + "\r\n";
        asio::write(socket, asio::buffer(head + "\r\n" + reply.body.substr(0, reply.cut_after)), code);
        socket.shutdown(asio::ip::tcp::socket::shutdown_both, code);
    }

    Handler handler_;
    asio::io_context io_;
    std::optional<asio::ip::tcp::acceptor> acceptor_;
    std::atomic<bool> stopping_ = false;
    mutable std::mutex lock_;
    std::vector<Seen> seen_;
    std::thread thread_;
};

inline std::string hash_of(HashKind kind, const std::string& content) {
    ContentHash hash(kind, content.size());
    hash.update(content);
    return hash.finish();
}

// The whole of a content, or the part that "bytes=N-" asks for.
inline Reply content_reply(const std::string& content, const Seen& seen) {
    if (seen.range.empty()) return {200, {}, content};
    const std::size_t from = std::stoul(seen.range.substr(seen.range.find('=') + 1));
    const std::string span = std::to_string(from) + "-" + std::to_string(content.size() - 1);
    return {206,
            {{"Content-Range", "bytes " + span + "/" + std::to_string(content.size())}},
            content.substr(from)};
}

// One model, "org/name": large files are redirected to a second server, as the hub does.
class FakeHub {
public:
    static constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

    std::map<std::string, std::string> small{{"config.json", "{\"a\": 1}\n"}, {"tokenizer.json", "{}"}};
    std::map<std::string, std::string> large{{"model.safetensors", std::string(300'000, 'w')}};
    // Looked at first; set before the first request.
    std::function<std::optional<Reply>(const Seen&)> hub_mood, store_mood;
    std::function<void(nlohmann::json&)> edit_listing;

    HttpServer store{[this](const Seen& seen) { return store_reply(seen); }};
    HttpServer hub{[this](const Seen& seen) { return hub_reply(seen); }};

    std::string listing() const {
        nlohmann::json siblings = nlohmann::json::array();
        for (const auto& [path, content] : small) {
            siblings.push_back({{"rfilename", path},
                                {"size", content.size()},
                                {"blobId", hash_of(HashKind::GitBlob, content)}});
        }
        for (const auto& [path, content] : large) {
            siblings.push_back({{"rfilename", path},
                                {"size", content.size()},
                                {"blobId", std::string(40, '0')},
                                {"lfs",
                                 {{"sha256", hash_of(HashKind::Sha256, content)},
                                  {"size", content.size()},
                                  {"pointerSize", 134}}}});
        }
        nlohmann::json json{{"id", "org/name"}, {"sha", kCommit}, {"siblings", siblings}};
        if (edit_listing) edit_listing(json);
        return json.dump();
    }

private:
    Reply hub_reply(const Seen& seen) {
        if (hub_mood) {
            if (auto reply = hub_mood(seen)) return *reply;
        }
        if (seen.path == "/api/models/org/name/revision/main?blobs=true") return {200, {}, listing()};
        const std::string resolve = std::string("/org/name/resolve/") + kCommit + "/";
        if (!seen.path.starts_with(resolve))
            return {404, {{"X-Error-Message", "Repository not found"}}, "nothing"};
        const std::string path = seen.path.substr(resolve.size());
        if (large.contains(path)) {
            return {302, {{"Location", store.url() + "/" + path + "?signature=1"}}, "go there"};
        }
        return small.contains(path) ? content_reply(small.at(path), seen) : Reply{404, {}, ""};
    }
    Reply store_reply(const Seen& seen) {
        if (store_mood) {
            if (auto reply = store_mood(seen)) return *reply;
        }
        const auto found = large.find(seen.path.substr(1, seen.path.find('?') - 1));
        return found == large.end() ? Reply{404, {}, ""} : content_reply(found->second, seen);
    }
};

}  // namespace fedllm::tools::hub::testing
