// The memory that uploads may take at once (limits.upload_memory). Each takes its share before its first byte
// is asked for and gives it back when it ends; whoever comes when all is taken waits its turn. So the server
// never holds more, however many clients send, and refuses nobody for it.
#pragma once

#include <cstdint>
#include <functional>
#include <list>

namespace fedllm::server::ingest {

// Lifecycle: outlives its shares. Concurrency: the control strand. In order of asking: a small share does not
// overtake a large one, which would otherwise never come to its turn.
class UploadMemory {
    struct Place {
        std::uint64_t bytes = 0;
        bool granted = false;
        std::function<void()> on_granted;
    };

public:
    explicit UploadMemory(std::uint64_t bytes_max) : bytes_max_(bytes_max) {}
    UploadMemory(const UploadMemory&) = delete;
    UploadMemory& operator=(const UploadMemory&) = delete;

    // A share, or the place in the queue for one. Move-only; going away gives back either.
    class Share {
    public:
        Share() = default;  // of nothing
        Share(Share&& other) noexcept;
        Share& operator=(Share&& other) noexcept;
        ~Share();
        bool granted() const { return memory_ == nullptr || place_->granted; }

    private:
        friend class UploadMemory;
        Share(UploadMemory& memory, std::list<Place>::iterator place) : memory_(&memory), place_(place) {}
        UploadMemory* memory_ = nullptr;
        std::list<Place>::iterator place_;
    };

    // `on_granted` is called when the share is granted later, and not when it is granted at once. More than
    // there is counts as all there is: such an upload comes when it can be alone.
    Share ask(std::uint64_t bytes, std::function<void()> on_granted);

    std::uint64_t bytes_in_use() const { return bytes_in_use_; }
    std::uint64_t bytes_max() const { return bytes_max_; }
    std::size_t waiting() const { return waiting_; }

private:
    void give_back(std::list<Place>::iterator place);
    void grant_in_order();

    std::uint64_t bytes_max_;
    std::uint64_t bytes_in_use_ = 0;
    std::size_t waiting_ = 0;
    std::list<Place> places_;  // in order of asking; the granted ones too
};

}  // namespace fedllm::server::ingest
