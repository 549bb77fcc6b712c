#include "tools/hub/http.hpp"

#include <curl/curl.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "common/base/version.hpp"

namespace fedllm::tools::hub {
namespace {

constexpr std::size_t kReasonBytesMax = 300;

struct UrlFree {
    void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
struct ListFree {
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

std::string part_of(CURLU* url, CURLUPart part, unsigned flags = 0) {
    char* text = nullptr;
    if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return "";
    std::string copy = text;
    curl_free(text);
    return copy;
}

struct Origin {
    std::string scheme, host, port;

    bool operator==(const Origin&) const = default;
    bool keeps_secrets() const {
        return scheme == "https" || host == "localhost" || host == "127.0.0.1" || host == "[::1]";
    }
};

Result<Origin> origin_of(const std::string& url) {
    const std::unique_ptr<CURLU, UrlFree> parsed(curl_url());
    if (curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) {
        return make_error(Errc::Malformed, "'" + url.substr(0, 200) + "' is not a URL");
    }
    Origin origin{part_of(parsed.get(), CURLUPART_SCHEME), part_of(parsed.get(), CURLUPART_HOST),
                  part_of(parsed.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT)};
    if (origin.scheme == "https" || origin.scheme == "http") return origin;
    return make_error(Errc::Malformed, "'" + url.substr(0, 200) + "' is neither http nor https");
}

Error transfer_error(CURLcode code, const std::string& host, const char* detail) {
    const std::string what = host + ": " + (*detail != '\0' ? detail : curl_easy_strerror(code));
    switch (code) {
        case CURLE_OPERATION_TIMEDOUT: return make_error(Errc::Timeout, what);
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_SSL_CONNECT_ERROR: return make_error(Errc::PeerUntrusted, what);
        default: return make_error(Errc::PeerClosed, what);
    }
}

std::uint64_t number_in(std::string_view text) {
    std::uint64_t number = 0;
    const auto start = std::min(text.find_first_of("0123456789"), text.size());
    std::from_chars(text.data() + start, text.data() + text.size(), number);
    return number;
}

bool same_name(std::string_view a, std::string_view b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

}  // namespace

struct HttpClient::Handle {
    CURL* curl = curl_easy_init();
    HttpResponse response;
    const HttpSink* sink = nullptr;
    std::optional<Error> refused;  // by the sink

    ~Handle() { curl_easy_cleanup(curl); }

    static std::size_t on_header(char* data, std::size_t, std::size_t size, void* self) {
        static_cast<Handle*>(self)->header({data, size});
        return size;
    }
    static std::size_t on_body(char* data, std::size_t, std::size_t size, void* self) {
        return static_cast<Handle*>(self)->body({data, size}) ? size : CURL_WRITEFUNC_ERROR;
    }

    void header(std::string_view line) {
        const auto colon = line.find(':');
        if (colon == line.npos) return;
        const auto name = line.substr(0, colon);
        std::string_view value = line.substr(colon + 1);
        while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
        while (!value.empty() && (value.back() == '\r' || value.back() == '\n')) value.remove_suffix(1);
        if (same_name(name, "content-range")) response.first = number_in(value);
        if (same_name(name, "retry-after")) response.retry_after_s = number_in(value);
        if (same_name(name, "x-error-message")) response.reason = value.substr(0, kReasonBytesMax);
    }

    bool body(std::string_view bytes) {
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &response.status);
        if (response.status == 200 || response.status == 206) {
            if (auto taken = (*sink)(response, bytes); !taken) refused = taken.error();
            return !refused;
        }
        return true;  // the page that comes with an error or a redirect
    }
};

HttpClient::HttpClient(HttpLimits limits) : limits_(limits), handle_(std::make_unique<Handle>()) {}
HttpClient::~HttpClient() = default;

Result<HttpResponse> HttpClient::get(const std::string& url, const std::string& token, std::uint64_t from,
                                     const HttpSink& sink) {
    FEDLLM_TRY(const Origin home, origin_of(url));
    std::string next = url;
    for (int hop = 0; hop <= limits_.redirects; ++hop) {
        FEDLLM_TRY(const Origin origin, origin_of(next));
        if (home.scheme == "https" && origin.scheme != "https") {
            return make_error(Errc::Malformed,
                              home.host + " leads to " + origin.host + " without encryption; not followed");
        }
        const bool trusted = origin == home && origin.keeps_secrets();
        std::string location;
        FEDLLM_TRY(HttpResponse response, get_once(next, trusted ? token : "", from, sink, location));
        if (response.status < 300 || response.status >= 400 || location.empty()) return response;
        next = std::move(location);
    }
    return make_error(Errc::Malformed, home.host + " redirects without end");
}

Result<HttpResponse> HttpClient::get_once(const std::string& url, const std::string& token,
                                          std::uint64_t from, const HttpSink& sink, std::string& location) {
    CURL* curl = handle_->curl;
    char detail[CURL_ERROR_SIZE] = "";
    handle_->response = {};
    handle_->sink = &sink;
    handle_->refused.reset();
    curl_easy_reset(curl);
    curl_slist* list = nullptr;
    if (!token.empty()) list = curl_slist_append(list, ("Authorization: Bearer " + token).c_str());
    const std::unique_ptr<curl_slist, ListFree> headers(list);
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
    curl_easy_setopt(curl, CURLOPT_USERAGENT, ("fedllm/" + std::string(kVersion)).c_str());
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, static_cast<long>(limits_.connect.count()));
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(limits_.stall.count()));
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &Handle::on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, handle_.get());
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Handle::on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, handle_.get());
    if (from > 0) curl_easy_setopt(curl, CURLOPT_RANGE, (std::to_string(from) + "-").c_str());
    const CURLcode code = curl_easy_perform(curl);
    if (handle_->refused) return *handle_->refused;
    if (code != CURLE_OK) return transfer_error(code, url.substr(0, url.find('?')), detail);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &handle_->response.status);
    char* target = nullptr;
    curl_easy_getinfo(curl, CURLINFO_REDIRECT_URL, &target);
    if (target != nullptr) location = target;
    return handle_->response;
}

}  // namespace fedllm::tools::hub
