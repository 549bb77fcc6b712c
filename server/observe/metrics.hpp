// Everything the server counts. Names follow Prometheus' conventions: base units, _total for counters.
// Label values come from closed sets (error codes, roles) or from enrolled names, never from message text.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/ids.hpp"
#include "common/base/result.hpp"

namespace fedllm::server::observe {

enum class Direction { Up, Down };  // as the client sees it: Up is an upload

// Concurrency: prometheus-cpp's own; any thread may call any method.
class Metrics {
public:
    Metrics();
    Metrics(const Metrics&) = delete;
    Metrics& operator=(const Metrics&) = delete;

    void connection_opened(std::string_view role);
    void connection_closed(std::string_view role);
    void connection_refused(std::string_view reason);  // an error's name, or a limit's
    void message_refused(Errc reason);                 // malformed, out of order
    void update_accepted(const JobId& job);
    void update_refused(const JobId& job, Errc reason);
    void update_repeated(const JobId& job);
    // ratio: bytes of the tensors in bf16 / bytes of the encoded update; the rest as in store::PartRow.
    void update_compressed(const JobId& job, const ClientId& client, double ratio, double error,
                           double residual_norm);
    void bytes_moved(const ClientId& client, Direction direction, std::uint64_t bytes);
    void wire_moved(const ClientId& client, std::uint64_t up,
                    std::uint64_t down);                                  // of a connection that ended
    void upload_memory(std::uint64_t bytes_in_use, std::size_t waiting);  // limits.upload_memory
    void task_progress(const JobId& job, const ClientId& client, double fraction);

    void round_opened(const JobId& job, std::uint32_t round, std::uint32_t rounds, std::size_t clients);
    void round_committed(const JobId& job, double round_seconds, std::size_t accepted);
    // From the last byte of the round's last counted update to the first byte of the version that it made,
    // handed to a client's connection.
    void round_closed(const JobId& job, double seconds);
    void evaluated(const JobId& job, double loss);
    void trained(const JobId& job, double loss);
    void job_ended(const JobId& job, std::string_view state);
    // What a job waits for: one series of a job is there and is 1. Reasons are round::Reason's names; "" for
    // none.
    void job_waiting(const JobId& job, std::string_view before, std::string_view now);

    std::string render();  // the text exposition format, with process memory read just now

private:
    prometheus::Registry registry_;
    prometheus::Family<prometheus::Gauge>& connections_;
    prometheus::Family<prometheus::Counter>& connections_refused_;
    prometheus::Family<prometheus::Counter>& messages_refused_;
    prometheus::Family<prometheus::Counter>& updates_;
    prometheus::Family<prometheus::Counter>& bytes_;
    prometheus::Family<prometheus::Counter>& wire_bytes_;
    prometheus::Family<prometheus::Gauge>& ratio_;
    prometheus::Family<prometheus::Gauge>& quantisation_error_;
    prometheus::Family<prometheus::Gauge>& residual_norm_;
    prometheus::Family<prometheus::Gauge>& progress_;
    prometheus::Family<prometheus::Gauge>& round_;
    prometheus::Family<prometheus::Gauge>& rounds_;
    prometheus::Family<prometheus::Gauge>& round_clients_;
    prometheus::Family<prometheus::Gauge>& eval_loss_;
    prometheus::Family<prometheus::Gauge>& train_loss_;
    prometheus::Family<prometheus::Counter>& jobs_ended_;
    prometheus::Family<prometheus::Gauge>& job_waiting_;
    prometheus::Family<prometheus::Histogram>& round_seconds_;
    prometheus::Family<prometheus::Histogram>& round_close_seconds_;
    prometheus::Gauge& upload_memory_bytes_;
    prometheus::Gauge& uploads_waiting_;
    prometheus::Gauge& resident_bytes_;
};

}  // namespace fedllm::server::observe
