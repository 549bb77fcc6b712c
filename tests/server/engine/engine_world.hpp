// An engine and its clients in one process, without sockets: the clients are Links that remember what they
// were told, and coroutines that upload. For tests of the engine, and for the benchmark of closing a round.
#pragma once

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine::test {

namespace asio = boost::asio;

struct Peer final : Link {
    explicit Peer(std::string of) : name(std::move(of)) {}
    void post(protocol::ServerMessage message) override {
        if (message.has_task()) {
            tasks.push_back(message.task());
            task_at = monotonic_seconds();
        }
        if (message.has_verdict()) verdicts.push_back(message.verdict());
    }
    void end(const std::string&) override { ended = true; }

    std::string name;
    std::vector<protocol::Task> tasks;
    std::vector<protocol::Verdict> verdicts;
    double task_at = 0;  // when the last one came
    bool ended = false;
};

// A line that clients share: one piece after another, each when it was asked for and those before it are
// over.
class Line {
public:
    explicit Line(double bytes_per_second) : bytes_per_second_(bytes_per_second) {}
    net::awaitable<void> carry(std::size_t bytes) {
        const std::chrono::duration<double> takes(static_cast<double>(bytes) / bytes_per_second_);
        free_ = std::max(free_, std::chrono::steady_clock::now()) +
                std::chrono::duration_cast<std::chrono::nanoseconds>(takes);
        net::Timer timer(co_await asio::this_coro::executor);
        timer.expires_at(free_);
        (void)co_await timer.async_wait(net::kNoThrow);
    }

private:
    double bytes_per_second_;
    net::TimePoint free_{};
};

// The loop, as the pool of an engine that has no thread but ours; holds back what a test asks it to.
class Pool {
public:
    struct Held {
        int next = -1;          // this many more are run first; -1: nothing is held
        std::vector<int> gaps;  // how many go through between one that is held and the next
        std::vector<std::function<void()>> work;
    };
    Pool(asio::io_context& loop, Held& held) : loop_(&loop), held_(&held) {}

    asio::execution_context& query(asio::execution::context_t) const noexcept { return *loop_; }
    static constexpr asio::execution::blocking_t query(asio::execution::blocking_t) noexcept {
        return asio::execution::blocking.never;
    }
    template <class Function>
    void execute(Function function) const {
        if (held_->next < 0 || held_->next-- > 0) return asio::post(*loop_, std::move(function));
        held_->work.push_back(
            [work = std::make_shared<Function>(std::move(function))] { std::move (*work)(); });
        if (held_->gaps.empty()) return;
        held_->next = held_->gaps.front();
        held_->gaps.erase(held_->gaps.begin());
    }
    bool operator==(const Pool&) const noexcept = default;

private:
    asio::io_context* loop_;
    Held* held_;
};

class EngineWorld {
public:
    EngineWorld(Path state, unsigned threads, std::uint64_t upload_memory = std::uint64_t{256} << 20,
                std::function<std::uint64_t()> sum_memory = {})
        : io_(1), state_(std::move(state)) {
        EngineOptions options{.state_directory = state_,
                              .upload_memory = upload_memory,
                              .sum_memory = std::move(sum_memory),
                              .threads = threads};
        // 0: no thread but ours, so that a test can stop the world between any two steps.
        if (threads == 0) options.compute = Pool(io_, held_);
        auto opened = Engine::open(io_.get_executor(), options, clock_, metrics_,
                                   [this](const Error& error) { fatal = to_string(error); });
        FEDLLM_CHECK(opened.has_value(), "Engine::open");
        engine_ = std::move(*opened);
        FEDLLM_CHECK(engine_->start().has_value(), "Engine::start");
    }
    ~EngineWorld() { engine_.reset(); }  // as a crash does, unless stop() was called

    Engine& engine() { return *engine_; }
    asio::io_context::executor_type executor() { return io_.get_executor(); }
    observe::Metrics& metrics() { return metrics_; }

    template <class Condition>
    bool run_until(Condition holds, double seconds = 60) {
        const double end = monotonic_seconds() + seconds;
        while (!holds() && fatal.empty()) {
            if (monotonic_seconds() > end) return false;
            io_.restart();
            io_.run_one_for(std::chrono::milliseconds(50));
        }
        return holds();
    }
    void stop() {
        bool stopped = false;
        asio::co_spawn(
            io_, [](Engine& engine) -> net::awaitable<void> { co_await engine.stop(); }(*engine_),
            [&](const std::exception_ptr&) { stopped = true; });
        run_until([&] { return stopped; });
    }

    JobId submit(const std::string& yaml, const tensor::ParamSet& initial) {
        const Path file = state_ / "initial.safetensors";
        FEDLLM_CHECK(formats::write_param_set(file, initial).has_value());
        const MappedFile bytes = *MappedFile::open(file);
        protocol::SubmitJob request;
        request.set_job(yaml);
        request.set_initial_digest(crypto::to_hex(crypto::sha256(bytes.bytes())));
        request.set_initial_bytes(bytes.bytes().size());
        auto upload = engine_->begin_submission("operator", request);
        FEDLLM_CHECK(upload.has_value(), "begin_submission");
        FEDLLM_CHECK(upload->append(bytes.bytes()).has_value());
        JobId id;
        bool done = false;
        asio::co_spawn(
            io_,
            [](Engine& engine, protocol::SubmitJob job, ingest::Upload sent, JobId& made,
               bool& ended) -> net::awaitable<void> {
                made = (co_await engine.submit(std::move(job), std::move(sent))).value();
                ended = true;
            }(*engine_, request, std::move(*upload), id, done),
            asio::detached);
        run_until([&] { return done; });
        std::filesystem::remove(file);
        return id;
    }

    Peer& join(const std::string& name) {
        auto& peer = peers_.try_emplace(name, std::make_unique<Peer>(name)).first->second;
        protocol::Hello hello;
        hello.add_base_models("base");
        engine_->join(ClientId(name), hello, *peer);
        return *peer;
    }

    // Sends `bytes` as the answer to the peer's last task; up to `stop_at` only, and then lingers as a slow
    // client does, until `go_on`. `last_byte` gets the time at which the last piece is handed over.
    struct Sending {
        std::span<const std::byte> bytes;
        std::string digest;
        std::string codec;
        std::uint64_t samples = 1;
        std::size_t piece = std::size_t{256} << 10;
        std::uint64_t stop_at = ~std::uint64_t{0};
        bool cut = false;  // there, instead of lingering
        bool go_on = false;
        Line* line = nullptr;  // none: whatever is taken comes at once
        double last_byte = 0;
        bool done = false;
    };
    void upload(Peer& peer, Sending& sending) {
        asio::co_spawn(io_, send(*engine_, peer, sending), asio::detached);
    }
    void decline(Peer& peer, const std::string& detail = "") {
        protocol::Decline decline;
        decline.set_detail(detail);
        decline.set_task_id(peer.tasks.back().task_id());
        engine_->on_decline(ClientId(peer.name), decline);
    }
    void evaluate(Peer& peer) {
        protocol::Evaluation evaluation;
        evaluation.set_task_id(peer.tasks.back().task_id());
        asio::co_spawn(io_, engine_->on_evaluation(ClientId(peer.name), evaluation, peer), asio::detached);
    }

    SharedVersion version(const std::string& digest) {
        SharedVersion found;
        bool done = false;
        asio::co_spawn(
            io_,
            [](Engine& engine, std::string name, SharedVersion& out, bool& ended) -> net::awaitable<void> {
                if (auto got = co_await engine.version(std::move(name))) out = *got;
                ended = true;
            }(*engine_, digest, found, done),
            asio::detached);
        run_until([&] { return done; });
        return found;
    }

    // Of what goes to the pool, after so many more, and again so many behind that: it waits for let_go().
    void hold_back(int after, std::vector<int> gaps = {}) {
        held_.next = after;
        held_.gaps = std::move(gaps);
    }
    bool holds() const { return !held_.work.empty(); }
    void let_go() {  // the first of them
        asio::post(io_, std::move(held_.work.front()));
        held_.work.erase(held_.work.begin());
    }

    std::string fatal;

private:
    static net::awaitable<void> send(Engine& engine, Peer& peer, Sending& sending) {
        protocol::Offer offer;
        offer.set_task_id(peer.tasks.back().task_id());
        offer.set_digest(sending.digest);
        offer.set_bytes(sending.bytes.size());
        offer.set_samples(sending.samples);
        offer.set_tokens(sending.samples);
        offer.set_codec(sending.codec);
        auto intake = co_await engine.on_offer(ClientId(peer.name), offer, peer);
        while (intake && !intake->complete()) {
            const std::uint64_t at = intake->held();
            if (at >= sending.stop_at && sending.cut) break;
            while (at >= sending.stop_at && !sending.go_on) (void)co_await net::sleep_for(Duration(1));
            const auto piece =
                sending.bytes.subspan(at, std::min<std::size_t>(sending.piece, sending.bytes.size() - at));
            if (sending.line) co_await sending.line->carry(piece.size());
            sending.last_byte = monotonic_seconds();
            const auto taken = co_await engine.take(*intake, at, piece);
            if (!taken) co_await engine.refuse_upload(std::move(intake), taken.error(), peer);
        }
        if (intake && intake->complete()) co_await engine.finish_upload(std::move(intake), peer);
        sending.done = true;
    }

    asio::io_context io_;
    Pool::Held held_;
    Path state_;
    SystemClock clock_;
    observe::Metrics metrics_;
    std::unique_ptr<Engine> engine_;
    std::map<std::string, std::unique_ptr<Peer>> peers_;
};

}  // namespace fedllm::server::engine::test
