#include "tests/integration/federation.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <thread>

#include "common/base/philox.hpp"
#include "common/codec/codec.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"
#include "tools/federation/authority.hpp"
#include "tools/federation/free_port.hpp"

namespace fedllm::test {
namespace {

using asio::ip::tcp;
using namespace std::chrono_literals;

bool listening(std::uint16_t port) {
    asio::io_context io;
    tcp::socket socket(io);
    boost::system::error_code failed;
    socket.connect({asio::ip::make_address("127.0.0.1"), port}, failed);
    return !failed;
}

template <class Done>
bool wait_for(Duration patience, Done done) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (!done()) {
        if (std::chrono::steady_clock::now() > deadline) return false;
        std::this_thread::sleep_for(5ms);
    }
    return true;
}

}  // namespace

// ------------------------------------------------------------------------------------------------ the server

Federation::Federation()
    : hub_(root_.path() / "hub"),
      port_(tools::federation::free_port()),
      admin_port_(tools::federation::free_port()) {
    const auto made = tools::federation::init_federation(
        {.folder = hub_, .hosts = {"127.0.0.1"}, .port = port_, .admin_port = admin_port_},
        SystemClock().now());
    EXPECT_TRUE(made) << to_string(made.error());
}

Federation::~Federation() {
    kill();
    if (testing::Test::HasFailure()) std::fputs(log().c_str(), stderr);
}

void Federation::configure(const std::function<void(server::app::ServerConfig&)>& change) {
    auto config = server::app::load_server_config(hub_ / "server.yaml");
    ASSERT_TRUE(config) << to_string(config.error());
    change(*config);
    const auto text = server::app::print_server_config(*config, config::Comments::No);
    ASSERT_TRUE(write_file_atomically(hub_ / "server.yaml", text));
}

void Federation::hang_up() const { ::kill(server_, SIGHUP); }

void Federation::start() {
    const std::string log_file = root_.path() / "server.log", config = hub_ / "server.yaml";
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    std::string program = FEDLLM_SERVER_PROGRAM, option = "--config", value = config;
    char* arguments[] = {program.data(), option.data(), value.data(), nullptr};
    const int failed = posix_spawn(&server_, program.c_str(), &files, nullptr, arguments, environ);
    posix_spawn_file_actions_destroy(&files);
    ASSERT_EQ(failed, 0) << "cannot run " << program;
    ASSERT_TRUE(wait_for(kPatience, [this] { return listening(port_) && listening(admin_port_); })) << log();
}

bool Federation::ended(Duration patience, int& status) {
    if (!wait_for(patience, [&] { return waitpid(server_, &status, WNOHANG) == server_; })) return false;
    server_ = -1;
    return true;
}

void Federation::kill() {
    if (server_ < 0) return;
    int status = 0;
    ::kill(server_, SIGKILL);
    waitpid(server_, &status, 0);
    server_ = -1;
}

int Federation::terminate() {
    int status = 0;
    ::kill(server_, SIGTERM);
    if (!ended(kPatience, status)) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

net::TlsFiles Federation::invite(const std::string& name) {
    const auto bundle =
        tools::federation::invite_client({.folder = hub_, .name = name, .out = {}}, SystemClock().now());
    EXPECT_TRUE(bundle) << to_string(bundle.error());
    return {.ca = *bundle / "ca.crt", .certificate = *bundle / "client.crt", .key = *bundle / "client.key"};
}

Result<std::unique_ptr<tools::federation::OperatorLink>> Federation::operator_link() const {
    FEDLLM_TRY(const auto config, tools::federation::load_operator_config(hub_));
    return tools::federation::OperatorLink::connect(config);
}

std::string Federation::get(const std::string& path) const {
    asio::io_context io;
    tcp::socket socket(io);
    boost::system::error_code failed;
    socket.connect({asio::ip::make_address("127.0.0.1"), admin_port_}, failed);
    if (failed) return "";
    const std::string request = "GET " + path + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    asio::write(socket, asio::buffer(request), failed);
    std::string answer;
    asio::read(socket, asio::dynamic_buffer(answer), failed);  // to the end
    return answer;
}

double Federation::metric(const std::string& series) const {
    const std::string page = get("/metrics");
    const auto at = page.find("\n" + series + " ");
    return at == std::string::npos ? 0.0 : std::stod(page.substr(at + series.size() + 2));
}

double Federation::metric_from(const std::string& series, double least) const {
    double value = 0;
    wait_for(kPatience, [&] { return (value = metric(series)) >= least; });
    return value;
}

std::string Federation::log() const {
    const auto text = read_file(root_.path() / "server.log");
    return text ? *text : "";
}

bool Federation::log_has(const std::string& text, Duration patience) const {
    return wait_for(patience, [&] { return log().find(text) != std::string::npos; });
}

// --------------------------------------------------------------------------------------------------- the job

tensor::Manifest TinyJob::manifest() {
    const std::string module = "base_model.model.model.layers.0.self_attn.q_proj.";
    return tensor::Manifest::create(
               {{module + "lora_A.weight", {2, 16}}, {module + "lora_B.weight", {16, 2}}})
        .value();
}

std::string TinyJob::yaml() const {
    return "name: tiny\nbase_model: none\nseed: 3\nlora: {rank: 2, alpha: 4, target_modules: [q_proj]}\n"
           "rounds: " +
           std::to_string(rounds) + "\nclients_per_round: " + std::to_string(clients) +
           "\nclients_minimum: " + std::to_string(minimum) + "\nsamples_max: " + std::to_string(kSamplesMax) +
           "\nupdate: {codec: none, clip_norm: " + std::to_string(kClipNorm) +
           "}\ndownload: {codec: " + download_codec + "}\ntrain: {local_steps: 1}\n";
}

void TinyJob::submit(Federation& federation) const {
    const Path file = federation.folder() / "initial.safetensors";
    const auto written = formats::write_param_set(file, tensor::ParamSet(manifest()));
    ASSERT_TRUE(written) << to_string(written.error());
    const auto initial = MappedFile::open(file);
    ASSERT_TRUE(initial);
    const auto link = federation.operator_link();
    ASSERT_TRUE(link) << to_string(link.error());
    const auto job = (*link)->submit(yaml(), initial->bytes());
    ASSERT_TRUE(job) << to_string(job.error());
}

std::vector<float> honest_values(const std::string& task) {
    Rng rng(11, task);
    std::vector<float> values(TinyJob::manifest().elements());
    for (float& value : values) value = rng.uniform(-0.1f, 0.1f);
    return values;
}

std::vector<std::byte> encoded(const std::vector<float>& values) {
    return *codec::encode({}, {{{values.size(), 0}}, values.size(), 1}, values, 0);
}

protocol::Offer truthful_offer(const std::string& task, const std::vector<std::byte>& update) {
    protocol::Offer offer;
    offer.set_task_id(task);
    offer.set_digest(crypto::to_hex(crypto::sha256(update)));
    offer.set_bytes(update.size());
    offer.set_samples(10 + task.size() % 7);
    offer.set_tokens(100);
    offer.set_train_loss(2.0);
    offer.set_train_seconds(0.1);
    offer.mutable_evaluation()->set_task_id(task);
    offer.mutable_evaluation()->set_loss_sum(200.0);
    offer.mutable_evaluation()->set_tokens(100);
    return offer;
}

// -------------------------------------------------------------------------------------------------- the peer

awaitable<Result<void>> Peer::connect(std::uint16_t port, std::vector<std::string> codecs) {
    close();
    FEDLLM_CO_TRY(const auto tls, net::make_client_context(files_));
    FEDLLM_CO_TRY(auto connected, co_await net::connect_tls("127.0.0.1", port, tls, "127.0.0.1", kPatience));
    const protocol::Limits limits;
    channel_ = std::make_unique<net::Channel>(std::move(connected.stream), limits);
    channel_->set_frame_limits(limits.frame);
    protocol::ClientMessage hello;
    hello.mutable_hello()->set_protocol_version(protocol::kProtocolVersion);
    hello.mutable_hello()->set_software("test");
    hello.mutable_hello()->set_device("none");
    hello.mutable_hello()->add_base_models("none");
    for (const auto& codec : codecs) hello.mutable_hello()->add_codecs(codec);
    FEDLLM_CO_TRY_VOID(co_await send(std::move(hello)));
    FEDLLM_CO_TRY(const auto welcome, co_await next());
    if (!welcome.has_welcome()) co_return make_error(Errc::OutOfOrder, "no Welcome");
    co_return Result<void>{};
}

awaitable<Result<protocol::ServerMessage>> Peer::next() {
    for (;;) {
        FEDLLM_CO_TRY(const auto frame, co_await channel_->receive(kPatience));
        if (frame.kind == protocol::FrameKind::Chunk) continue;
        FEDLLM_CO_TRY(auto message, protocol::parse_server_message(frame.bytes));
        if (!message.has_ping()) co_return std::move(message);
    }
}

awaitable<Result<std::vector<std::byte>>> Peer::fetch(std::string task, std::string digest,
                                                      std::uint64_t bytes) {
    protocol::ClientMessage message;
    message.mutable_fetch()->set_task_id(task);
    message.mutable_fetch()->set_digest(digest);
    FEDLLM_CO_TRY_VOID(co_await send(std::move(message)));
    std::vector<std::byte> received;
    while (received.size() < bytes) {
        FEDLLM_CO_TRY(const auto frame, co_await channel_->receive(kPatience));
        if (frame.kind != protocol::FrameKind::Chunk) continue;
        EXPECT_EQ(frame.offset, received.size());
        received.insert(received.end(), frame.bytes.begin(), frame.bytes.end());
    }
    co_return received;
}

awaitable<Result<void>> Peer::send(protocol::ClientMessage message) {
    co_return co_await channel_->send_control(message);
}

awaitable<Result<void>> Peer::send(protocol::Offer offer) {
    protocol::ClientMessage message;
    *message.mutable_offer() = std::move(offer);
    co_return co_await send(std::move(message));
}

awaitable<Result<void>> Peer::send_bytes(std::uint64_t offset, std::span<const std::byte> bytes) {
    co_return co_await channel_->send_chunk(offset, bytes);
}

void Peer::close() {
    if (channel_) channel_->close();
}

}  // namespace fedllm::test
