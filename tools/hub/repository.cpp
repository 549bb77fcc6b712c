#include "tools/hub/repository.hpp"

#include <algorithm>
#include <cctype>

#include "common/formats/json.hpp"

namespace fedllm::tools::hub {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kFilesMax = 100'000;
constexpr std::uint64_t kFileBytesMax = std::uint64_t{4} << 40;
constexpr std::size_t kPathBytesMax = 1024;

bool is_hex(std::string_view text, std::size_t digits) {
    return text.size() == digits && std::all_of(text.begin(), text.end(), [](unsigned char c) {
               return std::isdigit(c) != 0 || (c >= 'a' && c <= 'f');
           });
}

bool is_safe_path(std::string_view path) {
    if (path.empty() || path.size() > kPathBytesMax) return false;
    if (std::any_of(path.begin(), path.end(), [](unsigned char c) { return c < 0x20 || c == '\\'; })) {
        return false;
    }
    for (std::size_t start = 0; start <= path.size();) {
        const std::size_t end = std::min(path.find('/', start), path.size());
        const std::string_view part = path.substr(start, end - start);
        if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
        start = end + 1;
    }
    return true;
}

std::string text_at(const Json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

Result<RemoteFile> parse_file(const Json& entry) {
    RemoteFile file;
    if (!entry.is_object()) return make_error(Errc::Malformed, "an entry of siblings is not an object");
    file.path = text_at(entry, "rfilename");
    if (!is_safe_path(file.path)) {
        return make_error(Errc::Malformed,
                          "the file name " + formats::in_quotes(file.path) + " is not one to write under");
    }
    const auto fail = [&](const std::string& what) {
        return make_error(Errc::Malformed, formats::in_quotes(file.path) + ": " + what);
    };
    const auto lfs = entry.find("lfs");
    const bool large = lfs != entry.end() && lfs->is_object();
    file.kind = large ? HashKind::Sha256 : HashKind::GitBlob;
    file.etag = large ? text_at(*lfs, "sha256") : text_at(entry, "blobId");
    if (!is_hex(file.etag, large ? 64 : 40)) {
        return fail("no " + std::string(large ? "lfs.sha256" : "blobId") + " to check its content by");
    }
    const Json size = large ? lfs->value("size", Json()) : entry.value("size", Json());
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() > kFileBytesMax) {
        return fail("no size that we take");
    }
    file.size = size.get<std::uint64_t>();
    return file;
}

}  // namespace

Result<Repository> parse_repository(std::string_view text, std::string_view source) {
    FEDLLM_TRY(const Json json, formats::parse_json(text, source));
    const auto fail = [&](const std::string& what) {
        return make_error(Errc::Malformed, std::string(source) + ": " + what);
    };
    if (!json.is_object()) return fail("expected an object");
    Repository repository;
    repository.commit = text_at(json, "sha");
    if (!is_hex(repository.commit, 40)) return fail("'sha' is not a commit");
    const Json siblings = json.value("siblings", Json());
    if (!siblings.is_array() || siblings.size() > kFilesMax) return fail("'siblings' is not a list of files");
    for (const Json& entry : siblings) {
        auto file = parse_file(entry);
        if (!file) return with_context(file.error(), source);
        repository.files.push_back(*std::move(file));
    }
    return repository;
}

std::string url_escape(std::string_view text, Slashes slashes) {
    std::string escaped;
    for (const unsigned char c : text) {
        const bool plain = std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == '~' ||
                           (c == '/' && slashes == Slashes::Keep);
        if (plain) {
            escaped += static_cast<char>(c);
        } else {
            escaped += '%';
            escaped += "0123456789ABCDEF"[c >> 4];
            escaped += "0123456789ABCDEF"[c & 15];
        }
    }
    return escaped;
}

}  // namespace fedllm::tools::hub
