// Any bytes as what a stranger may show or an operator may copy: a certificate (DER), a PEM file, a URI.
// Whoever is found in it has a good name and encodes back to the same URI.
#include <openssl/x509.h>

#include <cstdint>
#include <string_view>

#include "common/net/certificates.hpp"
#include "common/net/openssl.hpp"

using namespace fedllm;

namespace {

void check(const Result<net::PeerIdentity>& identity) {
    if (!identity) return;
    FEDLLM_CHECK(net::check_peer_name(identity->name.get()), "a good name");
    const auto again = net::identity_from_uri(net::to_uri(identity->role, identity->name.get()));
    FEDLLM_CHECK(again && again->name == identity->name && again->role == identity->role, "the same again");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    if (data[0] % 3 == 0) {
        const unsigned char* bytes = data + 1;
        const net::Certificate certificate(d2i_X509(nullptr, &bytes, static_cast<long>(size - 1)));
        if (certificate) {
            check(net::identity_of(*certificate));
            (void)net::not_after_of(*certificate);
        }
        net::openssl_reasons();
    } else if (data[0] % 3 == 1) {
        check(net::identity_from_uri(text));
    } else {
        (void)net::read_certificate(text);
        (void)net::key_from_pem(text);
        (void)net::crls_from_pem(text);
    }
    return 0;
}
