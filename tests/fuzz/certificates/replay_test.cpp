#include <gtest/gtest.h>
#include <openssl/x509.h>

#include <string>
#include <vector>

#include "common/base/philox.hpp"
#include "common/net/openssl.hpp"
#include "common/net/revocation.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fedllm {
namespace {

void run(const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

std::string der_of(const std::string& pem) {
    const auto certificates = net::certificates_from_pem(pem).value();
    unsigned char* bytes = nullptr;
    const int size = i2d_X509(certificates.front().get(), &bytes);
    std::string der(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
    OPENSSL_free(bytes);
    return der;
}

std::vector<std::string> seeds() {
    const auto validity = net::valid_for(SystemClock().now(), std::chrono::days(1));
    const auto authority = net::create_authority("fuzz", validity).value();
    const auto client = net::issue_certificate(authority, {.role = net::Role::Client,
                                                           .name = "site-a",
                                                           .dns_names = {},
                                                           .addresses = {},
                                                           .validity = validity});
    const auto list = net::revoke(authority, "", {client->certificate_pem}, SystemClock().now());
    return {"",
            std::string(1, '\0') + der_of(client->certificate_pem),
            std::string(1, '\0') + der_of(authority.certificate_pem),
            "\1fedllm://client/site-a",
            "\1fedllm://operator/a.b_c-d",
            "\2" + client->certificate_pem,
            "\2" + client->key_pem,
            "\2" + list->crl_pem};
}

TEST(CertificatesFuzz, SeedsAndTheirMutationsNeverCrash) {
    Rng rng(1, "fuzz/certificates");
    for (const std::string& seed : seeds()) {
        run(seed);
        for (int i = 0; i < 3000 && !seed.empty(); ++i) {
            std::string input = seed;
            for (auto edits = 1 + rng.below(4); edits > 0 && input.size() > 1; --edits) {
                const auto at = 1 + static_cast<std::size_t>(rng.below(input.size() - 1));
                switch (rng.below(4)) {
                    case 0: input[at] = static_cast<char>(rng.next_u32()); break;
                    case 1: input[at] = static_cast<char>(input[at] ^ (1 << rng.below(8))); break;
                    case 2: input.erase(at, 1 + static_cast<std::size_t>(rng.below(4))); break;
                    default: input.insert(at, 1, static_cast<char>(rng.next_u32()));
                }
            }
            run(input);
        }
    }
}

}  // namespace
}  // namespace fedllm
