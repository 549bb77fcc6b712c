// The door: a thread of its own where connections are accepted and prove who is there, so that strangers,
// however many, cost the control strand nothing. Whoever is let in is handed over to it.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "common/base/clock.hpp"
#include "common/net/connect.hpp"
#include "common/net/task_group.hpp"
#include "common/net/tls_files.hpp"
#include "server/edge/admission.hpp"
#include "server/edge/descriptors.hpp"
#include "server/edge/log_budget.hpp"
#include "server/observe/metrics.hpp"

namespace fedllm::server::edge {

struct DoorOptions {
    std::string address;
    std::uint16_t port = 0;
    net::TlsFiles tls;
    AdmissionLimits limits;
    Duration handshake_deadline = std::chrono::seconds(10);
    Duration files_every = std::chrono::seconds(5);  // how often the certificates' files are looked at
    net::asio::any_io_executor helpers = {};         // of every connection (Accepting::finish)
};

// What the door tells the control strand, on that strand.
struct DoorEvents {
    std::function<void(GuestId, net::Connected)> admitted;
    std::function<void(GuestId, std::string reason)>
        expelled;  // must leave now: revoked, expired, one too many
};

// Lifecycle: open() listens; start() begins to accept; stop() ends it and every handshake. Concurrency: all
// public calls on the control strand; everything else on the door's thread, reached by post.
class Door {
public:
    static Result<std::unique_ptr<Door>> open(net::asio::any_io_executor control, const DoorOptions& options,
                                              const Clock& clock, observe::Metrics& metrics,
                                              DoorEvents events);
    ~Door();

    void start();
    // The control strand must go on running meanwhile: it completes what the handshakes were waiting for.
    net::awaitable<void> stop();

    void left(GuestId guest);  // a connection that was handed over has ended
    void reload();             // look at the certificates' files now
    std::uint16_t port() const { return port_; }

private:
    Door(net::asio::any_io_executor control, const DoorOptions& options, net::ReloadingTls tls,
         const Clock& clock, observe::Metrics& metrics, DoorEvents events);

    net::awaitable<Result<void>> accept();
    net::awaitable<Result<void>> receive(net::asio::ip::tcp::socket socket, GuestId guest,
                                         net::asio::ip::address from);
    net::awaitable<Result<void>> watch();
    net::awaitable<Result<void>> judge_again();
    net::awaitable<Result<void>> close();
    net::awaitable<Result<net::Connected>> prove(GuestId guest, net::Accepting& accepting);
    void make_room();
    void hand_over(GuestId guest, net::Connected connected);
    void expel(GuestId guest, const std::string& reason);
    void expel_expired();
    void reread(net::ReloadingTls::Look look);
    void refused(std::string_view reason, const std::optional<net::asio::ip::address>& from,
                 const std::string& detail);

    net::asio::any_io_executor control_;
    DoorOptions options_;
    const Clock& clock_;
    observe::Metrics& metrics_;
    DoorEvents events_;

    net::asio::io_context io_{1};
    net::asio::ip::tcp::acceptor acceptor_{io_};
    std::uint16_t port_ = 0;
    net::ReloadingTls tls_;
    net::TaskGroup tasks_{io_.get_executor()};
    SpareDescriptor spare_;
    Admission admission_;
    LogBudget log_budget_;
    std::map<GuestId, net::Accepting*> arrivals_;  // each in its receive()
    std::map<GuestId, net::PeerProof> guests_;     // handed over
    GuestId last_guest_ = 0;
    std::thread thread_;
};

}  // namespace fedllm::server::edge
