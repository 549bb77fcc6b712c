#include "server/ingest/upload_memory.hpp"

#include <algorithm>
#include <utility>

namespace fedllm::server::ingest {

UploadMemory::Share::Share(Share&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), place_(other.place_) {}

UploadMemory::Share& UploadMemory::Share::operator=(Share&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(place_, other.place_);
    return *this;
}

UploadMemory::Share::~Share() {
    if (memory_) memory_->give_back(place_);
}

UploadMemory::Share UploadMemory::ask(std::uint64_t bytes, std::function<void()> on_granted) {
    bytes = std::min(bytes, bytes_max_);
    const bool now = waiting_ == 0 && bytes <= bytes_max_ - bytes_in_use_;
    const auto place = places_.insert(places_.end(), {bytes, now, std::move(on_granted)});
    if (now) {
        bytes_in_use_ += bytes;
    } else {
        ++waiting_;
    }
    return Share(*this, place);
}

void UploadMemory::give_back(std::list<Place>::iterator place) {
    if (place->granted) {
        bytes_in_use_ -= place->bytes;
    } else {
        --waiting_;
    }
    places_.erase(place);
    grant_in_order();
}

void UploadMemory::grant_in_order() {
    std::list<std::function<void()>> granted;  // called last: they may ask and give back in turn
    for (Place& place : places_) {
        if (place.granted) continue;
        if (place.bytes > bytes_max_ - bytes_in_use_) break;
        place.granted = true;
        bytes_in_use_ += place.bytes;
        --waiting_;
        granted.push_back(std::move(place.on_granted));
    }
    for (const auto& tell : granted) tell();
}

}  // namespace fedllm::server::ingest
