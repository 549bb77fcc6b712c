// The hash chain over a job's rounds: what went into each version, sealed with everything before it. Whoever
// wrote down one value of the chain can tell later whether any input, weight or result up to there was
// changed in the ledger, and with the files named in it recompute every version.
//
// The bytes that are hashed, all by SHA-256. `text` is its length as a number, then its bytes in UTF-8;
// `number` is 64 bits, little-endian; digests and earlier values of the chain are texts of 64 hex digits.
//
//   of a job      text "fedllm chain 1: job"
//                 text job, text digest of the canonical job file, text digest of the initial version
//   of a round    text "fedllm chain 1: round"
//                 text the value before: the last round's, for round 0 the job's
//                 text job, number round, text digest of the version that the round starts from
//                 number of contributions counted in it; each, ordered by client and then by `from`:
//                     text client, number round of the version it started from, text digest of its update,
//                     number bytes, number weight, text codec
//                 text digest of the version that the round made
//
// Every text has its length in front, so no two different records give the same bytes. A change of this
// format takes another number after "chain".
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "server/store/rows.hpp"

namespace fedllm::server::store {

// 64 hex digits, of a job without rounds.
std::string chain_of_job(const JobId& job, std::string_view yaml, std::string_view initial_digest);

// The value after `round`. `counted` in the order of Ledger::contributions.
std::string chain_of_round(std::string_view previous, const RoundRow& round,
                           std::span<const PartRow> counted);

}  // namespace fedllm::server::store
