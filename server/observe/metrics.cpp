#include "server/observe/metrics.hpp"

#include <prometheus/text_serializer.h>

#include "common/base/memory.hpp"
#include "common/base/version.hpp"

namespace fedllm::server::observe {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

const prometheus::Histogram::BucketBoundaries kRoundBuckets{1,   5,    15,       60,       300,
                                                            900, 3600, 4 * 3600, 24 * 3600};
// Close together around the goal for 40 MB: 50 ms.
const prometheus::Histogram::BucketBoundaries kCloseBuckets{0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075,
                                                            0.1,   0.2,  0.5,  1,    2,    10,   60};

std::map<std::string, std::string> of_job(const JobId& job) { return {{"job", job.get()}}; }

}  // namespace

Metrics::Metrics()
    : connections_(
          BuildGauge().Name("fedllm_connections").Help("Open connections by role").Register(registry_)),
      connections_refused_(BuildCounter()
                               .Name("fedllm_connections_refused_total")
                               .Help("Connections turned away, by reason")
                               .Register(registry_)),
      messages_refused_(BuildCounter()
                            .Name("fedllm_messages_refused_total")
                            .Help("Frames and messages that broke the protocol, by reason")
                            .Register(registry_)),
      updates_(BuildCounter()
                   .Name("fedllm_updates_total")
                   .Help("Updates offered, by outcome and, when refused, reason")
                   .Register(registry_)),
      bytes_(BuildCounter()
                 .Name("fedllm_client_bytes_total")
                 .Help("Bytes of model versions (down) and updates (up) per client")
                 .Register(registry_)),
      wire_bytes_(BuildCounter()
                      .Name("fedllm_client_wire_bytes_total")
                      .Help("Bytes of ended connections as the kernel counted them: TLS and messages too")
                      .Register(registry_)),
      ratio_(BuildGauge()
                 .Name("fedllm_update_compression_ratio")
                 .Help("Bytes of a client's last update in bf16 over its bytes as encoded")
                 .Register(registry_)),
      quantisation_error_(BuildGauge()
                              .Name("fedllm_update_quantisation_error_ratio")
                              .Help("Squared error of encoding a client's last update, over its squared norm")
                              .Register(registry_)),
      residual_norm_(BuildGauge()
                         .Name("fedllm_update_residual_norm")
                         .Help("L2 norm of what encoding left for a client's next update")
                         .Register(registry_)),
      progress_(BuildGauge()
                    .Name("fedllm_task_progress_ratio")
                    .Help("How much of its current task a client has trained, 0 to 1")
                    .Register(registry_)),
      round_(BuildGauge().Name("fedllm_job_round").Help("The round a job is in, from 0").Register(registry_)),
      rounds_(BuildGauge().Name("fedllm_job_rounds").Help("Rounds a job will have").Register(registry_)),
      round_clients_(BuildGauge()
                         .Name("fedllm_round_clients")
                         .Help("Clients in the current or last round, by state")
                         .Register(registry_)),
      eval_loss_(BuildGauge()
                     .Name("fedllm_eval_loss")
                     .Help("Mean held-out loss of the newest evaluated version, over all clients' tokens")
                     .Register(registry_)),
      train_loss_(BuildGauge()
                      .Name("fedllm_train_loss")
                      .Help("Mean training loss reported with the last round's updates")
                      .Register(registry_)),
      jobs_ended_(BuildCounter()
                      .Name("fedllm_jobs_ended_total")
                      .Help("Jobs that ended, by state")
                      .Register(registry_)),
      job_waiting_(BuildGauge()
                       .Name("fedllm_job_waiting")
                       .Help("Always 1; what a job waits for is a label, see 'fedllm why'")
                       .Register(registry_)),
      round_seconds_(BuildHistogram()
                         .Name("fedllm_round_seconds")
                         .Help("From the opening of a round to its commit")
                         .Register(registry_)),
      round_close_seconds_(BuildHistogram()
                               .Name("fedllm_round_close_seconds")
                               .Help("From the last byte of a round's last update to the first of the next "
                                     "broadcast")
                               .Register(registry_)),
      upload_memory_bytes_(BuildGauge()
                               .Name("fedllm_upload_memory_bytes")
                               .Help("Memory that uploads take now, of limits.upload_memory")
                               .Register(registry_)
                               .Add({})),
      uploads_waiting_(BuildGauge()
                           .Name("fedllm_uploads_waiting")
                           .Help("Uploads that wait for their share of limits.upload_memory")
                           .Register(registry_)
                           .Add({})),
      resident_bytes_(BuildGauge()
                          .Name("fedllm_process_resident_bytes")
                          .Help("Memory of this process")
                          .Register(registry_)
                          .Add({})) {
    BuildGauge()
        .Name("fedllm_build_info")
        .Help("Always 1; the version is a label")
        .Register(registry_)
        .Add({{"version", std::string(kVersion)}})
        .Set(1);
}

void Metrics::connection_opened(std::string_view role) {
    connections_.Add({{"role", std::string(role)}}).Increment();
}
void Metrics::connection_closed(std::string_view role) {
    connections_.Add({{"role", std::string(role)}}).Decrement();
}
void Metrics::connection_refused(std::string_view reason) {
    connections_refused_.Add({{"reason", std::string(reason)}}).Increment();
}
void Metrics::message_refused(Errc reason) {
    messages_refused_.Add({{"reason", std::string(name(reason))}}).Increment();
}
void Metrics::update_accepted(const JobId& job) {
    updates_.Add({{"job", job.get()}, {"outcome", "accepted"}, {"reason", ""}}).Increment();
}
void Metrics::update_refused(const JobId& job, Errc reason) {
    updates_.Add({{"job", job.get()}, {"outcome", "refused"}, {"reason", std::string(name(reason))}})
        .Increment();
}
void Metrics::update_repeated(const JobId& job) {
    updates_.Add({{"job", job.get()}, {"outcome", "already_accepted"}, {"reason", ""}}).Increment();
}
void Metrics::update_compressed(const JobId& job, const ClientId& client, double ratio, double error,
                                double residual_norm) {
    const std::map<std::string, std::string> labels{{"job", job.get()}, {"client", client.get()}};
    ratio_.Add(labels).Set(ratio);
    quantisation_error_.Add(labels).Set(error);
    residual_norm_.Add(labels).Set(residual_norm);
}
void Metrics::bytes_moved(const ClientId& client, Direction direction, std::uint64_t bytes) {
    bytes_.Add({{"client", client.get()}, {"direction", direction == Direction::Up ? "up" : "down"}})
        .Increment(static_cast<double>(bytes));
}
void Metrics::wire_moved(const ClientId& client, std::uint64_t up, std::uint64_t down) {
    wire_bytes_.Add({{"client", client.get()}, {"direction", "up"}}).Increment(static_cast<double>(up));
    wire_bytes_.Add({{"client", client.get()}, {"direction", "down"}}).Increment(static_cast<double>(down));
}
void Metrics::upload_memory(std::uint64_t bytes_in_use, std::size_t waiting) {
    upload_memory_bytes_.Set(static_cast<double>(bytes_in_use));
    uploads_waiting_.Set(static_cast<double>(waiting));
}
void Metrics::task_progress(const JobId& job, const ClientId& client, double fraction) {
    progress_.Add({{"job", job.get()}, {"client", client.get()}}).Set(fraction);
}

void Metrics::round_opened(const JobId& job, std::uint32_t round, std::uint32_t rounds, std::size_t clients) {
    round_.Add(of_job(job)).Set(round);
    rounds_.Add(of_job(job)).Set(rounds);
    round_clients_.Add({{"job", job.get()}, {"state", "asked"}}).Set(static_cast<double>(clients));
    round_clients_.Add({{"job", job.get()}, {"state", "accepted"}}).Set(0);
}
void Metrics::round_committed(const JobId& job, double round_seconds, std::size_t accepted) {
    round_seconds_.Add(of_job(job), kRoundBuckets).Observe(round_seconds);
    round_clients_.Add({{"job", job.get()}, {"state", "accepted"}}).Set(static_cast<double>(accepted));
}
void Metrics::round_closed(const JobId& job, double seconds) {
    round_close_seconds_.Add(of_job(job), kCloseBuckets).Observe(seconds);
}
void Metrics::evaluated(const JobId& job, double loss) { eval_loss_.Add(of_job(job)).Set(loss); }
void Metrics::trained(const JobId& job, double loss) { train_loss_.Add(of_job(job)).Set(loss); }
void Metrics::job_ended(const JobId& job, std::string_view state) {
    round_clients_.Add({{"job", job.get()}, {"state", "asked"}}).Set(0);  // nobody works for it any more
    jobs_ended_.Add({{"state", std::string(state)}}).Increment();
}

void Metrics::job_waiting(const JobId& job, std::string_view before, std::string_view now) {
    const auto series = [&](std::string_view reason) -> prometheus::Gauge& {
        return job_waiting_.Add({{"job", job.get()}, {"reason", std::string(reason)}});
    };
    if (!before.empty()) job_waiting_.Remove(&series(before));
    if (!now.empty()) series(now).Set(1);
}

std::string Metrics::render() {
    resident_bytes_.Set(static_cast<double>(resident_memory()));
    return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace fedllm::server::observe
