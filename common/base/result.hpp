// Errors as values: Result<T>, the error codes of the whole project, and the check for programmer errors.
//
// Expected failures (network, disk, peer, user file) travel as Result<T>. A broken invariant of our own is
// FEDLLM_CHECK: always on, prints the place, aborts. Exceptions may leave only constructors at start-up.
// Result is our own and not boost::system::result because kernels/ and the engine build where Boost is
// absent.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace fedllm {

// Each code is a metric label (its snake_case name) and has a sentence; see describe().
enum class Errc {
    Internal,          // a defect of ours that was contained
    InvalidArgument,   // the caller's request makes no sense
    InvalidConfig,     // a YAML file: unknown key, wrong type, out of bounds
    InvalidFile,       // a file whose bytes break its format
    InvalidData,       // a data set line or field that cannot be used
    InvalidModel,      // a model folder that is inconsistent or of an unsupported kind
    Unsupported,       // well-formed, but this version cannot do it
    NotFound,          // a file, job, client or tensor that is not there
    AlreadyExists,     // refusing to overwrite
    PermissionDenied,  // the file system or the role of a certificate says no
    IoFailed,          // the disk or file system failed
    StoreFailed,       // the ledger refused or failed
    DeviceFailed,      // a GPU that is absent, too old, too small, or failed at work
    PeerClosed,        // the other side went away
    PeerUntrusted,     // TLS: no certificate, foreign CA, expired, wrong name or ALPN
    Timeout,           // a deadline passed without progress
    TooLarge,          // a size beyond its limit, refused before allocation
    Malformed,         // bytes on the wire that are not the protocol
    OutOfOrder,        // a valid message at the wrong moment
    ManifestMismatch,  // a tensor with the wrong name, shape or dtype, or a wrong total size
    DigestMismatch,    // content does not hash to what was announced
    NotFinite,         // NaN or infinity in tensor values
    OutOfBounds,       // a value beyond the job's clip bound
    SampleCountLie,    // a sample count beyond the job's limit
    Duplicate,         // this contribution was already counted
    Stale,             // belongs to a round or task that is over
    PolicyRefused,     // the client's own policy forbids this job
    Cancelled,         // we are shutting down
};

std::string_view name(Errc code);      // "not_found": for metric labels and JSON
std::string_view describe(Errc code);  // one sentence for people

struct Error {
    Errc code = Errc::Internal;
    std::string message;  // names the file, line or field, what was expected, what to do

    bool operator==(const Error&) const = default;
};

std::string to_string(const Error& error);  // "not_found: no model folder at ..."

// A value or an Error. Test before use; value() on an error aborts with the error's text.
template <class T>
class [[nodiscard]] Result {
public:
    using value_type = T;

    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    bool has_value() const { return state_.index() == 0; }
    explicit operator bool() const { return has_value(); }

    T& value() &;
    const T& value() const&;
    T&& value() &&;
    T* operator->() { return &value(); }
    const T* operator->() const { return &value(); }
    T& operator*() & { return value(); }
    const T& operator*() const& { return value(); }
    T&& operator*() && { return std::move(*this).value(); }

    const Error& error() const;

private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    using value_type = void;

    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    bool has_value() const { return !error_; }
    explicit operator bool() const { return has_value(); }
    void value() const;
    const Error& error() const;

private:
    std::optional<Error> error_;
};

inline Error make_error(Errc code, std::string message) { return Error{code, std::move(message)}; }

// The same error with the place it surfaced put in front: "while reading X: ...".
inline Error with_context(Error error, std::string_view context) {
    error.message = std::string(context) + ": " + error.message;
    return error;
}

[[noreturn]] void check_failed(const char* expression, const char* file, int line, const std::string& what);

template <class T>
T& Result<T>::value() & {
    if (!has_value()) check_failed("Result has a value", __FILE__, __LINE__, to_string(error()));
    return *std::get_if<0>(&state_);
}
template <class T>
const T& Result<T>::value() const& {
    if (!has_value()) check_failed("Result has a value", __FILE__, __LINE__, to_string(error()));
    return *std::get_if<0>(&state_);
}
template <class T>
T&& Result<T>::value() && {
    return std::move(value());
}
template <class T>
const Error& Result<T>::error() const {
    if (has_value()) check_failed("Result has an error", __FILE__, __LINE__, "");
    return *std::get_if<1>(&state_);
}
inline void Result<void>::value() const {
    if (error_) check_failed("Result has a value", __FILE__, __LINE__, to_string(*error_));
}
inline const Error& Result<void>::error() const {
    if (!error_) check_failed("Result has an error", __FILE__, __LINE__, "");
    return *error_;
}

}  // namespace fedllm

#define FEDLLM_CONCAT_INNER(a, b) a##b
#define FEDLLM_CONCAT(a, b) FEDLLM_CONCAT_INNER(a, b)

// FEDLLM_TRY(auto file, open(path));   declares `file`, or returns the error.
// FEDLLM_TRY_VOID(write(path));        returns the error, if any.
// The _CO forms are for coroutines.
#define FEDLLM_TRY_IMPL(ret, tmp, decl, ...) \
    auto tmp = (__VA_ARGS__);                \
    if (!tmp) ret std::move(tmp).error();    \
    decl = std::move(tmp).value()
#define FEDLLM_TRY_VOID_IMPL(ret, tmp, ...)                             \
    do {                                                                \
        if (auto tmp = (__VA_ARGS__); !tmp) ret std::move(tmp).error(); \
    } while (false)
#define FEDLLM_TRY(decl, ...) FEDLLM_TRY_IMPL(return, FEDLLM_CONCAT(result_, __LINE__), decl, __VA_ARGS__)
#define FEDLLM_CO_TRY(decl, ...) \
    FEDLLM_TRY_IMPL(co_return, FEDLLM_CONCAT(result_, __LINE__), decl, __VA_ARGS__)
#define FEDLLM_TRY_VOID(...) FEDLLM_TRY_VOID_IMPL(return, FEDLLM_CONCAT(result_, __LINE__), __VA_ARGS__)
#define FEDLLM_CO_TRY_VOID(...) FEDLLM_TRY_VOID_IMPL(co_return, FEDLLM_CONCAT(result_, __LINE__), __VA_ARGS__)

// Programmer errors only: never for input.
#define FEDLLM_CHECK(condition, ...)                                                                        \
    do {                                                                                                    \
        if (!(condition)) ::fedllm::check_failed(#condition, __FILE__, __LINE__, std::string(__VA_ARGS__)); \
    } while (false)
