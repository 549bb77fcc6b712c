#include "server/store/chain.hpp"

#include <array>

#include "common/crypto/sha256.hpp"

namespace fedllm::server::store {
namespace {

// The canonical bytes, straight into the hash.
class Record {
public:
    explicit Record(std::string_view kind) { text(kind); }

    Record& text(std::string_view value) {
        number(value.size());
        hash_.update(value);
        return *this;
    }
    Record& number(std::uint64_t value) {
        std::array<std::byte, 8> bytes;
        for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i));
        hash_.update(bytes);
        return *this;
    }
    std::string finish() { return crypto::to_hex(hash_.finish()); }

private:
    crypto::Sha256 hash_;
};

}  // namespace

std::string chain_of_job(const JobId& job, std::string_view yaml, std::string_view initial_digest) {
    return Record("fedllm chain 1: job")
        .text(job.get())
        .text(crypto::to_hex(crypto::sha256(yaml)))
        .text(initial_digest)
        .finish();
}

std::string chain_of_round(std::string_view previous, const RoundRow& round,
                           std::span<const PartRow> counted) {
    Record record("fedllm chain 1: round");
    record.text(previous).text(round.job.get()).number(round.round.get()).text(round.model_digest);
    record.number(counted.size());
    for (const PartRow& part : counted) {
        record.text(part.client.get()).number(part.round.get()).text(part.update_digest);
        record.number(part.bytes).number(part.weight).text(part.codec);
    }
    return record.text(round.next_digest).finish();
}

}  // namespace fedllm::server::store
