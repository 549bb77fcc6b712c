#include "common/base/result.hpp"

#include <cstdio>
#include <cstdlib>

namespace fedllm {
namespace {

struct Words {
    std::string_view name;
    std::string_view sentence;
};

Words words(Errc code) {
    switch (code) {
        case Errc::Internal: return {"internal", "a defect in FedLLM was contained; please report it"};
        case Errc::InvalidArgument: return {"invalid_argument", "the request makes no sense as given"};
        case Errc::InvalidConfig: return {"invalid_config", "a configuration file has a wrong key or value"};
        case Errc::InvalidFile: return {"invalid_file", "a file breaks its format"};
        case Errc::InvalidData: return {"invalid_data", "a data set line cannot be used"};
        case Errc::InvalidModel:
            return {"invalid_model", "a model folder is inconsistent or of an unsupported kind"};
        case Errc::Unsupported: return {"unsupported", "well-formed, but this version cannot do it"};
        case Errc::NotFound: return {"not_found", "the thing named is not there"};
        case Errc::AlreadyExists: return {"already_exists", "refusing to overwrite what exists"};
        case Errc::PermissionDenied: return {"permission_denied", "not allowed for this user or role"};
        case Errc::IoFailed: return {"io_failed", "the file system failed"};
        case Errc::StoreFailed: return {"store_failed", "the ledger failed"};
        case Errc::DeviceFailed: return {"device_failed", "the GPU cannot be used"};
        case Errc::PeerClosed: return {"peer_closed", "the other side closed the connection"};
        case Errc::PeerUntrusted: return {"peer_untrusted", "the other side could not prove who it is"};
        case Errc::Timeout: return {"timeout", "no progress before the deadline"};
        case Errc::TooLarge: return {"too_large", "a size beyond its limit was refused"};
        case Errc::Malformed: return {"malformed", "the bytes received are not the protocol"};
        case Errc::OutOfOrder: return {"out_of_order", "a valid message came at the wrong moment"};
        case Errc::ManifestMismatch: return {"manifest_mismatch", "tensors differ from the job's manifest"};
        case Errc::DigestMismatch: return {"digest_mismatch", "content does not hash to what was announced"};
        case Errc::NotFinite: return {"not_finite", "a tensor holds NaN or infinity"};
        case Errc::OutOfBounds: return {"out_of_bounds", "a value exceeds the job's clip bound"};
        case Errc::SampleCountLie: return {"sample_count_lie", "a sample count exceeds the job's limit"};
        case Errc::Duplicate: return {"duplicate", "this contribution was already counted"};
        case Errc::Stale: return {"stale", "this belongs to a round or task that is over"};
        case Errc::PolicyRefused: return {"policy_refused", "the client's own policy forbids this job"};
        case Errc::Cancelled: return {"cancelled", "the program is shutting down"};
    }
    return {"internal", "an unnamed error code"};
}

}  // namespace

std::string_view name(Errc code) { return words(code).name; }
std::string_view describe(Errc code) { return words(code).sentence; }

std::string to_string(const Error& error) {
    std::string text(name(error.code));
    if (!error.message.empty()) text += ": " + error.message;
    return text;
}

void check_failed(const char* expression, const char* file, int line, const std::string& what) {
    std::fprintf(stderr, "%s:%d: broken invariant: %s %s\n", file, line, expression, what.c_str());
    std::abort();
}

}  // namespace fedllm
