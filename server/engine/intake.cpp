#include "server/engine/intake.hpp"

#include <algorithm>

#include "common/log/log.hpp"

namespace fedllm::server::engine {

Result<std::unique_ptr<Intake>> Intake::begin(ingest::Spool& spool, SharedShape shape,
                                              const ingest::UpdateRules& rules, UploadTarget target,
                                              ingest::Claim claim, Entry entry) {
    FEDLLM_TRY(const codec::CodecId codec, ingest::codec_of(claim, rules));
    std::unique_ptr<Intake> intake(
        new Intake(std::move(shape), rules, codec, std::move(target), std::move(claim)));
    // Earlier bytes are judged before any is added: once refused they are gone from the disk.
    FEDLLM_TRY(intake->upload_,
               spool.begin(intake->target_.task, intake->claim_.digest, intake->claim_.bytes,
                           [&](std::span<const std::byte> bytes) { return intake->feed(bytes); }));
    if (entry.sum) FEDLLM_TRY_VOID(intake->enter(entry));
    return intake;
}

Result<void> Intake::feed(std::span<const std::byte> bytes) {
    return validator_.feed(bytes, [this](std::uint64_t first, std::span<const float> values) {
        if (entry_.sum) entry_.sum->values().add(first, values, entry_.weight);
        passed_ = first + values.size();
    });
}

// Nothing is taken after an error: what the decoder gave before it would be added again, and withdrawn once.
Result<void> Intake::take(std::uint64_t offset, std::span<const std::byte> bytes) {
    if (!refused_) {
        if (auto taken = take_next(offset, bytes); !taken) refused_ = taken.error();
    }
    if (refused_) return *refused_;
    return {};
}

Result<void> Intake::take_next(std::uint64_t offset, std::span<const std::byte> bytes) {
    if (offset != upload_->held()) {
        return make_error(Errc::OutOfOrder, "chunk at byte " + std::to_string(offset) + ", expected byte " +
                                                std::to_string(upload_->held()));
    }
    FEDLLM_TRY_VOID(upload_->append(bytes));  // first: what is added must be there to be subtracted by
    return feed(bytes);
}

Result<void> Intake::settle() {
    FEDLLM_TRY_VOID(validator_.finish());
    return upload_->commit();
}

// The values that passed, read from the spool again; a negative weight, modulo 2^64, subtracts.
Result<void> Intake::add_spooled(std::uint64_t weight) {
    codec::Decoder decoder(codec_, shape_->layout);
    std::uint64_t done = 0;
    FEDLLM_TRY_VOID(upload_->read_back([&](std::span<const std::byte> bytes) -> Result<void> {
        if (done == passed_) return {};
        auto pushed = decoder.push(bytes, [&](std::uint64_t first, std::span<const float> values) {
            const auto part = values.first(std::min<std::uint64_t>(values.size(), passed_ - done));
            entry_.sum->values().add(first, part, weight);
            done += part.size();
        });
        if (done == passed_) return {};  // what follows may be what it was refused for
        return pushed;
    }));
    if (done == passed_) return {};
    return make_error(Errc::InvalidFile, "the spool gives back " + std::to_string(done) + " of " +
                                             std::to_string(passed_) + " values");
}

Result<void> Intake::enter(const Entry& entry) {
    if (entry == entry_) return {};
    withdraw();
    entry_ = entry;
    auto added = add_spooled(entry.weight);
    if (!added) {
        entry_.sum->spoil(added.error());  // nobody knows how much of it is in
        entry_ = {};
    }
    return added;
}

void Intake::withdraw() {
    if (entry_.sum) {
        if (auto out = add_spooled(std::uint64_t{0} - entry_.weight); !out) {
            log::error("an update cannot be withdrawn: its round is summed anew from the spool",
                       {{"task", target_.task.get()}, {"reason", to_string(out.error())}});
            entry_.sum->spoil(out.error());
        }
    }
    entry_ = {};
}

void Intake::discard() {
    withdraw();
    if (auto gone = upload_->discard(); !gone) {
        log::warn("a refused upload stays in the spool until the next start",
                  {{"task", target_.task.get()}, {"reason", gone.error().message}});
    }
}

}  // namespace fedllm::server::engine
