// Two event loops for the two ends of a measurement, each on a thread of its own.
#pragma once

#include <boost/asio/io_context.hpp>
#include <exception>
#include <optional>
#include <thread>

#include "common/net/awaitable.hpp"

namespace fedllm::tools::bench {

// Add what each side has to do, then run(): it returns when all of it is done, with the first error of any.
class TwoSides {
public:
    struct Side {
        net::asio::io_context io{1};
        std::optional<Error> failed;

        void add(net::awaitable<Result<void>> task) {
            net::asio::co_spawn(io, net::as_optional(std::move(task)),
                                [this](std::exception_ptr thrown, std::optional<Result<void>> ended) {
                                    if (thrown) std::rethrow_exception(thrown);
                                    if (!*ended && !failed) failed = ended->error();
                                    if (--left == 0)
                                        io.stop();  // timers that watch nothing may still be pending
                                });
            ++left;
        }
        std::size_t left = 0;
    };
    Side server;
    Side client;

    Result<void> run() {
        std::thread serving([this] { run(server); });
        run(client);
        serving.join();
        if (server.failed) return *server.failed;
        if (client.failed) return *client.failed;
        return {};
    }

private:
    static void run(Side& side) {
        side.io.restart();
        if (side.left > 0) side.io.run();
    }
};

}  // namespace fedllm::tools::bench
