// A real server in a process of its own, so that its memory can be told from the clients'; and a federation
// for it in a folder that goes when the measurement is over.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "common/base/files.hpp"
#include "common/net/tls.hpp"
#include "server/app/server_config.hpp"
#include "tools/federation/operator_link.hpp"

namespace fedllm::tools::bench {

// A folder under `parent`, gone with all in it at the end.
class ScratchFolder {
public:
    static Result<ScratchFolder> make(const Path& parent);
    ScratchFolder(ScratchFolder&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
    ScratchFolder& operator=(ScratchFolder&&) = delete;
    ~ScratchFolder();

    const Path& path() const { return path_; }

private:
    explicit ScratchFolder(Path path) : path_(std::move(path)) {}
    Path path_;
};

struct Memory {  // bytes, of /proc/PID/status
    std::uint64_t resident = 0;
    std::uint64_t resident_peak = 0;
    std::uint64_t anonymous = 0;
};
Memory memory_of(pid_t process);
double core_seconds_of(pid_t process);  // processor time since its start

// Lifecycle: make() lays out authority and configuration; start() forks, so call it while the process has one
// thread; the destructor leaves no process behind. `server.log` in folder() is what the server says.
class ServerProcess {
public:
    static Result<ServerProcess> make(const Path& folder);
    ServerProcess(ServerProcess&& other) noexcept;
    ServerProcess& operator=(ServerProcess&&) = delete;
    ~ServerProcess();

    const server::app::ServerConfig& config() const { return config_; }
    server::app::ServerConfig& config() { return config_; }  // to be changed before start()
    Result<void> start();                                    // returns when it serves
    void kill();                                             // SIGKILL
    bool running() const { return process_ > 0; }
    pid_t process() const { return process_; }

    std::uint16_t port() const { return config_.listen.port; }
    const Path& folder() const { return folder_; }
    Result<net::TlsFiles> invite(const std::string& name) const;
    Result<std::unique_ptr<federation::OperatorLink>> operator_link() const;
    std::string metrics() const;  // the page, or nothing where it cannot be had

private:
    explicit ServerProcess(Path folder) : folder_(std::move(folder)) {}
    [[noreturn]] void serve(int ready) const;

    Path folder_;
    server::app::ServerConfig config_;
    pid_t process_ = -1;
};

// The most anonymous memory that a process had, looked at a hundred times a second until destruction.
class PeakWatch {
public:
    explicit PeakWatch(pid_t process);
    ~PeakWatch();
    std::uint64_t anonymous() const { return anonymous_; }
    std::uint64_t resident() const { return resident_; }

private:
    std::atomic<std::uint64_t> anonymous_ = 0;
    std::atomic<std::uint64_t> resident_ = 0;
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

}  // namespace fedllm::tools::bench
