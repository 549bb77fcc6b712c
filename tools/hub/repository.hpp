// What the hub says is in a model repository at a revision.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"
#include "tools/hub/content_hash.hpp"

namespace fedllm::tools::hub {

struct RemoteFile {
    std::string path;  // within the repository, checked: relative, no "..", no empty part
    std::uint64_t size = 0;
    HashKind kind = HashKind::GitBlob;
    std::string etag;  // the hash in hexadecimal: the name of the blob in the cache

    bool operator==(const RemoteFile&) const = default;
};

struct Repository {
    std::string commit;
    std::vector<RemoteFile> files;
};

// The answer to GET /api/models/ORG/NAME/revision/REV?blobs=true. Malformed for whatever could not be stored
// safely under these names. Limits: 100,000 files of at most 4 TiB.
Result<Repository> parse_repository(std::string_view json, std::string_view source);

// Percent-encodes what may not stand in one part of a URL's path; keeps '/' where `slashes` says so.
enum class Slashes { Encode, Keep };
std::string url_escape(std::string_view text, Slashes slashes);

}  // namespace fedllm::tools::hub
