//! Every metric of the server: its name, its labels and what it says. The help texts of a scrape and the page `docs/metrics.md` are
//! made from this table, and a test holds it to what the code counts.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

/// Metrics that belong together.
#[derive(Debug)]
pub struct Area {
    /// What they are about.
    pub title: &'static str,
    /// What has to be known of all of them.
    pub about: &'static str,
    /// Them.
    pub metrics: &'static [Metric],
}

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What it counts or measures.
    pub unit: Unit,
    /// Its labels, and what their values are.
    pub labels: &'static [(&'static str, &'static str)],
    /// What it says: one sentence.
    pub help: &'static str,
}

/// What the values of a metric are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A sum that only grows while the process runs.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// How often a value was at most as large as each of these.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Its name in the text format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Upper bounds of the buckets of durations, in seconds.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// The same of what takes as long as a model writes.
const LONG_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Upper bounds of the buckets of numbers of writes.
const WRITES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

const MODEL: (&str, &str) = ("model", "the id that the agent names");
const UPSTREAM: (&str, &str) = ("upstream", "the entry of `[[models]]` that was asked");
const FIRED: (&str, &str) = ("outcome", "`session_created`, or the type of the run's error");

/// The table.
pub const AREAS: &[Area] = &[
    Area {
        title: "Did it fire",
        about: "Deployments, their schedules and runs.",
        metrics: &[
            Metric {
                name: "rota_deployment_runs_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[FIRED],
                help: "Runs of deployments, scheduled ones and those by hand.",
            },
            Metric {
                name: "rota_scheduled_fires_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[FIRED],
                help: "Scheduled runs.",
            },
            Metric {
                name: "rota_scheduled_retries_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[],
                help: "Attempts of scheduled runs that failed and are made again, by a deployment's policy.",
            },
            Metric {
                name: "rota_sessions_followed_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[(
                    "outcome",
                    "`session_created`, the type of the run's error, or the reason why none followed that was found when it was due",
                )],
                help: "Sessions that died and were due to be followed by another one, by their deployment's policy.",
            },
            Metric {
                name: "rota_hook_deliveries_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[("outcome", "what the sender was told (docs/starts.md), or `refused`")],
                help: "Deliveries to the hooks of deployments.",
            },
            Metric {
                name: "rota_schedule_gaps_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[("reason", "why there was no run: the reasons of the list of occurrences")],
                help: "Ranges of occurrences that were passed over, one for each look that found some.",
            },
            Metric {
                name: "rota_fire_lateness_seconds",
                kind: Kind::Histogram(SECONDS),
                unit: Unit::Seconds,
                labels: &[],
                help: "From when an occurrence was due until its run was made.",
            },
            Metric {
                name: "rota_schedule_behind_seconds",
                kind: Kind::Gauge,
                unit: Unit::Seconds,
                labels: &[],
                help: "For how long the earliest deployment that is due has been due, 0 when none is.",
            },
            Metric {
                name: "rota_deployments_failing",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[],
                help: "Deployments whose newest runs have all failed.",
            },
        ],
    },
    Area {
        title: "Did it work, and what waits",
        about: "Sessions. Those that are not at rest are counted up to 10,000 of a kind.",
        metrics: &[
            Metric {
                name: "rota_sessions",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[(
                    "state",
                    "`queued` (waits for a runner), `running`, `retrying` (waits until it is tried again), `waiting_for_human` \
                     (until a call is allowed or denied), `waiting_for_program` (until a client or a worker sends results), \
                     `resting` (at rest; counted every five minutes at most, and not before the second scrape)",
                )],
                help: "Sessions that have not ended, by what they do.",
            },
            Metric {
                name: "rota_sessions_oldest_seconds",
                kind: Kind::Gauge,
                unit: Unit::Seconds,
                labels: &[("state", "`queued`, `waiting_for_human` or `waiting_for_program`")],
                help: "For how long the session that has been in a state for longest has been in it, 0 when there is none.",
            },
            Metric {
                name: "rota_sessions_ended_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[
                    (
                        "reason",
                        "`end_turn`, `requires_action` (it waits for answers), `refusal`, `retries_exhausted`, or `terminated` (for \
                         good)",
                    ),
                    ("error", "the type of the error that the turn died of, or `none`"),
                ],
                help: "Turns of sessions that have ended.",
            },
            Metric {
                name: "rota_session_retries_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[("error", "the type of the error before the pause, or `none` for another place in a line")],
                help: "Pauses of sessions after which a failed step is tried again.",
            },
            Metric {
                name: "rota_sandboxes_up",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[],
                help: "Sandboxes that are up on this server.",
            },
            Metric {
                name: "rota_sandbox_starts_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[("outcome", "`started` or `failed`")],
                help: "Starts of sandboxes.",
            },
            Metric {
                name: "rota_sandboxes_killed_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[(
                    "reason",
                    "`memory` (the kernel ended a process; counted when the sandbox ends) or `disk` (everything inside was ended)",
                )],
                help: "Sandboxes in which something was ended because of a limit.",
            },
        ],
    },
    Area {
        title: "What it costs",
        about: "Requests to models. `model` and `upstream` are ids of the configuration.",
        metrics: &[
            Metric {
                name: "rota_model_requests_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[
                    MODEL,
                    UPSTREAM,
                    (
                        "outcome",
                        "`ok`, `rate_limited`, `overloaded`, `no_reply`, `unusable`, `billing`, `too_long`, `refused` or \
                         `interrupted`",
                    ),
                ],
                help: "Requests to upstreams of models.",
            },
            Metric {
                name: "rota_model_request_seconds",
                kind: Kind::Histogram(LONG_SECONDS),
                unit: Unit::Seconds,
                labels: &[("upstream", UPSTREAM.1)],
                help: "How long requests to upstreams of models took, from the request to the whole reply or the failure.",
            },
            Metric {
                name: "rota_model_requests_waiting",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[("upstream", "the entry of `[[models]]` before which they wait")],
                help: "Requests that wait in line before an upstream.",
            },
            Metric {
                name: "rota_model_tokens_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[MODEL, UPSTREAM, ("kind", "`input`, `output`, `cache_read` or `cache_write`")],
                help: "Tokens that were used, those of interrupted and failed requests too as far as upstreams told.",
            },
            Metric {
                name: "rota_model_cost_nanos_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[MODEL, UPSTREAM],
                help: "What they cost at the prices of the configuration, in billionths of a US dollar.",
            },
        ],
    },
    Area {
        title: "Requests",
        about: "A method that HTTP does not have is `other`, a path that no route has is `none`.",
        metrics: &[
            Metric {
                name: "rota_http_requests_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[
                    ("method", "of HTTP"),
                    ("route", "the path with the names of its parameters"),
                    ("status", "of HTTP"),
                ],
                help: "Requests that were answered.",
            },
            Metric {
                name: "rota_http_request_seconds",
                kind: Kind::Histogram(SECONDS),
                unit: Unit::Seconds,
                labels: &[("method", "of HTTP"), ("route", "the path with the names of its parameters")],
                help: "How long requests took until their answer began.",
            },
        ],
    },
    Area {
        title: "The store",
        about: "",
        metrics: &[
            Metric {
                name: "rota_store_up",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[],
                help: "1 while the store answers, 0 while it does not and what is read from it is left out.",
            },
            Metric {
                name: "rota_commit_seconds",
                kind: Kind::Histogram(SECONDS),
                unit: Unit::Seconds,
                labels: &[],
                help: "How long transactions took until they were durable, the writes in them included.",
            },
            Metric {
                name: "rota_commit_writes",
                kind: Kind::Histogram(WRITES),
                unit: Unit::Count,
                labels: &[],
                help: "Writes that were committed together.",
            },
            Metric {
                name: "rota_commit_failures_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[],
                help: "Transactions that the database did not commit.",
            },
            Metric {
                name: "rota_write_queue_writes",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[],
                help: "Writes that wait for their transaction.",
            },
            Metric {
                name: "rota_database_read_connections",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[("state", "`busy`, or `free`: as many reads can begin at once")],
                help: "Connections for reads.",
            },
            Metric {
                name: "rota_retention_removed_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[("kind", "`sessions`, `outputs`, `runs`, `deliveries`, `egress` or `audit`")],
                help: "What was removed because it is kept no longer.",
            },
            Metric {
                name: "rota_store_size_bytes",
                kind: Kind::Gauge,
                unit: Unit::Bytes,
                labels: &[],
                help: "The size of the store: of the database, or of its file and the log beside it.",
            },
            Metric {
                name: "rota_disk_free_bytes",
                kind: Kind::Gauge,
                unit: Unit::Bytes,
                labels: &[],
                help: "What the file system of the data folder has left for this server.",
            },
            Metric {
                name: "rota_disk_size_bytes",
                kind: Kind::Gauge,
                unit: Unit::Bytes,
                labels: &[],
                help: "The size of the file system of the data folder.",
            },
        ],
    },
    Area {
        title: "Webhooks and credentials",
        about: "",
        metrics: &[
            Metric {
                name: "rota_webhook_attempts_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[("outcome", "`accepted`, `failed` (tried again) or `refused` (not tried again)")],
                help: "Attempts to send webhooks.",
            },
            Metric {
                name: "rota_webhook_deliveries",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[(
                    "state",
                    "`waiting` (sent now or tried again later), `parked` (its endpoint is disabled) or `failed` (given up; it can be \
                     replayed)",
                )],
                help: "Webhooks that are not delivered.",
            },
            Metric {
                name: "rota_webhook_behind_seconds",
                kind: Kind::Gauge,
                unit: Unit::Seconds,
                labels: &[],
                help: "For how long the webhook that is due first has been due, 0 when none is.",
            },
            Metric {
                name: "rota_webhook_endpoints_disabled",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[],
                help: "Endpoints of webhooks that are disabled, by hand or because they failed.",
            },
            Metric {
                name: "rota_credential_refreshes_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[("outcome", "what came of it")],
                help: "Exchanges of refresh tokens.",
            },
        ],
    },
    Area {
        title: "The network of sandboxes",
        about: "",
        metrics: &[
            Metric {
                name: "rota_egress_connections_open",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[],
                help: "Connections of sandboxes that are open.",
            },
            Metric {
                name: "rota_egress_connections_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[("outcome", "as in the egress log"), ("reason", "as in the egress log")],
                help: "Connections of sandboxes that are over.",
            },
            Metric {
                name: "rota_egress_bytes_total",
                kind: Kind::Counter,
                unit: Unit::Bytes,
                labels: &[("direction", "`in` or `out` of the sandbox")],
                help: "Bytes that such connections moved.",
            },
            Metric {
                name: "rota_egress_rows_lost_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[],
                help: "Rows of the egress log that could not be written.",
            },
        ],
    },
    Area {
        title: "The server",
        about: "Those that begin with `process_` are named as in other programs, and are there on Linux.",
        metrics: &[
            Metric {
                name: "rota_servers_alive",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[],
                help: "Servers on this store that run sessions and are alive.",
            },
            Metric {
                name: "rota_trace_spans_total",
                kind: Kind::Counter,
                unit: Unit::Count,
                labels: &[("outcome", "`sent`, or `dropped`: the collector is away, or slower than the spans come")],
                help: "Spans of traces, where a collector is configured.",
            },
            Metric {
                name: "rota_build_info",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[("version", "of Rota"), ("database", "`sqlite` or `postgresql`")],
                help: "Always 1.",
            },
            Metric {
                name: "process_cpu_seconds_total",
                kind: Kind::Counter,
                unit: Unit::Seconds,
                labels: &[],
                help: "Time on processors, of the program and of the system for it.",
            },
            Metric {
                name: "process_resident_memory_bytes",
                kind: Kind::Gauge,
                unit: Unit::Bytes,
                labels: &[],
                help: "Memory of the server itself, without its sandboxes.",
            },
            Metric {
                name: "process_open_fds",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[],
                help: "Open files and connections.",
            },
            Metric {
                name: "process_max_fds",
                kind: Kind::Gauge,
                unit: Unit::Count,
                labels: &[],
                help: "Most of them.",
            },
            Metric { name: "process_threads", kind: Kind::Gauge, unit: Unit::Count, labels: &[], help: "Threads." },
            Metric {
                name: "process_start_time_seconds",
                kind: Kind::Gauge,
                unit: Unit::Seconds,
                labels: &[],
                help: "When the process started, in seconds since 1970.",
            },
        ],
    },
];

/// All metrics.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    AREAS.iter().flat_map(|area| area.metrics)
}

/// The buckets of histograms.
pub(super) fn with_buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
    let histograms = all().filter_map(|metric| match metric.kind {
        Kind::Histogram(bounds) => Some((metric.name, bounds)),
        _ => None,
    });
    histograms.fold(builder, |builder, (name, bounds)| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds).expect("there are buckets")
    })
}

/// Has each scrape say what the metrics are.
pub(super) fn describe() {
    for Metric { name, kind, unit, help, .. } in all() {
        match kind {
            Kind::Counter => describe_counter!(*name, *unit, *help),
            Kind::Gauge => describe_gauge!(*name, *unit, *help),
            Kind::Histogram(_) => describe_histogram!(*name, *unit, *help),
        }
    }
}
