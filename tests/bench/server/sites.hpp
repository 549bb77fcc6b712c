// Sites by the hundred on one thread, for what loads a real server.
#pragma once

#include <algorithm>
#include <cstdio>
#include <memory>
#include <vector>

#include "common/base/clock.hpp"
#include "tools/bench/server_process.hpp"
#include "tools/bench/site.hpp"

namespace fedllm::bench {

namespace asio = net::asio;
using namespace tools::bench;

// Any number of sites on this thread.
class Sites {
public:
    // Makes certificates for `count`; they connect in add().
    static Result<std::unique_ptr<Sites>> make(ServerProcess& server, std::size_t count) {
        std::unique_ptr<Sites> sites(new Sites(server.port()));
        for (std::size_t i = 0; i < count; ++i) {
            FEDLLM_TRY(const auto files, server.invite("site-" + std::to_string(i + 1)));
            FEDLLM_TRY(auto context, net::make_client_context(files));
            sites->identities_.push_back(std::move(context));
        }
        return sites;
    }

    ~Sites() {
        for (const auto& site : sites_) site->stop();
        run_until([this] { return running_ == 0; }, 30);
    }

    // Lets sites come until `total` are connected.
    bool connect(std::size_t total, const SiteOptions& options, double patience) {
        while (sites_.size() < total) {
            sites_.push_back(std::make_unique<Site>(identities_[sites_.size()], options));
            ++running_;
            asio::co_spawn(io_, net::as_optional(sites_.back()->run()),
                           [this](std::exception_ptr thrown, std::optional<Result<void>> ended) {
                               if (thrown) std::rethrow_exception(thrown);
                               if (!*ended)
                                   std::fprintf(stderr, "a site: %s\n", to_string(ended->error()).c_str());
                               --running_;
                           });
        }
        return run_until([&] { return connected() >= total; }, patience);
    }
    std::size_t connected() const {
        return static_cast<std::size_t>(
            std::count_if(sites_.begin(), sites_.end(), [](const auto& site) { return site->connected(); }));
    }

    template <class Done>
    bool run_until(Done done, double patience) {
        const double give_up = monotonic_seconds() + patience;
        while (!done()) {
            if (monotonic_seconds() > give_up) return false;
            io_.restart();
            io_.run_for(std::chrono::milliseconds(20));
        }
        return true;
    }
    void rest(double seconds) {
        (void)run_until([] { return false; }, seconds);
    }
    SiteOptions options(ReadyUpdate update = {}) const {
        SiteOptions options;
        options.port = port_;
        options.update = std::move(update);
        return options;
    }

private:
    explicit Sites(std::uint16_t port) : port_(port) {}

    std::uint16_t port_;
    asio::io_context io_{1};
    std::vector<net::TlsContext> identities_;
    std::vector<std::unique_ptr<Site>> sites_;
    std::size_t running_ = 0;
};

}  // namespace fedllm::bench
