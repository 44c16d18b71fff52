//! Every bound of the server that is not a rule of the API (those are beside the types in `rota_api`).

use std::{ops::RangeInclusive, time::Duration};

/// Connections that are open at the same time, unless `[http] connections` says otherwise. When all places are taken,
/// whoever has been silent longest without ever sending a key makes room.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Connections to the listener of the metrics that are open at the same time.
pub const MAX_METRICS_CONNECTIONS: usize = 64;
/// Connections that have reached the machine and wait to be accepted; the machine's `net.core.somaxconn` is a bound too.
pub const LISTEN_BACKLOG: u32 = 4096;
/// Descriptors that are kept for everything but connections: the store, sandboxes, upstreams, webhooks.
pub const RESERVED_DESCRIPTORS: usize = 512;
/// How long a new connection may take until the headers of its first request have arrived.
pub const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that has spoken may be silent until the next request's headers have arrived. Longer than clients
/// keep idle connections, so that none sends a request into a connection that is being closed.
pub const HEADER_TIMEOUT: Duration = Duration::from_mins(3);
/// Most bytes of a request's line and headers; more are answered with 431. No smaller than [`MAX_QUERY_BYTES`] and what
/// stands around a query. hyper takes at most 100 headers.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Bytes of unfinished headers that each connection may have without asking.
pub const FREE_HEADER_BYTES: usize = 4 * 1024;
/// Most bytes of unfinished headers beyond [`FREE_HEADER_BYTES`], of all connections together. A connection that needs
/// more than there is left is closed.
pub const UNFINISHED_HEADER_BYTES: usize = 16 * 1024 * 1024;
/// How long a client may leave an answer unread before its connection is closed.
pub const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the server waits for a place to become free before it looks again for a connection that can make room.
pub const ROOM_RETRY: Duration = Duration::from_millis(50);
/// The pause after a connection could not be accepted.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Most bytes that are read on and dropped, after a request that is not HTTP was answered, and how long: a client that is
/// still sending would otherwise see a closed connection and not the answer.
pub const LINGER: (usize, Duration) = (1024 * 1024, Duration::from_secs(2));

/// How long a browser stays signed in to the console, in microseconds: a week.
pub const SIGN_IN_MICROS: i64 = 7 * 24 * 60 * 60 * 1_000_000;
/// How long the address that the server prints at its start signs a browser in, in microseconds: fifteen minutes.
pub const SIGN_IN_ADDRESS_MICROS: i64 = 15 * 60 * 1_000_000;

/// Most bytes of a request body; a larger one is answered with 413.
pub const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// Most values in a JSON body, those inside of others counted.
pub const MAX_BODY_NODES: usize = 200_000;
/// Bytes of memory that a value of a JSON body counts for, beside its text. What a value really takes goes from 70 to 300.
pub const BODY_NODE_BYTES: usize = 150;
/// Most bytes of a body that is read at once; a larger one needs a place. Each connection can have one of them.
pub const SMALL_BODY_BYTES: usize = 512;
/// Most memory for larger bodies that are read and worked on at the same time, in bytes; further ones wait. A body counts
/// for its own bytes and for as many values as it can have.
pub const BODIES_BYTES: usize = 2 * BODIES_BYTES_OF_ONE;
/// The part of [`BODIES_BYTES`] that the bodies of one workspace may have, so that a slow client holds up only its own. At
/// least what the largest body counts for.
pub const BODIES_BYTES_OF_ONE: usize = 64 * 1024 * 1024;
/// How long a body waits for a place before it is answered with 529.
pub const BODY_WAIT: Duration = Duration::from_secs(30);
/// Most bytes of a body that nobody wants that are still read and dropped before the answer is sent, so that a client that
/// is still sending sees it and not a closed connection; and how long. Of a request with a key ...
pub const DRAIN: (usize, Duration) = (256 * 1024 * 1024, Duration::from_secs(10));
/// ... and of one without.
pub const DRAIN_OF_STRANGERS: (usize, Duration) = (1024 * 1024, Duration::from_secs(2));
/// How long a request may take to arrive and be answered; streams are not counted.
pub const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// Log lines of one cause in a minute; of more it is said how many there were.
pub const LOG_LINES_A_MINUTE: u32 = 10;
/// Most characters of a path in a log line.
pub const LOGGED_PATH: usize = 200;
/// How often what was measured is summed up, whether or not somebody reads the metrics, and memory is given back.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(2);
/// How long a scrape of the metrics waits for the store before it leaves out what is in it.
pub const SCRAPE_STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what a scrape has read from the store is kept, in seconds.
pub const SCRAPE_KEPT_SECONDS: f64 = 5.0;
/// Most rows that a scrape counts of one kind.
pub const SCRAPE_ROWS: i64 = 10_000;
/// How often sessions at rest are counted at most, in seconds, however often is scraped ...
pub const RESTING_KEPT_SECONDS: f64 = 300.0;
/// ... and how many of them in one read.
pub const RESTING_AT_ONCE: i64 = 10_000;
/// Most disabled endpoints whose webhooks a scrape counts.
pub const SCRAPE_ENDPOINTS: i64 = 100;
/// Spans of traces that wait to be sent; further ones are dropped, and counted.
pub const TRACE_QUEUE: usize = 8192;
/// The same where they have what was said in sessions.
pub const TRACE_QUEUE_OF_CONTENT: usize = 512;
/// Most bytes of a text that was said in a session and is noted in a span.
pub const TRACE_CONTENT_BYTES: usize = 32 * 1024;
/// Most spans that are sent together.
pub const TRACE_BATCH: usize = 256;
/// How long spans wait for others to be sent with.
pub const TRACE_SEND_EVERY: Duration = Duration::from_secs(2);
/// How long a collector may take to answer.
pub const TRACE_SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The same while the server stops.
pub const TRACE_LAST_SEND: Duration = Duration::from_secs(1);
/// Requests whose place in a client's trace is remembered.
pub const TRACE_CONTEXTS: usize = 4096;
/// Most bytes of memory that are kept and not used.
pub const SPARE_MEMORY_BYTES: usize = 32 * 1024 * 1024;
/// How long the store may take to answer before the server says that it is not ready.
pub const READY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a write that went well says that the next one would, in seconds.
pub const WRITABLE_SECONDS: f64 = 5.0;
/// Bytes of an answer from which on it counts as large.
pub const LARGE_ANSWER: usize = 64 * 1024;
/// Bytes of large answers of one workspace that have not gone out, because nobody reads them; what would be read beyond that is
/// refused with 429.
pub const MAX_UNREAD_BYTES: usize = 64 * 1024 * 1024;
/// Most bytes of rows that a page of a list has, unless its first row alone has more. A page that ends early has a cursor of
/// the next one.
pub const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Most bytes of the words that are kept of the last failure of a deployment.
pub const FAILURE_BYTES: usize = 1024;
/// Most entries of one kind that the list of what needs attention has.
pub const MAX_ATTENTION: i64 = 200;
/// How long occurrences that were missed need attention, in microseconds, unless the deployment runs again before.
pub const MISSED_ATTENTION_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
/// Most bytes of the files of a skill, unpacked.
pub const MAX_SKILL_BYTES: usize = 30 * 1024 * 1024;
/// Most bytes of the archive in which a skill is kept: what cannot be made smaller becomes a little larger.
pub const MAX_KEPT_SKILL_BYTES: usize = MAX_SKILL_BYTES + 2 * 1024 * 1024;
/// Most files of a skill.
pub const MAX_SKILL_FILES: usize = 1000;
/// Most parts of a form with which a skill is uploaded.
pub const MAX_SKILL_FORM_PARTS: usize = 2 * MAX_SKILL_FILES;
/// Most bytes of the path of a file in a skill.
pub const MAX_SKILL_PATH: usize = 512;
/// Most names in such a path.
pub const MAX_SKILL_DEPTH: usize = 16;
/// Most bytes of such a name.
pub const MAX_SKILL_FILE_NAME: usize = 255;
/// How many times as large an archive of a skill may become when it is unpacked, from [`SMALL_SKILL_BYTES`] on.
pub const MAX_SKILL_RATIO: u64 = 200;
/// Bytes of an unpacked skill up to which any archive may hold them.
pub const SMALL_SKILL_BYTES: u64 = 1024 * 1024;
/// Most bytes of the front matter of a `SKILL.md`.
pub const MAX_FRONT_MATTER_BYTES: usize = 64 * 1024;
/// Most skills of a workspace.
pub const MAX_SKILLS: i64 = 10_000;
/// Most versions of a skill.
pub const MAX_SKILL_VERSIONS: i64 = 1000;
/// Most bytes of an agent, as JSON, with the roster whose agents its sessions keep.
pub const MAX_AGENT_BYTES: usize = 4 * 1024 * 1024;
/// Most bytes of an environment's configuration, as JSON.
pub const MAX_ENVIRONMENT_BYTES: usize = 512 * 1024;
/// Most bytes of a deployment's first events, and of what it mounts, as JSON.
pub const MAX_DEPLOYMENT_BYTES: usize = 8 * 1024 * 1024;
/// How long a version of a memory is kept, in microseconds; the newest are kept longer.
pub const MEMORY_VERSION_KEPT_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;
/// Versions of a memory that are kept whatever their age.
pub const MEMORY_VERSIONS_KEPT: i64 = 10;
/// Most versions of memories that one transaction deletes because their time is over or their store is gone.
pub const MEMORY_VERSIONS_PURGE: i64 = 500;
/// Files and folders of a session's memory stores that are looked at, together.
pub const MEMORY_ENTRIES: usize = 20_000;
/// Bytes of memories of a session that are read or written at a time.
pub const MEMORY_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long ago a file of a memory must have been changed, in nanoseconds, so that a further change shows in its time.
pub const MEMORY_SETTLED_NANOS: i128 = 2_000_000_000;
/// Most lines about its memory stores that an agent reads behind one result.
pub const MEMORY_NOTES: usize = 20;
/// Most bytes of a query string.
pub const MAX_QUERY_BYTES: usize = 16 * 1024;
/// Most ids that a list can be asked for.
pub const MAX_LISTED_IDS: usize = 100;
/// Most characters of an `Idempotency-Key`.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;
/// How long an `Idempotency-Key` is remembered, in microseconds.
pub const IDEMPOTENCY_MICROS: i64 = 24 * 3600 * 1_000_000;
/// Most forgotten `Idempotency-Key`s that one run removes from the store.
pub const IDEMPOTENCY_PURGE: i64 = 8;

/// Starts of one deployment that are planned at the same time.
pub const MAX_PLANNED_STARTS: i64 = 1000;
/// How far ahead a start can be planned, in microseconds.
pub const MAX_START_AHEAD_MICROS: i64 = 366 * 24 * 3600 * 1_000_000;
/// How long a planned start is kept after it was decided on, in microseconds. Its run is kept as every run.
pub const STARTS_KEPT_MICROS: i64 = 90 * 24 * 3600 * 1_000_000;
/// Most of those that are older which one new start removes.
pub const PLANNED_STARTS_PURGE: i64 = 8;
/// Planned starts that are due, read from the store at a time.
pub const STARTS_BATCH: i64 = 200;
/// Occurrences that one backfill makes up for.
pub const MAX_BACKFILL: usize = 1000;
/// Occurrences that one backfill looks through for those that were passed over.
pub const MAX_BACKFILL_LOOKED: usize = 50_000;
/// Hooks of one deployment.
pub const MAX_HOOKS: i64 = 32;
/// Most bytes of what is sent to a hook; more is answered with 413. Half of [`DRAIN_OF_STRANGERS`], so that who sends a little more
/// sees the answer.
pub const MAX_HOOK_BODY_BYTES: usize = 512 * 1024;
/// Most bytes of it that the agent reads.
pub const MAX_HOOK_TEXT_BYTES: usize = 128 * 1024;
/// How long the body of what is sent to a hook may take to arrive.
pub const HOOK_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Most memory for such bodies that are read at the same time, in bytes; further ones wait.
pub const STRANGERS_BYTES: usize = 4 * STRANGERS_BYTES_OF_ONE;
/// The part of [`STRANGERS_BYTES`] that the hooks of one workspace may have.
pub const STRANGERS_BYTES_OF_ONE: usize = 8 * MAX_HOOK_BODY_BYTES;
/// How far the time that a sender signs may be from the server's, in seconds (Standard Webhooks, Slack).
pub const HOOK_TOLERANCE_SECONDS: u64 = 5 * 60;
/// Most characters of a sender's id of a delivery.
pub const MAX_DELIVERY_ID: usize = 255;
/// How long the id of a delivery is remembered, in microseconds. Senders try again for a day or so; GitHub's can be sent again by
/// hand for three.
pub const HOOK_DELIVERY_MICROS: i64 = 7 * 24 * 3600 * 1_000_000;
/// Most forgotten deliveries that one new delivery removes from the store.
pub const HOOK_DELIVERIES_PURGE: i64 = 8;

/// Most sessions that one fire interrupts to make room.
pub const MAX_INTERRUPTS: i64 = 1000;
/// Most tokens of a reply or a request that a model can be configured with.
pub const MAX_MODEL_TOKENS: u32 = 100_000_000;
/// What the bound on the sessions that a workspace creates in a minute can be; 0 is none.
pub const SESSIONS_PER_MINUTE: RangeInclusive<u32> = 0..=1_000_000;
/// Most sessions that a server can be told to run at the same time.
pub const MAX_CONCURRENCY: usize = 100_000;
/// Most sandboxes that a server can be told to have up at the same time.
pub const MAX_SANDBOX_PLACES: usize = 100_000;
/// Bytes of a container image's reference, and of a runtime's name.
pub const MAX_CONTAINER_NAME: usize = 512;
/// What memory of one sandbox can be, in MiB: less does not start a shell, more is on no machine.
pub const SANDBOX_MEMORY_MIB: RangeInclusive<u64> = 64..=16 * 1024 * 1024;
/// What the number of processes of one sandbox can be; the kernel has no more.
pub const SANDBOX_PROCESSES: RangeInclusive<u32> = 16..=4_194_304;
/// What the processor time of one sandbox can be, in processors; the kernel shares out no less than a hundredth.
pub const SANDBOX_CPUS: RangeInclusive<f64> = 0.01..=4096.0;
/// What the files of one sandbox can take on the disk, in MiB.
pub const SANDBOX_DISK_MIB: RangeInclusive<u64> = 1..=1024 * 1024 * 1024;
/// Highest price of a model, in US dollars for a million tokens.
pub const MAX_PRICE: f64 = 1_000_000.0;

/// Spans of a deployment's schedule that one page of its occurrences looks at. A span begins when somebody changes the
/// schedule, or pauses or unpauses the deployment.
pub const OCCURRENCE_SPANS: i64 = 200;
/// Occurrences that one page looks at to find those that a filter asks for.
pub const MAX_OCCURRENCES_FILTERED: usize = 5000;
/// Gaps that may overlap one another, after the clock was set back, and are still told apart.
pub const OVERLAPPING_GAPS: usize = 8;

/// Occurrences that a preview of a schedule lists, unless more or fewer are asked for.
pub const PREVIEW_OCCURRENCES: i64 = 10;
/// Most occurrences that a preview can be asked for.
pub const MAX_PREVIEW_OCCURRENCES: i64 = 100;
/// Most notes on steps of the clock in a preview; the earliest are told.
pub const MAX_PREVIEW_NOTES: usize = 100;

/// Writes that may wait for the writer; more wait in their own tasks.
pub const WRITE_QUEUE: usize = 1024;
/// Most writes in one commit.
pub const WRITE_BATCH: usize = 256;
/// Connections that read at the same time.
pub const READ_CONNECTIONS: usize = 4;
/// Prepared statements kept per connection.
pub const STATEMENT_CACHE: usize = 256;
/// How long a statement waits for another process that writes.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections to PostgreSQL that write at the same time. A server has [`READ_CONNECTIONS`] and two more beside them.
pub const POSTGRES_WRITERS: usize = 4;
/// Most writes in one commit of PostgreSQL.
pub const POSTGRES_WRITE_BATCH: usize = 16;
/// Most rows in one statement of PostgreSQL; a power of two. It takes 65,535 parameters.
pub const ROWS_AT_ONCE: usize = 64;
/// How long opening a connection to the database may take, at each of its hosts.
pub const DATABASE_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the database may leave data unacknowledged before a connection counts as lost.
pub const DATABASE_SILENCE: Duration = Duration::from_secs(30);
/// Tries of a transaction that loses its connection or meets another one, the first included.
pub const DATABASE_TRIES: u32 = 7;
/// The pause before the second try; it doubles with each further one. Together they outlast a restart of the database.
pub const DATABASE_RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest such pause.
pub const DATABASE_RETRY_MAX: Duration = Duration::from_millis(3200);
/// Hints for other servers that may wait to be sent; more are left out.
pub const HINT_QUEUE: usize = 10_000;
/// Most hints in one notification, which can carry 8,000 bytes.
pub const HINTS_AT_ONCE: usize = 150;
/// The pause between two notifications of a server.
pub const HINT_EVERY: Duration = Duration::from_millis(10);

/// Deployments that are due, read from the store at a time.
pub const DUE_BATCH: i64 = 1000;
/// Deployments that are settled in one transaction.
pub const FIRES_AT_ONCE: usize = 64;
/// Such transactions under way at the same time: one for each connection of PostgreSQL that writes.
pub const FIRE_GROUPS_IN_FLIGHT: usize = POSTGRES_WRITERS;
/// How often a session that is to follow one that died, and waits until others have come to rest, is looked at, in microseconds.
pub const SESSION_RETRY_LOOK_MICROS: i64 = 5_000_000;
/// Runs of a deployment that are looked through for one that came to a good end, whose last words a new one is told.
pub const CARRIED_RUNS: i64 = 20;
/// How long the scheduler sleeps at most, in microseconds. It wakes at whole multiples of it.
pub const SCHEDULER_POLL_MICROS: i64 = 1_000_000;

/// Sessions whose deadlines are looked at between two reads of those that are due.
pub const DEADLINES_BATCH: i64 = 1000;
/// Sessions that are looked at at the same time. Their transactions share commits.
pub const DEADLINES_IN_FLIGHT: usize = 64;
/// How long the server waits at most before it looks again at what is due.
pub const DEADLINES_POLL: Duration = Duration::from_secs(1);
/// How often it looks for sessions that may have a deadline and are not known to have one.
pub const DEADLINES_SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Sessions that such a look, or a changed policy, takes in at once.
pub const DEADLINES_TAKEN: i64 = 1000;
/// What one look does to a session at most: what is denied may leave something that is due, too.
pub const DEEDS_OF_A_LOOK: usize = 3;
/// When a session is looked at again that was to be stopped and has not, or whose look has failed.
pub const DEADLINE_AGAIN_MICROS: i64 = 10_000_000;
/// Deployments that are paused for their failures between two looks at sessions.
pub const PAUSES_AT_ONCE: i64 = 100;
/// The pause between two looks for deployments that are silent.
pub const SILENCE_POLL: Duration = Duration::from_secs(5);
/// Deployments that one such look takes at a time.
pub const SILENCE_BATCH: i64 = 100;
/// The newest runs of a deployment among which its last good one is looked for.
pub const SILENCE_RUNS: i64 = 100;
/// After how long a deployment is looked at again at the latest, in microseconds: before its runs are so old that they may be deleted.
pub const SILENCE_LOOK_MICROS: i64 = 6 * 60 * 60 * 1_000_000;
/// The same of one that is silent.
pub const SILENT_LOOK_MICROS: i64 = 10 * 60 * 1_000_000;
/// Over how long a time after an occurrence the looks at those deployments are spread that have it, in seconds.
pub const SILENCE_SPREAD_SECONDS: i64 = 30;

/// Most runs that sums are made of at a time.
pub const MAX_SUMMED_RUNS: i64 = 100_000;
/// Most sums that one answer has.
pub const MAX_RUN_SUMS: usize = 1000;
/// The longest time of which sums are made, in microseconds.
pub const MAX_SUMMED_MICROS: i64 = 93 * 86_400 * 1_000_000;
/// The time of which sums are made unless a caller says otherwise, in microseconds.
pub const SUMMED_MICROS: i64 = 7 * 86_400 * 1_000_000;

/// Rows that are on their way when a store is copied.
pub const COPY_BATCH: u64 = 1000;

/// How often an open stream looks for what no other server has told of.
pub const STREAM_POLL: Duration = Duration::from_secs(5);
/// How often an open stream with nothing to tell says that it is alive.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(25);
/// How long ago a client's newest event may have come for a new stream to begin right after it.
pub const STREAM_LOOK_BACK: Duration = Duration::from_secs(5);
/// Streams that were closed so long ago or less and are remembered, so that the next one of the same client repeats nothing.
pub const CLOSED_STREAMS: usize = 10_000;
/// Most events of the log among which that one is looked for.
pub const STREAM_LOOK_BACK_EVENTS: i64 = 1000;
/// Most events read from the store at a time, for a stream or a runner.
pub const STREAM_BATCH: i64 = 256;
/// Most bytes of events read at a time for a stream, unless the first of them has more: what a stream that nobody reads
/// holds.
pub const STREAM_BATCH_BYTES: usize = 64 * 1024;
/// Most bytes of an event that a stream reads as a whole, and most characters of the pieces in which it reads a larger one.
pub const STREAM_PIECE: usize = 512 * 1024;
/// Streams of one workspace that are open at the same time at one server; the next one is answered with 429.
pub const MAX_STREAMS_PER_WORKSPACE: usize = 500;
/// Deltas that a slow stream may fall behind before it misses some.
pub const DELTA_QUEUE: usize = 1024;

/// How long a runner owns a session without renewing.
pub const LEASE_MICROS: i64 = 30_000_000;
/// How long sessions wait for a server that has their files and does not answer; then they go on elsewhere, without them.
pub const HOME_MICROS: i64 = 60_000_000;
/// How often a runner renews its leases and says that it is alive.
pub const LEASE_RENEW_EVERY: Duration = Duration::from_secs(10);
/// Sessions that a server has in memory to run them: those at work, those whose calls run, and those that wait for a place
/// for either. Workspaces share them.
pub const MAX_DRIVEN_SESSIONS: usize = 1024;
/// Bytes of a session's log, with what waits to be taken up, from which on its conversation counts as large. A session that
/// has grown by so much, or by a quarter of what it had, is counted anew before its next request to the model.
pub const LARGE_LOG_BYTES: i64 = 1024 * 1024;
/// Bytes of the logs of sessions with large conversations that are driven at the same time; further ones wait. In memory a
/// conversation takes about three times as much: it is sent from a copy.
pub const LARGE_LOGS_BYTES: usize = 2 * LARGE_LOGS_BYTES_OF_ONE;
/// The part of [`LARGE_LOGS_BYTES`] that the sessions of one workspace may have. At least [`MAX_SESSION_BYTES`], or a session
/// of that size counts for less than it takes.
pub const LARGE_LOGS_BYTES_OF_ONE: usize = 64 * 1024 * 1024;
/// Sessions of one workspace that are taken up before another workspace has its turn.
pub const CLAIM_BATCH: usize = 64;
/// How often a server looks whether the operator has stopped everything.
pub const BRAKE_POLL: Duration = Duration::from_millis(500);
/// How long calls and requests to models may go on when the server is to end, in seconds, unless `[engine] drain_seconds` says
/// otherwise: longer than most take, and less than service managers wait before they kill.
pub const DRAIN_SECONDS: u64 = 20;
/// What that can be.
pub const DRAIN_SECONDS_RANGE: RangeInclusive<u64> = 0..=86_400;
/// How long a runner sleeps when nothing wakes it.
pub const RUNNER_POLL: Duration = Duration::from_millis(500);
/// How often a session is run on, the first time included, when that fails for another reason than the database: as when
/// what is stored of it cannot be read. Then it ends for good.
pub const SESSION_TRIES: u32 = 3;
/// The pause before the second such try; it doubles with each further one. A session that the database fails is tried again
/// for as long as that lasts.
pub const SESSION_RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest such pause.
pub const SESSION_RETRY_MAX: Duration = Duration::from_secs(5);
/// Events that a session may have; a session that reaches it ends its turn with an error and takes no more messages.
pub const MAX_SESSION_EVENTS: i64 = 50_000;
/// Bytes of events that a session may have, as JSON, before it takes in no more. Twice what an upstream takes in one request.
pub const MAX_SESSION_BYTES: i64 = 64 * 1024 * 1024;
/// Bytes of the outcomes of a session, as JSON.
pub const MAX_OUTCOMES_BYTES: usize = 1024 * 1024;
/// Most bytes of events that a runner reads at a time, unless the first of them has more.
pub const LOG_BATCH_BYTES: usize = 1024 * 1024;
/// Requests to the model in one turn.
pub const MAX_TURN_REQUESTS: u32 = 500;
/// Files that the events of one request may refer to.
pub const MAX_FILES_OF_EVENTS: usize = 100;
/// Inputs that may wait in a running session.
pub const MAX_QUEUED_INPUTS: i64 = 1000;
/// Bytes of the inputs that may wait in a running session, as JSON: one request body.
pub const MAX_QUEUED_BYTES: i64 = 32 * 1024 * 1024;
/// Tries of one model request, the first included, unless `[engine] model_tries` says otherwise.
pub const MODEL_TRIES: u32 = 5;
/// The same in a session that a deployment started, where nobody may be there to send a message again, unless
/// `unattended_model_tries` says otherwise: with their pauses they take eleven minutes, and so outlast an outage of ten.
pub const UNATTENDED_MODEL_TRIES: u32 = 17;
/// What either can be.
pub const MODEL_TRIES_RANGE: RangeInclusive<u32> = 1..=1000;
/// Upstreams that a model can name to be asked in the place of its own.
pub const MAX_MODEL_FALLBACKS: usize = 8;
/// Requests in a second that an upstream can be said to take.
pub const MODEL_RATE: RangeInclusive<f64> = 0.001..=100_000.0;
/// Least tokens that a model can be given to think (the vendor's bound).
pub const LEAST_THINKING_TOKENS: u32 = 1024;
/// How long a session waits in memory for its turn with an upstream. Then it gives its places back, and comes again later.
pub const MODEL_LINE_PATIENCE: Duration = Duration::from_secs(10);
/// The same before an upstream that has another one behind it.
pub const MODEL_FALLBACK_PATIENCE: Duration = Duration::from_secs(2);
/// The least pause of a session that comes again later ...
pub const MODEL_LINE_PAUSE: Duration = Duration::from_secs(5);
/// ... which grows to half of the time that it has waited by then, but not beyond this.
pub const MODEL_LINE_PAUSE_MAX: Duration = Duration::from_mins(1);
/// How long a session may wait for its turns before each further wait counts as a failed try.
pub const MODEL_LINE_LONGEST: Duration = Duration::from_hours(24);
/// How often those who wait look whether it is their turn, where nothing tells them sooner.
pub const MODEL_LINE_POLL: Duration = Duration::from_millis(250);
/// Requests to an upstream that may be under way at the same time after it has refused; beyond that they are not counted any more.
pub const MODEL_WINDOW: f64 = 1024.0;
/// How long an upstream that has failed is passed over where another one can be asked; it doubles with each further failure ...
pub const MODEL_DOWN_FIRST: Duration = Duration::from_secs(15);
/// ... up to this, which is also how long one is passed over that does not take the key.
pub const MODEL_DOWN_MAX: Duration = Duration::from_mins(5);
/// How long a look at an upstream may take when the server starts.
pub const MODEL_LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Upstreams that are looked at at the same time.
pub const MODEL_LOOKS_AT_ONCE: usize = 8;
/// How often in a row a model may ask to be asked later, by an hour each time, before that counts as a failed try.
pub const MODEL_WAITS: u32 = 24;
/// Tries of a model request whose replies end within the call of a tool, the first included: each costs a whole reply.
pub const CUT_CALL_TRIES: u32 = 3;
/// The pause before the second try; it doubles with each further one.
pub const MODEL_RETRY_FIRST_MICROS: i64 = 1_000_000;
/// The longest pause between two tries, unless the model asks for a longer one.
pub const MODEL_RETRY_MAX_MICROS: i64 = 60_000_000;
/// Tries of starting a sandbox while the machine is short of something that may come back, the first included. The pauses
/// are those of a model.
pub const SANDBOX_TRIES: u32 = 5;
/// How long a sandbox stays up after its session's last call.
pub const SANDBOX_IDLE: Duration = Duration::from_mins(10);
/// How often files of sessions that are gone, or have moved to another server, are looked for.
pub const ORPHANS_EVERY: Duration = Duration::from_mins(10);
/// How long files of sessions that the store does not know are kept, in microseconds: a day, to put the right store back.
pub const TRASH_KEPT_MICROS: i64 = 24 * 3600 * 1_000_000;
/// Sessions that the store does not know whose files are kept; of more, those that were found first go.
pub const MAX_TRASH: usize = 10_000;
/// How long it is known that a session was deleted whose files are on a server that is gone, in microseconds.
pub const DELETED_SESSIONS_KEPT_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;
/// The pause before what an earlier server left running is looked for again, when that failed.
pub const SWEEP_RETRY: Duration = Duration::from_secs(1);
/// Deleted sessions whose files wait to be removed; those of more are removed at the next start.
pub const MAX_DELETIONS: usize = 10_000;
/// How often sandboxes that nobody needs are looked for.
pub const SANDBOX_TIDY_EVERY: Duration = Duration::from_secs(1);
/// How often a runner looks for an interrupt that another server took in.
pub const INTERRUPT_POLL: Duration = Duration::from_secs(1);
/// How long a server that is told to stop waits for requests and tools to end.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// How often a start tries to take the data folder before it says that another server is using it.
pub const LOCK_TRIES: u32 = 40;
/// The pause between two such tries.
pub const LOCK_RETRY: Duration = Duration::from_millis(25);

/// Most bytes of a file.
pub const MAX_FILE_BYTES: u64 = 500 * 1024 * 1024;
/// Most characters of a file's name.
pub const MAX_FILENAME: usize = 255;
/// How long the upload of a file may take ...
pub const UPLOAD_TIMEOUT: Duration = Duration::from_mins(30);
/// ... and how long no byte may come.
pub const UPLOAD_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Most bytes of a body of several parts between two of them: the headers of a part, or what is no part at all.
pub const UPLOAD_EXTRA_BYTES: usize = 1024 * 1024;
/// Bytes of the files that a workspace may keep, in MiB, unless `[blobs] workspace_mib` says otherwise: 1 TiB.
pub const WORKSPACE_FILES_MIB: u64 = 1024 * 1024;
/// How long a file that has expired is still told apart from one that was never there, in microseconds.
pub const EXPIRED_KEPT_MICROS: i64 = 90 * 24 * 3600 * 1_000_000;
/// Files that expire in one transaction.
pub const EXPIRE_BATCH: i64 = 500;
/// Bytes that are sent at a time to a folder of blobs ...
pub const BLOB_PART_BYTES_OF_A_FOLDER: usize = 1024 * 1024;
/// ... and to a bucket, which takes no smaller parts than 5 MiB, and at most 10,000 of them.
pub const BLOB_PART_BYTES_OF_A_BUCKET: usize = 6 * 1024 * 1024;
/// Bytes of a blob after which the disk of a folder is told to begin with them, so that it does not have all to do at the end:
/// it must do so many within [`BLOB_ANSWER_TIMEOUT`].
pub const BLOB_FLUSH_BYTES: usize = 16 * 1024 * 1024;
/// Most memory for parts of blobs that are being written; who has no room waits.
pub const BLOB_PARTS_BYTES: usize = 48 * 1024 * 1024;
/// The part of [`BLOB_PARTS_BYTES`] that one workspace may have.
pub const BLOB_PARTS_BYTES_OF_ONE: usize = 24 * 1024 * 1024;
/// How long the place of blobs may take to answer.
pub const BLOB_ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take altogether to give the content of a blob, however few bytes come at a time. What the reader takes is
/// not counted.
pub const BLOB_READ_TIMEOUT: Duration = Duration::from_mins(30);
/// Most bytes of a file that a model is sent.
pub const MAX_INLINE_BYTES: usize = 20 * 1024 * 1024;
/// Most bytes of the files that a model is sent with one request; instead of further ones it reads that they are too much.
pub const MAX_INLINED_BYTES: usize = 22 * 1024 * 1024;
/// Memory for files in requests to models that are under way; further requests wait.
pub const INLINED_BYTES: usize = 2 * INLINED_BYTES_OF_ONE;
/// The part of [`INLINED_BYTES`] that the sessions of one workspace may have: one request with as much as there may be, three
/// times, as it is read, coded and sent.
pub const INLINED_BYTES_OF_ONE: usize = 3 * MAX_INLINED_BYTES;
/// How long bytes that no row names are kept: longer than an upload may take, after which its row comes.
pub const BLOB_GRACE: Duration = Duration::from_hours(1);
/// How often they are looked for.
pub const BLOB_SWEEP_EVERY: Duration = Duration::from_mins(30);
/// Blobs that one statement asks for.
pub const BLOB_SWEEP_BATCH: usize = 500;
/// How long bringing the files of a session into its sandbox may take, before one call.
pub const MOUNT_TIMEOUT: Duration = Duration::from_mins(10);
/// Bytes of a clone of a repository, what git keeps included, in MiB, unless `[git] max_mib` says otherwise.
pub const CLONE_MIB: u64 = 2048;
/// Files and folders of a clone, those of git included, unless `[git] max_files` says otherwise.
pub const CLONE_FILES: u64 = 500_000;
/// Seconds that the clones of a session may take together, unless `[git] timeout_seconds` says otherwise.
pub const CLONE_SECONDS: u32 = 600;
/// Clones that a server makes at the same time. Workspaces share the places.
pub const CLONES_AT_ONCE: usize = 8;
/// Hosts that `[git] hosts` can name.
pub const MAX_GIT_HOSTS: usize = 100;
/// How often it is looked how large a clone has become.
pub const CLONE_LOOK_EVERY: Duration = Duration::from_millis(250);
/// The pause between two tries to have a clone for oneself while it is still being looked at.
pub const CLONE_LOOK_END: Duration = Duration::from_millis(2);
/// Tries of a clone whose host cannot be reached or answers that it cannot now, the first included.
pub const CLONE_TRIES: u32 = 4;
/// The pause before the second such try; it doubles with each further one.
pub const CLONE_RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest such pause.
pub const CLONE_RETRY_MAX: Duration = Duration::from_secs(10);
/// Bytes that are kept of what git prints, and of what it says of errors.
pub const GIT_OUTPUT_BYTES: usize = 64 * 1024;
/// How long git may take to end once it is told to, and to say its version.
pub const GIT_END_TIMEOUT: Duration = Duration::from_secs(5);
/// Skills of one repository that are announced.
pub const MAX_REPOSITORY_SKILLS: usize = 50;
/// Folders of one repository that are looked at to find them.
pub const MAX_SKILL_FOLDERS: usize = 1000;
/// Skills of all repositories of a session that are announced.
pub const MAX_REPOSITORIES_SKILLS: i64 = 100;
/// Most files that the outputs of a session are, and most files and folders that are looked at there.
pub const MAX_OUTPUTS: usize = 1000;
/// ... and most folders below each other.
pub const MAX_OUTPUT_DEPTH: usize = 32;
/// Sessions whose outputs a server takes in at the same time.
pub const OUTPUTS_AT_ONCE: usize = 4;
/// How often sessions whose outputs are to be taken in are looked for, when nothing wakes the server.
pub const OUTPUTS_POLL: Duration = Duration::from_secs(2);
/// The pause after the outputs of a session could not be taken in; it doubles with each further time.
pub const OUTPUTS_RETRY_FIRST: Duration = Duration::from_secs(2);
/// The longest such pause.
pub const OUTPUTS_RETRY_MAX: Duration = Duration::from_mins(5);
/// Most outputs that a session says were left out; of more, the number.
pub const OUTPUTS_TOLD: usize = 10;
/// Most characters that are said of one of them.
pub const OUTPUT_TOLD_CHARS: usize = 400;
/// Files and folders of a session of which a checkpoint can be taken.
pub const CHECKPOINT_ENTRIES: usize = 100_000;
/// Most folders below each other in one: each is held open while it is listed.
pub const CHECKPOINT_DEPTH: usize = 96;
/// Bytes of the files of a session of which a checkpoint can be taken, in MiB, unless `[sandbox] checkpoint_mib` says otherwise.
pub const CHECKPOINT_MIB: u64 = 4096;
/// How long taking a checkpoint, or putting one back, may take. Less than [`BLOB_GRACE`]: its row comes after its bytes.
pub const CHECKPOINT_TIMEOUT: Duration = Duration::from_mins(30);
/// Checkpoints that a server takes at the same time.
pub const CHECKPOINTS_AT_ONCE: usize = 4;
/// How often checkpoints that are due are looked for.
pub const CHECKPOINT_POLL: Duration = Duration::from_secs(1);
/// The pause after one could not be taken; it doubles with each further time.
pub const CHECKPOINT_RETRY_FIRST: Duration = Duration::from_secs(2);
/// The longest such pause.
pub const CHECKPOINT_RETRY_MAX: Duration = Duration::from_mins(5);
/// Bytes of a file up to which its content shares a blob with that of others.
pub const CHECKPOINT_SMALL_FILE: u64 = 1024 * 1024;
/// Bytes of such a blob from which on it is full.
pub const CHECKPOINT_PACK_BYTES: usize = 8 * 1024 * 1024;
/// Blobs of less than a quarter of that which a checkpoint may need; of more, what is in them is put together anew.
pub const CHECKPOINT_SMALL_PACKS: usize = 32;
/// Most bytes of the list of the files of a checkpoint, unpacked and packed.
pub const CHECKPOINT_LIST_BYTES: u64 = 128 * 1024 * 1024;
/// Files of which a session's agent is told by name that a checkpoint does not have them.
pub const CHECKPOINT_TOLD: usize = 10;
/// How long ago a file must have been changed, in nanoseconds, so that a further change shows in its time.
pub const CHECKPOINT_SETTLED_NANOS: i128 = 2_000_000_000;
/// How long a checkpoint is kept after its session was created, in microseconds (hosted: the same).
pub const CHECKPOINT_KEPT_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;
/// Master keys that a file or a variable may hold: the store's own, and those of changes that are under way.
pub const MAX_MASTER_KEYS: usize = 4;
/// Data keys of workspaces that a server keeps in memory; beyond that all are read anew.
pub const DATA_KEYS_IN_MEMORY: usize = 10_000;
/// How long before it expires an access token is renewed, in microseconds; one of less than twice that, after half its time.
pub const REFRESH_AHEAD_MICROS: i64 = 300 * 1_000_000;
/// How long an exchange of a refresh token, or a step of a probe, may take.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(15);
/// How long whoever renews a token has it for itself, in microseconds: longer than the exchange and its record take.
pub const REFRESH_LEASE_MICROS: i64 = 60 * 1_000_000;
/// Tokens that a server renews at the same time.
pub const REFRESHES: usize = 16;
/// How often tokens that are due are looked for.
pub const REFRESH_POLL: Duration = Duration::from_secs(1);
/// Exchanges in a row that may fail before nobody tries any more; with their pauses they take half a day.
pub const REFRESH_TRIES: i64 = 16;
/// The longest pause after the first of them; it doubles with each further one. A pause is at least half of its longest.
pub const REFRESH_RETRY_FIRST: Duration = Duration::from_secs(30);
/// The longest pause between two of them.
pub const REFRESH_RETRY_MAX: Duration = Duration::from_hours(1);
/// The pause between two tries to record new tokens that the store could not take; they are in memory only.
pub const REFRESH_RECORD_RETRY: Duration = Duration::from_millis(500);
/// Most bytes of an answer that are read of a token endpoint, or of an MCP server that is probed.
pub const MAX_TOKEN_ANSWER_BYTES: usize = 64 * 1024;
/// Most bytes of such an answer that are shown.
pub const CAPTURED_BODY_BYTES: usize = 2048;
/// How long a probe waits for somebody else who is renewing the token.
pub const REFRESH_PATIENCE: Duration = Duration::from_secs(20);
/// The pause between two looks at that.
pub const REFRESH_LOOK: Duration = Duration::from_millis(100);
/// Secrets of an earlier version that are read to be sealed at a time.
pub const SEALED_AT_ONCE: i64 = 100;
/// How often a data key is made anew because the master key was changed meanwhile.
pub const DATA_KEY_TRIES: u32 = 4;

/// Dreams of a workspace that are pending or running.
pub const MAX_OPEN_DREAMS: i64 = 100;
/// Dreams that a server works on at the same time; each is another workspace's.
pub const DREAMS_AT_ONCE: usize = 4;
/// How often dreams that are due are looked for.
pub const DREAM_POLL: Duration = Duration::from_millis(500);
/// How long a worker has a dream without writing anything, in microseconds. More than [`DREAM_REQUEST_TIMEOUT`].
pub const DREAM_LEASE_MICROS: i64 = 15 * 60 * 1_000_000;
/// How long a model may take to answer a dream.
pub const DREAM_REQUEST_TIMEOUT: Duration = Duration::from_mins(10);
/// How long after its beginning a dream fails that has not ended, in microseconds.
pub const DREAM_MICROS: i64 = 24 * 3600 * 1_000_000;
/// How often a dream is taken up without coming further before it fails.
pub const DREAM_TRIES: u32 = 10;
/// The pause before the second such try; it doubles with each further one.
pub const DREAM_RETRY_FIRST: Duration = Duration::from_secs(2);
/// The longest such pause.
pub const DREAM_RETRY_MAX: Duration = Duration::from_mins(10);
/// Requests to the model about one part of a transcript; what was written until then stays.
pub const MAX_DREAM_REQUESTS: u32 = 50;
/// Memories that are copied in one transaction.
pub const DREAM_COPY_BATCH: i64 = 20;
/// Bytes of a transcript that a model is shown at a time.
pub const DREAM_PART_BYTES: usize = 128 * 1024;
/// Most bytes of a message in a transcript; of a longer one its beginning and its end.
pub const DREAM_SAID_BYTES: usize = 32 * 1024;
/// The same of the arguments of a call, and of its result.
pub const DREAM_TOOL_BYTES: usize = 4 * 1024;
/// Bytes of paths that a model is shown at a time.
pub const DREAM_LIST_BYTES: usize = 32 * 1024;

/// Endpoints that webhooks of one workspace are sent to, enabled or disabled (hosted: organization webhooks).
pub const MAX_WEBHOOK_ENDPOINTS: i64 = 32;
/// Webhooks that a server sends at the same time.
pub const WEBHOOK_SENDS: usize = 64;
/// Webhooks that a server sends at the same time to one endpoint, so that a slow one leaves room for the others.
pub const WEBHOOK_SENDS_PER_ENDPOINT: usize = 4;
/// Endpoints that the sender looks at in one round; the next round begins after those.
pub const WEBHOOK_ROUND: i64 = 256;
/// How long the sender sleeps when nothing wakes it.
pub const WEBHOOK_POLL: Duration = Duration::from_millis(500);
/// How much longer than an attempt may take its claim lasts, in microseconds: the time to record the outcome.
pub const WEBHOOK_CLAIM_MARGIN_MICROS: i64 = 15_000_000;
/// The longest pause after the first attempt; it doubles with each further one. A pause is at least half of its longest.
pub const WEBHOOK_RETRY_FIRST_MICROS: i64 = 10_000_000;
/// The longest pause between two attempts.
pub const WEBHOOK_RETRY_MAX_MICROS: i64 = 120_000_000;
/// An endpoint is disabled when this many deliveries in a row failed for good ...
pub const WEBHOOK_DISABLE_FAILURES: i64 = 10;
/// ... and the first of them this long before the last, in microseconds.
pub const WEBHOOK_DISABLE_MICROS: i64 = 3600 * 1_000_000;
/// Most bytes of an answer that are read. The rest is of no interest to anybody.
pub const WEBHOOK_EXCERPT_BYTES: usize = 1024;
/// How long a delivery is kept after its event, whatever has become of it, in microseconds.
pub const WEBHOOK_RETENTION_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;
/// How often deliveries that are too old are looked for.
pub const WEBHOOK_PURGE_EVERY: Duration = Duration::from_hours(1);
/// Most deliveries that one transaction removes.
pub const WEBHOOK_PURGE: i64 = 500;

/// Keys of one environment that are neither revoked nor have ended.
pub const MAX_ENVIRONMENT_KEYS: i64 = 100;
/// Keys of one environment that are revoked or have ended and are still shown; the newest are kept.
pub const ENDED_ENVIRONMENT_KEYS: i64 = 100;
/// How often a worker that waits for work looks into the store when nothing wakes it.
pub const WORK_POLL: Duration = Duration::from_millis(250);
/// How long work is kept for the worker that it was given to, unless the next one that asks says otherwise, in milliseconds
/// (hosted: the same).
pub const WORK_RECLAIM_MS: i64 = 5000;
/// The longest such time that can be asked for.
pub const MAX_WORK_RECLAIM_MS: i64 = 24 * 3600 * 1000;
/// How long work rests that its worker gave back although calls wait, in microseconds.
pub const WORK_AGAIN_MICROS: i64 = 5_000_000;
/// Tokens of one piece of work that are kept, the newest: each time that it is handed out makes one.
pub const WORK_TOKENS: i64 = 8;
/// How long a worker counts as polling after it has asked for work, in microseconds (hosted: the same).
pub const WORKER_POLLS_MICROS: i64 = 30_000_000;
/// A worker that was noted as polling is not noted again until this much later, in microseconds.
pub const WORKER_NOTED_MICROS: i64 = 10_000_000;
/// Workers of one environment that are counted.
pub const MAX_WORKERS_COUNTED: i64 = 1000;
/// Most bytes of the name that a worker gives itself.
pub const MAX_WORKER_ID: usize = 512;

/// Connections of sandboxes to the outside that are open at the same time. Workspaces share them; further ones wait.
pub const EGRESS_CONNECTIONS: usize = 2048;
/// The same of one session.
pub const EGRESS_CONNECTIONS_OF_ONE: usize = 256;
/// Connections that a session may make at once ...
pub const EGRESS_BURST: f64 = 1000.0;
/// ... and in a second after that. Further ones wait.
pub const EGRESS_RATE: f64 = 50.0;
/// How long nothing may move on a connection before it is closed.
pub const EGRESS_IDLE: Duration = Duration::from_mins(10);
/// How long a program may take for the headers of a request, a TLS client for its first message.
pub const EGRESS_HEADER_TIMEOUT: Duration = Duration::from_mins(1);
/// Most bytes of the line and headers of a request, or of an answer, in clear.
pub const EGRESS_HEADER_BYTES: usize = 64 * 1024;
/// Most bytes of the first message of a TLS client.
pub const EGRESS_HELLO_BYTES: usize = 32 * 1024;
/// What is copied at once of a connection that passes unread, each way, in bytes. Where more is there, the kernel passes it on.
pub const EGRESS_COPY_BYTES: usize = 16 * 1024;
/// What the kernel passes on at once, in bytes; the pipe that it goes through holds less by default.
pub const EGRESS_SPLICE_BYTES: usize = 1024 * 1024;
/// What is passed on at once of another connection into a sandbox, in bytes. A connection holds no more, however much is sent.
pub const EGRESS_COPY_IN_BYTES: usize = 64 * 1024;
/// The same out of the sandbox: most connections send little.
pub const EGRESS_COPY_OUT_BYTES: usize = 16 * 1024;
/// How long a host may take to accept a connection, at each of its addresses.
pub const EGRESS_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
pub const EGRESS_ADDRESSES: usize = 8;
/// How long a look-up of a name may take.
pub const EGRESS_LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Look-ups under way at the same time. Each has a thread.
pub const EGRESS_LOOKUPS: usize = 64;
/// The same of one session.
pub const EGRESS_LOOKUPS_OF_ONE: usize = 16;
/// How long what a name was resolved to is used for connections.
pub const EGRESS_RESOLVED_FRESH: Duration = Duration::from_secs(10);
/// Names of one sandbox that are known; of more, those that were asked for longest ago are forgotten.
pub const EGRESS_NAMES: usize = 4096;
/// How long programs may use the address of a name without asking again, in seconds.
pub const EGRESS_DNS_SECONDS: u32 = 30;
/// Most bytes of a question for a name that comes by UDP.
pub const EGRESS_DNS_BYTES: usize = 4096;
/// Questions of one sandbox that are answered at the same time, by UDP; and connections with such questions.
pub const EGRESS_DNS_AT_ONCE: usize = 64;
/// What a session may move through the gate, in MiB, unless `[network] session_mib` says otherwise.
pub const EGRESS_SESSION_MIB: u64 = 10 * 1024;
/// Further ports that an operator can open.
pub const MAX_EGRESS_PORTS: usize = 16;
/// Entries of `[network] never_open`.
pub const MAX_NEVER_OPEN: usize = 1024;
/// Rows of the egress log that are kept of a session, the newest ...
pub const EGRESS_ROWS: i64 = 10_000;
/// ... and how many there may be beyond that before they are deleted.
pub const EGRESS_ROWS_SLACK: usize = 500;
/// How long a row of the egress log is kept, in microseconds.
pub const EGRESS_KEPT_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;
/// How often rows that are too old are looked for.
pub const EGRESS_PURGE_EVERY: Duration = Duration::from_hours(1);
/// Most rows that one transaction deletes.
pub const EGRESS_PURGE: i64 = 500;
/// Rows that wait to be written; of more, what is beyond is lost and counted.
pub const EGRESS_LOG_QUEUE: usize = 10_000;
/// Most rows that are written in one transaction.
pub const EGRESS_BATCH: usize = 256;
/// How long rows are gathered for a transaction.
pub const EGRESS_LOG_EVERY: Duration = Duration::from_millis(200);
/// The pause after rows could not be written.
pub const EGRESS_LOG_RETRY: Duration = Duration::from_millis(500);
/// Least characters of what stands in a sandbox for a secret: nobody guesses one ...
pub const PLACEHOLDER_LEAST: usize = 32;
/// ... and most. Of a longer secret it is shorter than the secret.
pub const PLACEHOLDER_MOST: usize = 256;
/// Certificates of hosts that are kept for one sandbox; of more, all are made anew.
pub const EGRESS_LEAVES: usize = 256;
/// Requests at the same time on one opened connection of HTTP/2.
pub const EGRESS_STREAMS: u32 = 100;
/// Bytes of one such request, or answer, that are under way.
pub const EGRESS_STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all on one connection.
pub const EGRESS_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long the end of a piece that may begin a secret, or a placeholder, waits for the next piece, if it has no more bytes than
/// [`EGRESS_RELEASED`]. More of them wait until it comes.
pub const EGRESS_HELD: Duration = Duration::from_millis(250);
/// See [`EGRESS_HELD`].
pub const EGRESS_RELEASED: usize = 3;
/// Bytes of a compressed answer that are decompressed at once.
pub const EGRESS_INFLATED_AT_ONCE: usize = 4096;
/// Credentials that the log names for one connection.
pub const EGRESS_CREDENTIALS_TOLD: usize = 64;

/// Most bytes of the files of an image, and of its layers as they are downloaded; and never more than the disk has without its last
/// tenth.
pub const IMAGE_BYTES: u64 = 32 * 1024 * 1024 * 1024;
/// Most files, folders and links of an image.
pub const IMAGE_ENTRIES: u64 = 2_000_000;
/// Most layers of an image.
pub const IMAGE_LAYERS: usize = 256;
/// How long an image may take to be downloaded, and then to be unpacked.
pub const IMAGE_TIMEOUT: Duration = Duration::from_hours(2);
/// How long a registry may be silent.
pub const IMAGE_IDLE: Duration = Duration::from_mins(1);
/// Most bytes of a manifest or a configuration of an image.
pub const IMAGE_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// Most redirects of a registry.
pub const IMAGE_REDIRECTS: usize = 5;
/// Most entries of an archive with an image.
pub const IMAGE_ARCHIVE_ENTRIES: usize = 10_000;
/// Most variables that an image gives to the shell, and the longest of them in bytes.
pub const IMAGE_VARIABLES: usize = 64;
/// See [`IMAGE_VARIABLES`].
pub const IMAGE_VARIABLE_BYTES: usize = 4096;

/// How long a package manager may take for the packages of an environment, in seconds, unless `[packages] seconds` says otherwise; and
/// what that can be.
pub const PACKAGES_SECONDS: u64 = 600;
/// See [`PACKAGES_SECONDS`].
pub const PACKAGES_SECONDS_RANGE: RangeInclusive<u64> = 1..=600;
/// What the packages of one package manager may take on the disk while they are installed, in MiB, unless `[packages] mib` says
/// otherwise.
pub const PACKAGES_MIB: u64 = 10_240;
/// What all installed packages may take before those that were not used for longest are removed, in MiB, unless
/// `[packages] store_mib` says otherwise.
pub const PACKAGES_STORE_MIB: u64 = 51_200;
/// Package managers that install at the same time; further ones wait.
pub const PACKAGES_BUILDS: usize = 2;
/// How long to wait before it is tried again to record what an installation has come to.
pub const PACKAGES_RECORD_RETRY: Duration = Duration::from_millis(500);
/// Most bytes of the log of an installation that are kept: its end.
pub const PACKAGES_LOG_BYTES: usize = 64 * 1024;
/// Most bytes of that in an error.
pub const PACKAGES_ERROR_BYTES: usize = 1500;
/// Most hosts of `[packages]`, and most variables.
pub const PACKAGES_SETTINGS: usize = 64;

/// Most characters of the name under which a model sees a tool of an MCP server: chat completions take no longer one.
pub const MCP_NAME_CHARS: usize = 64;
/// Digits of the digest at the end of such a name that is not made of its parts alone.
pub const MCP_NAME_DIGITS: usize = 10;
/// How long an MCP server may take until it has opened a session and listed its tools, in seconds, unless
/// `[mcp] connect_seconds` says otherwise; and what that can be.
pub const MCP_CONNECT_SECONDS: u64 = 30;
/// How long a call of a tool may take, in seconds, unless `[mcp] call_seconds` says otherwise.
pub const MCP_CALL_SECONDS: u64 = 300;
/// What both can be.
pub const MCP_SECONDS_RANGE: RangeInclusive<u64> = 1..=3600;
/// How long an MCP server may take to answer what it need not: that a call is cancelled, that a session has ended.
pub const MCP_NOTICE_TIMEOUT: Duration = Duration::from_secs(5);
/// Sessions at MCP servers that this server has open, each of a session and a server. Workspaces share them; when all are taken,
/// those end whose session has been at rest for longest.
pub const MCP_CONNECTIONS: usize = 1024;
/// How long the sessions at MCP servers stay open after their session has come to rest.
pub const MCP_IDLE: Duration = Duration::from_mins(10);
/// Most pages of a list of tools.
pub const MCP_PAGES: usize = 64;
/// Tools of one MCP server that are known; those that are listed after them are left out.
pub const MCP_TOOLS_OF_ONE: usize = 256;
/// Most bytes of the description and the schema of a tool; a larger one is left out.
pub const MCP_TOOL_BYTES: usize = 64 * 1024;
/// Most bytes of all tools of an MCP server.
pub const MCP_TOOLS_BYTES: usize = 1024 * 1024;
/// Tools of MCP servers that a model is offered, of all servers of an agent.
pub const MCP_TOOLS: usize = 512;
/// Most bytes of one answer of an MCP server.
pub const MCP_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// Most bytes of a message that an MCP server sends unasked.
pub const MCP_UNASKED_BYTES: usize = 256 * 1024;
/// Most characters of what an MCP server says is wrong that are told.
pub const MCP_TOLD_CHARS: usize = 400;
/// Requests to an MCP server of which it is remembered what went wrong with them; of more, all are forgotten.
pub const MCP_PROBLEMS: usize = 64;
/// How often a stream that broke off is taken up where it ended.
pub const MCP_RESUMES: usize = 3;
/// The pause before the first time; it doubles with each further one.
pub const MCP_RESUME_FIRST: Duration = Duration::from_millis(500);
/// Most characters of the texts of a result (hosted: what a tool puts out beyond that is not in the conversation).
pub const MCP_RESULT_CHARS: usize = 100_000;
/// Most blocks of a result.
pub const MCP_RESULT_BLOCKS: usize = 100;
/// Most bytes of an image or a document in a result, in base64: what the APIs of models take.
pub const MCP_IMAGE_BYTES: usize = 5 * 1024 * 1024;
/// Most bytes of all images and documents of a result.
pub const MCP_RESULT_MEDIA_BYTES: usize = 10 * 1024 * 1024;

/// Calls of one reply that change nothing and run side by side; further ones follow them. No more than process 1 of a sandbox takes,
/// and few enough for the memory that their results may take before they are recorded.
pub const CALLS_AT_ONCE: usize = 8;

/// Calls of web tools that are answered at the same time, of all workspaces.
pub const WEB_CALLS: usize = 64;
/// How long a call of a web tool may take, redirects included.
pub const WEB_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection of it may take to stand.
pub const WEB_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects that are followed to a page.
pub const WEB_REDIRECTS: usize = 10;
/// Most bytes of a URL that is fetched.
pub const WEB_URL_BYTES: usize = 4096;
/// Most bytes of a page that are read; the rest is left out. A larger PDF is refused.
pub const WEB_PAGE_BYTES: usize = 10 * 1024 * 1024;
/// Most characters of a page's text, unless the agent wants fewer.
pub const WEB_PAGE_CHARACTERS: usize = 100_000;
/// Most bytes that a stream of a PDF may be when it is unpacked. What is in it takes several times as much memory.
pub const WEB_PDF_STREAM_BYTES: usize = 4 * 1024 * 1024;
/// Most objects of a PDF, those inside of others counted; what is more is left out.
pub const WEB_PDF_OBJECTS: usize = 1_000_000;
/// Most pages of a PDF that are read.
pub const WEB_PDF_PAGES: usize = 1000;
/// After how long no further page of a PDF is read.
pub const WEB_PDF_TIME: Duration = Duration::from_secs(15);
/// Pages and PDFs whose text is made at the same time, of all workspaces: each takes a thread and memory.
pub const WEB_READS: usize = 4;
/// Most bytes of the answer of a search provider.
pub const WEB_SEARCH_BYTES: usize = 2 * 1024 * 1024;
/// Most characters of a result of a search, and of its title.
pub const WEB_HIT_CHARACTERS: usize = 2000;

/// Most fields that a row of the audit list names.
pub const AUDIT_FIELDS: usize = 64;
/// Most bytes of the name of such a field; longer ones are no fields of a resource.
pub const AUDIT_NAME_BYTES: usize = 64;
/// Rows of the audit list that an export has in memory at a time.
pub const AUDIT_EXPORT_ROWS: i64 = 500;

/// How often what is kept no longer is looked for, by one server of those on a store.
pub const RETENTION_EVERY: Duration = Duration::from_hours(1);
/// Rows that are looked at in one read.
pub const RETENTION_LOOK: i64 = 500;
/// Sessions that one transaction removes ...
pub const RETENTION_SESSIONS: usize = 10;
/// ... and other rows. More events of a session than this many are removed after it.
pub const RETENTION_ROWS: i64 = 500;
/// For how long what a deployment spent in a month is kept after its end, in microseconds: the clock of another server on the store may be
/// so far behind.
pub const SPEND_KEPT_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
/// Deployments whose history one transaction shortens.
pub const RETENTION_DEPLOYMENTS: usize = 20;
/// The share of the time for which a sweep may keep the store busy: for each second of work it pauses so many.
pub const RETENTION_PAUSES: f64 = 9.0;
/// Rows of each kind that a preview looks at.
pub const RETENTION_PREVIEW_ROWS: i64 = 20_000;
/// Pages that SQLite gives back to the file system in one transaction ...
pub const GIVEN_BACK_PAGES: i64 = 500;
/// ... and those that are free and stay: 4 MB, which are soon used again.
pub const FREE_PAGES_KEPT: i64 = 1000;
/// Blobs that rows name, read from a store at a time by a backup or a check.
pub const NAMED_BLOBS_AT_ONCE: i64 = 1000;
/// How often a backup copies the store because blobs that the copy names were deleted meanwhile.
pub const BACKUP_SNAPSHOTS: u32 = 5;
/// Bytes that a backup copies at a time.
pub const COPY_BUFFER_BYTES: usize = 256 * 1024;
/// Most blobs that a backup names because something is wrong with them.
pub const MAX_TOLD_BLOBS: usize = 20;
/// Most bytes of a line in the list of a backup; that of its images is the longest.
pub const MANIFEST_LINE_BYTES: u64 = 16 * 1024 * 1024;
/// Most problems of a store that a check lists; it counts all.
pub const MAX_PROBLEMS: usize = 1000;
/// Sessions that a check reads at a time.
pub const CHECKED_SESSIONS_AT_ONCE: i64 = 200;
/// Sealed secrets that a check reads at a time.
pub const CHECKED_SECRETS_AT_ONCE: i64 = 500;
