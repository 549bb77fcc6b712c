#include "tools/bench/server_process.hpp"

#include <fcntl.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/log/log.hpp"
#include "server/app/server.hpp"
#include "tools/federation/authority.hpp"
#include "tools/federation/free_port.hpp"

namespace fedllm::tools::bench {
namespace {

namespace asio = net::asio;
using asio::ip::tcp;

Error system_error(const std::string& doing) {
    return make_error(Errc::IoFailed, doing + ": " + std::strerror(errno));
}

}  // namespace

Result<ScratchFolder> ScratchFolder::make(const Path& parent) {
    FEDLLM_TRY_VOID(make_directories(parent));
    std::string path = (parent / "fedllm-bench-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) return system_error(path + ": making a folder");
    return ScratchFolder(path);
}

ScratchFolder::~ScratchFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

Memory memory_of(pid_t process) {
    Memory memory;
    std::ifstream status("/proc/" + std::to_string(process) + "/status");
    std::string key;
    for (std::string line; std::getline(status, line);) {
        const auto kilobytes = [&] {
            return std::strtoull(line.c_str() + line.find(':') + 1, nullptr, 10) * 1024;
        };
        if (line.starts_with("VmRSS:")) memory.resident = kilobytes();
        if (line.starts_with("VmHWM:")) memory.resident_peak = kilobytes();
        if (line.starts_with("RssAnon:")) memory.anonymous = kilobytes();
    }
    return memory;
}

// The 14th and 15th word of the line, after a name in parentheses; see proc(5).
double core_seconds_of(pid_t process) {
    std::ifstream file("/proc/" + std::to_string(process) + "/stat");
    std::string line, word;
    std::getline(file, line);
    std::istringstream words(line.substr(std::min(line.size(), line.rfind(')') + 1)));
    double ticks = 0;
    for (int number = 3; number <= 15 && words >> word; ++number) {
        if (number >= 14) ticks += std::strtod(word.c_str(), nullptr);
    }
    return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

Result<ServerProcess> ServerProcess::make(const Path& folder) {
    ServerProcess server(folder);
    const std::uint16_t port = federation::free_port();
    FEDLLM_TRY_VOID(federation::init_federation(
        {.folder = folder, .hosts = {"127.0.0.1"}, .port = port, .admin_port = federation::free_port()},
        SystemClock().now()));
    FEDLLM_TRY(server.config_, server::app::load_server_config(folder / "server.yaml"));
    return server;
}

ServerProcess::ServerProcess(ServerProcess&& other) noexcept
    : folder_(std::move(other.folder_)),
      config_(std::move(other.config_)),
      process_(std::exchange(other.process_, -1)) {}

ServerProcess::~ServerProcess() { kill(); }

Result<void> ServerProcess::start() {
    int ready[2];
    if (::pipe2(ready, O_CLOEXEC) != 0) return system_error("a pipe");
    ::malloc_trim(0);  // what the parent has freed and still holds would count as the child's
    process_ = ::fork();
    if (process_ == 0) serve(ready[1]);
    ::close(ready[1]);
    if (process_ < 0) return system_error("starting the server");
    char byte = 0;
    const bool serves = ::read(ready[0], &byte, 1) == 1;
    ::close(ready[0]);
    if (serves) return {};
    kill();
    const auto log = read_file(folder_ / "server.log");
    return make_error(Errc::Internal, "the server did not start: " + (log ? *log : log.error().message));
}

// The child: a server and nothing else. It leaves without running the parent's destructors.
void ServerProcess::serve(int ready) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int log = ::open((folder_ / "server.log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    ::dup2(log, STDOUT_FILENO);
    ::dup2(log, STDERR_FILENO);
    log::setup({.format = config_.log.format, .level = config_.log.level, .sink = {}});
    auto server = server::app::Server::create(config_);
    if (!server) {
        log::error("cannot serve", {{"reason", to_string(server.error())}});
        std::_Exit(1);
    }
    [[maybe_unused]] const ssize_t told = ::write(ready, "r", 1);  // its sockets listen
    const auto ended = (*server)->run();
    if (!ended) log::error("ended", {{"reason", to_string(ended.error())}});
    std::_Exit(ended ? 0 : 1);
}

void ServerProcess::kill() {
    if (process_ <= 0) return;
    int status = 0;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, &status, 0);
    process_ = -1;
}

Result<net::TlsFiles> ServerProcess::invite(const std::string& name) const {
    FEDLLM_TRY(const Path bundle,
               federation::invite_client({.folder = folder_, .name = name, .out = {}}, SystemClock().now()));
    return net::TlsFiles{bundle / "ca.crt", bundle / "client.crt", bundle / "client.key"};
}

Result<std::unique_ptr<federation::OperatorLink>> ServerProcess::operator_link() const {
    FEDLLM_TRY(const auto config, federation::load_operator_config(folder_));
    return federation::OperatorLink::connect(config);
}

std::string ServerProcess::metrics() const {
    asio::io_context io;
    tcp::socket socket(io);
    boost::system::error_code failed;
    socket.connect({asio::ip::address_v4::loopback(), config_.admin.port}, failed);
    if (failed) return "";
    const std::string request = "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
    asio::write(socket, asio::buffer(request), failed);
    std::string answer;
    asio::read(socket, asio::dynamic_buffer(answer), failed);  // to the end
    return answer;
}

PeakWatch::PeakWatch(pid_t process)
    : thread_([this, process] {
          while (!stop_) {
              const Memory now = memory_of(process);
              anonymous_ = std::max<std::uint64_t>(anonymous_, now.anonymous);
              resident_ = std::max<std::uint64_t>(resident_, now.resident);
              std::this_thread::sleep_for(std::chrono::milliseconds(10));
          }
      }) {}

PeakWatch::~PeakWatch() {
    stop_ = true;
    thread_.join();
}

}  // namespace fedllm::tools::bench
