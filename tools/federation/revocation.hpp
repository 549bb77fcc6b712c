// `fedllm revoke`: takes a member's certificates back.
#pragma once

#include <string>

#include "common/base/clock.hpp"
#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::tools::federation {

struct RevokeOptions {
    Path folder;       // that init_federation filled
    std::string name;  // of the client or operator
    Path certificate;  // only this one; empty: all that were issued to `name`
    Path crl;          // the list; empty: <folder>/crl.pem
};

struct Revoked {
    Path crl;
    std::size_t certificates = 0;  // 0: all of them had been taken back before
};

// NotFound when no certificate of that name was issued here.
Result<Revoked> revoke_member(const RevokeOptions& options, Timestamp now);

}  // namespace fedllm::tools::federation
