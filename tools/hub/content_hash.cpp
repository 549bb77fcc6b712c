#include "tools/hub/content_hash.hpp"

#include <openssl/evp.h>

#include "common/base/result.hpp"

namespace fedllm::tools::hub {

void ContentHash::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

ContentHash::ContentHash(HashKind kind, std::uint64_t size) : context_(EVP_MD_CTX_new()) {
    const EVP_MD* algorithm = kind == HashKind::Sha256 ? EVP_sha256() : EVP_sha1();
    FEDLLM_CHECK(context_ && EVP_DigestInit_ex(context_.get(), algorithm, nullptr) == 1, "OpenSSL hashes");
    if (kind == HashKind::GitBlob) update("blob " + std::to_string(size) + std::string(1, '\0'));
}

void ContentHash::update(std::string_view bytes) {
    FEDLLM_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1, "OpenSSL hashes");
}

std::string ContentHash::finish() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    FEDLLM_CHECK(EVP_DigestFinal_ex(context_.get(), digest, &size) == 1, "OpenSSL hashes");
    std::string text;
    for (unsigned i = 0; i < size; ++i) {
        text += "0123456789abcdef"[digest[i] >> 4];
        text += "0123456789abcdef"[digest[i] & 15];
    }
    return text;
}

}  // namespace fedllm::tools::hub
