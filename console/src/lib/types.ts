// What the console reads of the API's answers.

export interface WaitingOn {
  event_id: string;
  answer: string;
}

export interface AttentionItem {
  kind: "waiting" | "failing" | "missed" | "paused" | "retrying" | "spend_near" | "spend_reached" | "silent" | "webhook_disabled";
  since: string;
  message: string;
  deployment_id: string | null;
  deployment_name: string | null;
  run_id: string | null;
  session_id: string | null;
  webhook_endpoint_id: string | null;
  waiting_on: WaitingOn[];
  failures: number | null;
}

export interface Failure {
  type: string;
  message?: string;
}

export const RUN_STATES = ["queued", "working", "retrying", "waiting", "done", "failed", "deleted", "skipped", "missed"] as const;
export type RunState = (typeof RUN_STATES)[number];

export interface Cost {
  micro_cents: number;
  currency: string;
}

export interface Usage {
  input_tokens?: number | null;
  output_tokens?: number | null;
  cache_read_input_tokens?: number | null;
  list_cost?: { amount: string; currency: string } | null;
}

/** What follows a session that died. */
export interface Followed {
  at: string | null;
  run_id: string | null;
  reason: string | null;
}

export const TRIGGERS = ["schedule", "manual", "at", "hook", "backfill", "rerun"] as const;
export type Trigger = (typeof TRIGGERS)[number];

export interface ListedRun {
  run_id: string | null;
  start_id: string | null;
  deployment_id: string;
  deployment_name: string;
  agent: { id: string; version: number };
  trigger: Trigger;
  rerun_of: string | null;
  rerun_by: string | null;
  scheduled_at: string | null;
  scheduled_until: string | null;
  at: string;
  state: RunState;
  reason: string | null;
  error: Failure | null;
  session: {
    id: string;
    status: string;
    stop_reason: string | null;
    error: Failure | null;
    interrupted_by: string | null;
    waits_for_human: boolean;
    waiting_on: WaitingOn[];
    stopped_at: string | null;
    duration_seconds: number | null;
    usage: Usage;
    cost: Cost | null;
    model: string;
  } | null;
  attempt: number;
  retry_of: string | null;
  followed: Followed | null;
}

/** A start's answer: the run as the API has it, and what started it. */
export interface StartedRun {
  id: string;
  session_id: string | null;
  error: Failure | null;
}

/** A run with what started it and what became of it. */
export interface Run extends StartedRun {
  deployment_id: string;
  created_at: string;
  start: { trigger: Trigger; inputs: Record<string, string> | null; start_id: string | null; hook_id: string | null };
  outcome: { lateness_ms: number | null; warnings: Warning[] };
}

export interface RunSum {
  runs: { total: number; done: number; failed: number; waiting: number; working: number; deleted: number };
  tokens: { input_tokens: number; output_tokens: number };
  cost: Cost | null;
}

export interface PlannedStart {
  id: string;
  trigger: Trigger;
  at: string;
  scheduled_at: string | null;
  state: "planned" | "ran" | "failed" | "skipped" | "missed" | "cancelled";
  reason: string | null;
  inputs: Record<string, string> | null;
  hook_id: string | null;
  run_id: string | null;
}

export interface Hook {
  id: string;
  name: string;
  scheme: "standard" | "github" | "slack" | "bearer";
  path: string;
  max_per_minute: number;
  last_delivery_at: string | null;
  created_at: string;
  secret?: string;
}

export interface Warning {
  code: string;
  message: string;
}

export interface Schedule {
  type: "cron";
  expression: string;
  timezone: string;
  upcoming_runs_at?: string[] | null;
  last_run_at?: string | null;
}

export interface Deployment {
  id: string;
  name: string;
  description?: string | null;
  agent: { id: string; version: number };
  environment_id: string;
  initial_events: InitialEvent[];
  schedule?: Schedule | null;
  status: "active" | "paused";
  paused_reason?: { type: string; error?: Failure } | null;
  resources: Record<string, unknown>[];
  vault_ids: string[];
  metadata: Record<string, string>;
  created_at: string;
  updated_at: string;
  archived_at?: string | null;
}

export interface InitialEvent {
  type: string;
  content?: Block[];
  description?: string;
  rubric?: { type: string; content?: string };
}

export interface Policy {
  overlap: "allow" | "skip" | "queue_one" | "cancel_previous";
  max_concurrent_sessions: number | null;
  retry: {
    max_attempts: number;
    max_sessions: number;
    even_after_changes: boolean;
    initial_backoff_seconds: number;
    max_backoff_seconds: number;
    multiplier: number;
  };
  catch_up_seconds: number;
  jitter: "off" | "hosted" | number;
  silent_after_intervals: number;
  spend: { per_day_cents: number | null; per_month_cents: number | null } | null;
  session: "new" | "continue";
  carry_forward: number | null;
  unattended: "wait" | "deny" | { answer_within_seconds: number };
  max_session_seconds: number | null;
  max_idle_waiting_seconds: number | null;
  pause_after_failures: number | null;
  starts_at: string | null;
  ends_at: string | null;
  paused_by: { failures: number; since: string; run_id: string | null; message: string } | null;
  warnings: Warning[];
}

export interface Occurrence {
  scheduled_at: string;
  outcome: "ran" | "failed" | "skipped" | "pending" | "upcoming" | "unaccounted";
  reason: string | null;
  run_id: string | null;
  session_id: string | null;
  error: Failure | null;
  retry_at: string | null;
  lateness_ms: number | null;
  attempts: { run_id: string; at: string; session_id: string | null; error: Failure | null; followed: Followed | null }[];
}

export interface Preview {
  expression: string;
  timezone: string;
  occurrences: { at: string; local: string }[];
  notes: { type: string; at: string; message: string }[];
}

export interface Agent {
  id: string;
  name: string;
  description?: string | null;
  model: { id: string };
  system?: string | null;
  tools: Record<string, unknown>[];
  mcp_servers: Record<string, unknown>[];
  skills: Record<string, unknown>[];
  metadata: Record<string, string>;
  version: number;
  created_at: string;
  updated_at: string;
  archived_at?: string | null;
}

export interface Environment {
  id: string;
  name: string;
  description?: string | null;
  config: Record<string, unknown> & { type: string };
  metadata: Record<string, string>;
  created_at: string;
  updated_at: string;
  archived_at?: string | null;
}

export interface Session {
  id: string;
  title?: string | null;
  agent: { id: string; name: string; version: number; model: { id: string } };
  environment_id: string;
  deployment_id?: string | null;
  status: "rescheduling" | "running" | "idle" | "terminated";
  stats: { active_seconds?: number | null; duration_seconds?: number | null };
  usage: Usage;
  resources: Record<string, unknown>[];
  vault_ids: string[];
  metadata: Record<string, string>;
  warnings?: Warning[];
  created_at: string;
  updated_at: string;
  archived_at?: string | null;
}

export const SESSION_STATES = ["queued", "working", "retrying", "waiting", "resting", "ended"] as const;

/** A session with what it is doing. */
export interface ListedSession {
  id: string;
  title: string | null;
  state: (typeof SESSION_STATES)[number];
  since: string | null;
  retry_at: string | null;
  waits_for_human: boolean;
  waiting_on: WaitingOn[];
  stop_reason: string | null;
  error: Failure | null;
  deployment_id: string | null;
  deployment_name: string | null;
  agent: { id: string; version: number };
  model: string;
  cost: Cost | null;
  created_at: string;
}

export interface AuditEvent {
  id: string;
  actor: { type: string; id: string | null };
  operation: string;
  resource: { type: string; id: string | null; parent_id: string | null };
  changed_fields: string[] | null;
  created_at: string;
}

export interface Block {
  type: string;
  text?: string;
  title?: string;
  source?: Record<string, unknown>;
  [field: string]: unknown;
}

/** An event of a session; which fields it has, its type says. */
export interface SessionEvent {
  id: string;
  type: string;
  processed_at?: string | null;
  content?: Block[] | null;
  name?: string;
  input?: Record<string, unknown>;
  mcp_server_name?: string;
  tool_use_id?: string;
  mcp_tool_use_id?: string;
  custom_tool_use_id?: string;
  evaluated_permission?: string | null;
  is_error?: boolean | null;
  result?: string;
  deny_message?: string | null;
  error?: Failure & { retry_status?: { type: string } };
  stop_reason?: { type: string; event_ids?: string[] };
  model_request_start_id?: string;
  model_usage?: { input_tokens: number; output_tokens: number; cache_read_input_tokens: number };
  usage?: Usage;
  event?: { id: string; type: string };
  event_id?: string;
  delta?: { type: string; content?: Block };
  [field: string]: unknown;
}

export interface Egress {
  id: string;
  host: string;
  port: number;
  outcome: "allowed" | "refused" | "failed";
  reason: string | null;
  bytes_in: number;
  bytes_out: number;
  credentials: { credential_id: string; times: number }[];
  started_at: string;
  duration_ms: number | null;
}

export interface FileRow {
  id: string;
  filename: string;
  mime_type: string;
  size_bytes: number;
  created_at: string;
  downloadable?: boolean | null;
}

/** A root file system that the server that answers has. */
export interface Image {
  name: string;
  digest: string;
  reference: string;
  architecture: string;
  size_bytes: number;
  created_at: string;
}
