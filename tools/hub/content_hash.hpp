// What the hub names contents by: SHA-256 for large files, git's SHA-1 of a blob for the others.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX, kept out of our headers

namespace fedllm::tools::hub {

enum class HashKind { Sha256, GitBlob };

// A running hash of one content. Move-only; finish() ends it.
class ContentHash {
public:
    ContentHash(HashKind kind, std::uint64_t size);  // git's begins with the size

    void update(std::string_view bytes);
    std::string finish();  // lower-case hexadecimal

private:
    struct Free {
        void operator()(evp_md_ctx_st* context) const;
    };
    std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace fedllm::tools::hub
