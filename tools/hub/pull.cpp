#include "tools/hub/pull.hpp"

#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <utility>

#include "common/base/text.hpp"
#include "common/hub/cache.hpp"
#include "tools/hub/blob_download.hpp"

namespace fedllm::tools::hub {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kListingBytesMax = std::size_t{64} << 20;
constexpr std::chrono::milliseconds kLongestWait{30'000};

// What a model is loaded from: weights in safetensors, configuration, tokenizer, templates. Not other
// frameworks' copies of the weights.
const std::vector<std::string>& usual_files() {
    static const std::vector<std::string> globs{"*.safetensors", "*.json",  "*.txt",
                                                "*.jinja",       "*.model", "*.md"};
    return globs;
}

bool wanted(const RemoteFile& file, const std::vector<std::string>& include) {
    const auto fits = [&](const std::string& glob) {
        return ::fnmatch(glob.c_str(), file.path.c_str(), 0) == 0;
    };
    if (!include.empty()) return std::any_of(include.begin(), include.end(), fits);
    const bool at_top = file.path.find('/') == std::string::npos;
    return at_top && std::any_of(usual_files().begin(), usual_files().end(), fits);
}

bool is_revision(const std::string& text) {
    return !text.empty() && text.size() <= 200 && text.front() != '/' && text.back() != '/' &&
           text.find("..") == text.npos && text.find("//") == text.npos &&
           std::all_of(text.begin(), text.end(), [](unsigned char c) { return c > 0x20 && c != '\\'; });
}

bool is_transient(Errc code) { return code == Errc::Timeout || code == Errc::PeerClosed; }
bool is_transient(long status) { return status == 408 || status == 429 || status >= 500; }

class Puller {
public:
    explicit Puller(const PullOptions& options)
        : options_(options),
          client_(options.http),
          model_(fedllm::hub::model_cache(options.root, options.id)) {}

    Result<Pulled> run() {
        FEDLLM_TRY(const Repository repository, list());
        std::vector<RemoteFile> files;
        for (const RemoteFile& file : repository.files) {
            if (!wanted(file, options_.include)) continue;
            files.push_back(file);
            progress_.size_all += file.size;
        }
        if (files.empty()) {
            return make_error(Errc::NotFound, options_.id + " at " + options_.revision +
                                                  " has none of the files asked for; see --include");
        }
        if (progress_.size_all > options_.bytes_max) {
            return make_error(Errc::TooLarge, options_.id + ": " + format_bytes(progress_.size_all) +
                                                  " in all, and at most " + format_bytes(options_.bytes_max) +
                                                  " are fetched");
        }
        const Path snapshot = model_ / "snapshots" / repository.commit;
        for (const RemoteFile& file : files) {
            FEDLLM_TRY_VOID(fetch(file, repository.commit, snapshot));
        }
        FEDLLM_TRY_VOID(write_ref(repository.commit));
        return Pulled{snapshot, repository.commit, files.size(), fetched_};
    }

private:
    Result<Repository> list() {
        const std::string url = options_.endpoint + "/api/models/" + options_.id + "/revision/" +
                                url_escape(options_.revision, Slashes::Encode) + "?blobs=true";
        std::string text;
        FEDLLM_TRY_VOID(attempt("the list of files", [&]() -> Result<HttpResponse> {
            text.clear();
            return client_.get(url, options_.token, 0,
                               [&](const HttpResponse&, std::string_view bytes) -> Result<void> {
                                   if (bytes.size() > kListingBytesMax - text.size()) {
                                       return make_error(Errc::TooLarge, "the list of files is too long");
                                   }
                                   text += bytes;
                                   return {};
                               });
        }));
        return parse_repository(text, options_.id);
    }

    // The link too is made under the lock of the content.
    Result<void> fetch(const RemoteFile& file, const std::string& commit, const Path& snapshot) {
        FEDLLM_TRY(auto blob, BlobDownload::open(model_ / "blobs" / file.etag, lock_path(file.etag), file));
        progress_.file = file.path;
        progress_.size = file.size;
        if (!blob.present()) {
            const bool resumed = blob.size() > 0;
            auto done = download(file, commit, blob);
            // A fragment of an earlier attempt may be what is wrong: once more from the beginning.
            if (!done && done.error().code == Errc::DigestMismatch && resumed)
                done = download(file, commit, blob);
            FEDLLM_TRY_VOID(std::move(done));
        }
        report(file.size);
        progress_.bytes_all += file.size;
        return link(file, snapshot);
    }

    Result<void> download(const RemoteFile& file, const std::string& commit, BlobDownload& blob) {
        const std::string url = options_.endpoint + "/" + options_.id + "/resolve/" + commit + "/" +
                                url_escape(file.path, Slashes::Keep);
        std::uint64_t furthest = blob.size();
        if (blob.size() < file.size) {
            FEDLLM_TRY_VOID(attempt(file.path, [&]() -> Result<HttpResponse> {
                bool begun = false;
                const std::uint64_t from = blob.size();
                return client_.get(url, options_.token, from,
                                   [&](const HttpResponse& response, std::string_view bytes) -> Result<void> {
                                       // A server may answer a range with the whole.
                                       if (!begun && (response.status == 200 || response.first != from)) {
                                           FEDLLM_TRY_VOID(blob.restart());
                                           if (response.first != 0) {
                                               return make_error(Errc::PeerClosed,
                                                                 "the server sent another range");
                                           }
                                       }
                                       begun = true;
                                       FEDLLM_TRY_VOID(blob.append(bytes));
                                       progressed_ = progressed_ || blob.size() > furthest;
                                       furthest = std::max(furthest, blob.size());
                                       fetched_ += bytes.size();
                                       report(blob.size());
                                       return {};
                                   });
            }));
            if (blob.size() < file.size) return short_of(file, blob.size());
        }
        return blob.commit();
    }

    static Error short_of(const RemoteFile& file, std::uint64_t size) {
        return make_error(Errc::DigestMismatch, file.path + ": " + std::to_string(size) + " bytes came of " +
                                                    std::to_string(file.size) + " that were announced");
    }

    // Repeats what fails for a while; attempts count anew whenever a file grew beyond where it was.
    template <class Get>
    Result<void> attempt(const std::string& what, Get get) {
        auto wait = options_.first_wait;
        for (int tries = 1;; ++tries) {
            progressed_ = false;
            const Result<HttpResponse> response = get();
            if (response && response->status >= 200 && response->status < 300) return {};
            const bool transient =
                response ? is_transient(response->status) : is_transient(response.error().code);
            if (progressed_) {
                tries = 0;
                wait = options_.first_wait;
            }
            if (!transient || tries >= options_.attempts) {
                return with_context(response ? refusal(*response) : response.error(), what);
            }
            const std::chrono::seconds asked(response ? std::min<std::uint64_t>(response->retry_after_s, 300)
                                                      : 0);
            std::this_thread::sleep_for(std::max<std::chrono::milliseconds>(wait, asked));
            wait = std::min(wait * 2, kLongestWait);
        }
    }

    Error refusal(const HttpResponse& response) const {
        const std::string page = options_.endpoint + "/" + options_.id;
        const std::string said = response.reason.empty() ? "" : " (" + printable(response.reason) + ")";
        const std::string token_help = "set HF_TOKEN, or write one to HF_HOME/token";
        switch (response.status) {
            case 401:
                return make_error(Errc::PermissionDenied,
                                  page + ": " +
                                      (options_.token.empty()
                                           ? "no such model, or it wants a token: " + token_help
                                           : "the hub does not accept this token for it; " + token_help) +
                                      said);
            case 403:
                return make_error(
                    Errc::PermissionDenied,
                    page + ": not open to this token; accept the model's terms on that page" + said);
            case 404:
                return make_error(Errc::NotFound,
                                  page + ": no such model, revision or file: " + options_.revision + said);
            default:
                return make_error(
                    response.status == 429 ? Errc::Timeout : Errc::PeerClosed,
                    page + ": the hub answers with status " + std::to_string(response.status) + said);
        }
    }

    static std::string printable(const std::string& text) {
        std::string plain = text;
        std::replace_if(
            plain.begin(), plain.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
        return plain;
    }

    // snapshots/COMMIT/a/b -> ../../../blobs/ETAG, replaced in one step.
    Result<void> link(const RemoteFile& file, const Path& snapshot) {
        const Path path = snapshot / file.path;
        FEDLLM_TRY_VOID(make_directories(path.parent_path()));
        const Path target = (model_ / "blobs" / file.etag).lexically_relative(path.parent_path());
        std::error_code code;
        if (fs::read_symlink(path, code) == target) return {};
        Path temporary = path;
        temporary += ".link-" + std::to_string(::getpid());
        fs::remove(temporary, code);
        fs::create_symlink(target, temporary, code);
        if (!code) fs::rename(temporary, path, code);
        if (!code) return {};
        return make_error(Errc::IoFailed, path.string() + ": linking: " + code.message());
    }

    Result<void> write_ref(const std::string& commit) {
        if (options_.revision == commit) return {};
        FEDLLM_TRY(const FileLock lock, FileLock::take(lock_path("refs")));
        const Path path = model_ / "refs" / options_.revision;
        FEDLLM_TRY_VOID(make_directories(path.parent_path()));
        return write_file_atomically(path, commit);
    }

    Path lock_path(const std::string& name) const {
        return options_.root / ".locks" / model_.filename() / (name + ".lock");
    }

    void report(std::uint64_t bytes) {
        if (!options_.progress) return;
        progress_.bytes = bytes;
        PullProgress now = progress_;
        now.bytes_all += bytes;
        options_.progress(now);
    }

    const PullOptions& options_;
    HttpClient client_;
    Path model_;
    PullProgress progress_;
    std::uint64_t fetched_ = 0;
    bool progressed_ = false;  // the last attempt brought bytes that no attempt had brought
};

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

std::string trimmed(const std::string& text) {
    const auto first = text.find_first_not_of(" \t\r\n");
    return first == text.npos ? "" : text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

Path token_file() {
    if (const std::string path = environment("HF_TOKEN_PATH"); !path.empty()) return path;
    if (const std::string home = environment("HF_HOME"); !home.empty()) return Path(home) / "token";
    const std::string cache = environment("XDG_CACHE_HOME");
    return (cache.empty() ? Path(environment("HOME")) / ".cache" : Path(cache)) / "huggingface" / "token";
}

}  // namespace

Result<PullOptions> options_from_environment() {
    if (const std::string offline = environment("HF_HUB_OFFLINE"); !offline.empty() && offline != "0") {
        return make_error(Errc::PermissionDenied, "HF_HUB_OFFLINE is set: nothing is fetched");
    }
    PullOptions options;
    options.root = fedllm::hub::cache_root();
    if (std::string endpoint = environment("HF_ENDPOINT"); !endpoint.empty()) {
        while (endpoint.ends_with('/')) endpoint.pop_back();
        options.endpoint = endpoint;
    }
    options.token = trimmed(environment("HF_TOKEN"));
    if (options.token.empty()) {
        if (const auto text = read_file(token_file(), 4096)) options.token = trimmed(*text);
    }
    const auto printable = [](unsigned char c) { return c > 0x20 && c < 0x7F; };
    if (!std::all_of(options.token.begin(), options.token.end(), printable)) {
        return make_error(Errc::InvalidArgument, "the hub's token has characters that no token has");
    }
    return options;
}

Result<Pulled> pull(const PullOptions& options) {
    if (!fedllm::hub::is_model_id(options.id)) {
        return make_error(Errc::InvalidArgument,
                          "'" + options.id + "' is not a model of the hub: write ORG/NAME");
    }
    if (!is_revision(options.revision)) {
        return make_error(Errc::InvalidArgument, "'" + options.revision + "' is not a branch, tag or commit");
    }
    return Puller(options).run();
}

}  // namespace fedllm::tools::hub
