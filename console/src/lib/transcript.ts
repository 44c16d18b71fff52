// The log of a session as rows to be read: turns, what was said, calls with their results.

import type { SessionEvent, Usage } from "./types";
import { sentence, words } from "./format";

export interface Turn {
  kind: "turn";
  key: string;
  event: SessionEvent;
  number: number;
  startedAt: string;
  endedAt: string | null;
  /** Why it ended. */
  ending: string | null;
  requests: number;
  tokensIn: number;
  tokensOut: number;
}

export interface Said {
  kind: "user" | "agent" | "system";
  key: string;
  event: SessionEvent;
}

export interface Call {
  kind: "call";
  key: string;
  event: SessionEvent;
  result: SessionEvent | null;
  confirmation: SessionEvent | null;
  /** What it waits for, while the session does. */
  waitsFor: "permission" | "result" | "worker" | null;
}

export interface Note {
  kind: "note" | "error" | "thinking";
  key: string;
  event: SessionEvent;
  text: string;
}

/** What the agent is about to say. */
export interface Draft {
  kind: "draft";
  key: string;
  text: string;
  isThinking: boolean;
}

export type Row = Turn | Said | Call | Note | Draft;

/** What is said of an event that is neither a message nor a call; null for those that say nothing to a reader. */
function noteOf(event: SessionEvent): string | null {
  switch (event.type) {
    case "user.interrupt":
      return "Interrupted by the user";
    case "session.status_rescheduled":
      return "Waits and tries again by itself";
    case "session.status_terminated":
      return "The session has ended and takes no more messages";
    case "session.deleted":
      return "The session was deleted";
    case "session.updated":
      return `The session was changed: ${["title", "agent", "metadata", "budget"].filter((name) => event[name] != null).join(", ") || "settings"}`;
    case "agent.thread_context_compacted":
      return "The conversation was summarised to make room";
    case "user.define_outcome":
      return `Outcome to reach: ${String(event.description ?? "")}`;
    case "session.thread_created":
      return `Thread started: ${String(event.agent_name ?? "")}`;
    case "span.outcome_evaluation_end":
      return `Outcome: ${event.result ?? ""}. ${String(event.explanation ?? "")}`;
    case "session.usage":
    case "session.status_running":
    case "session.status_idle":
    case "span.model_request_start":
    case "span.model_request_end":
    case "span.outcome_evaluation_start":
    case "span.outcome_evaluation_ongoing":
    case "session.thread_status_running":
    case "session.thread_status_idle":
    case "session.thread_status_rescheduled":
    case "session.thread_status_terminated":
      return null;
    default:
      return sentence(words(event.type.replace(".", ": ")));
  }
}

const ENDINGS: Record<string, string> = {
  end_turn: "done",
  requires_action: "waits for an answer",
  retries_exhausted: "gave up after several tries",
  budget_reached: "its budget is used up",
  refusal: "the model refused",
};

export class Transcript {
  /** Every event of the log, in its order. */
  readonly events: SessionEvent[] = [];
  rows: Row[] = [];
  status: string | null = null;
  usage: Usage | null = null;
  isDeleted = false;
  private readonly known = new Set<string>();
  private readonly calls = new Map<string, number>();
  private drafts: Draft[] = [];
  private turn = -1;
  private turns = 0;
  private waiting = new Set<string>();

  /** Takes up what a stream tells. */
  push(events: SessionEvent[]) {
    for (const event of events) {
      if (event.type === "event_start") this.begin(event);
      else if (event.type === "event_delta") this.extend(event);
      else if (!this.known.has(event.id)) this.add(event);
    }
  }

  /** What was being said when a stream broke off comes whole with the log. */
  dropDrafts() {
    this.drafts = [];
  }

  /** The rows as they are shown, with what is being said last. */
  shown(): Row[] {
    return [...this.rows, ...this.drafts];
  }

  /** Ids of calls that wait for somebody. */
  get open(): string[] {
    return [...this.waiting];
  }

  private begin(event: SessionEvent) {
    const { id, type } = event.event!;
    if (!this.known.has(id)) this.drafts = [...this.drafts, { kind: "draft", key: `draft ${id}`, text: "", isThinking: type === "agent.thinking" }];
  }

  private extend(event: SessionEvent) {
    const key = `draft ${event.event_id}`;
    const said = event.delta?.content?.text ?? "";
    this.drafts = this.drafts.map((draft) => (draft.key === key ? { ...draft, text: draft.text + said } : draft));
  }

  private add(event: SessionEvent) {
    this.known.add(event.id);
    this.events.push(event);
    if (this.drafts.length) this.drafts = this.drafts.filter((draft) => draft.key !== `draft ${event.id}`);
    const key = event.id;
    switch (event.type) {
      case "session.status_running":
        this.status = "running";
        this.setWaiting([]);
        this.startTurn(event);
        break;
      case "session.status_idle":
        this.status = "idle";
        this.setWaiting(event.stop_reason?.event_ids ?? []);
        this.endTurn(event, ENDINGS[event.stop_reason?.type ?? ""] ?? words(event.stop_reason?.type ?? "done"));
        break;
      case "session.status_rescheduled":
        this.status = "rescheduling";
        break;
      case "session.status_terminated":
        this.status = "terminated";
        this.setWaiting([]);
        this.endTurn(event, "ended for good");
        break;
      case "session.deleted":
        this.isDeleted = true;
        break;
      case "session.usage":
        this.usage = event.usage ?? null;
        break;
      case "span.model_request_end":
        this.count(event);
        break;
    }
    switch (event.type) {
      case "user.message":
        this.rows.push({ kind: "user", key, event });
        return;
      case "system.message":
        this.rows.push({ kind: "system", key, event });
        return;
      case "agent.message":
        this.rows.push({ kind: "agent", key, event });
        return;
      case "agent.thinking":
        this.rows.push({ kind: "thinking", key, event, text: "Thought" });
        return;
      case "session.error":
        this.rows.push({ kind: "error", key, event, text: event.error?.message ?? sentence(words(event.error?.type ?? "error")) });
        return;
      case "agent.tool_use":
      case "agent.mcp_tool_use":
      case "agent.custom_tool_use":
        this.calls.set(event.id, this.rows.length);
        this.rows.push({ kind: "call", key, event, result: null, confirmation: null, waitsFor: null });
        return;
      case "agent.tool_result":
      case "agent.mcp_tool_result":
      case "user.tool_result":
      case "user.custom_tool_result":
        if (this.change(event.tool_use_id ?? event.mcp_tool_use_id ?? event.custom_tool_use_id, { result: event, waitsFor: null })) return;
        break;
      case "user.tool_confirmation":
        if (this.change(event.tool_use_id, { confirmation: event, waitsFor: null })) return;
        break;
    }
    const text = noteOf(event);
    if (text !== null) this.rows.push({ kind: "note", key, event, text });
  }

  private change(id: string | undefined, to: Partial<Call>): boolean {
    const at = id === undefined ? undefined : this.calls.get(id);
    if (at === undefined) return false;
    if (to.waitsFor === null) this.waiting.delete(id!);
    this.rows[at] = { ...(this.rows[at] as Call), ...to };
    return true;
  }

  private setWaiting(ids: string[]) {
    for (const id of this.waiting) this.change(id, { waitsFor: null });
    this.waiting = new Set(ids);
    for (const id of ids) {
      const at = this.calls.get(id);
      const call = at === undefined ? undefined : (this.rows[at] as Call);
      if (!call) continue;
      const waitsFor =
        call.event.type === "agent.custom_tool_use" ? "result" : call.event.evaluated_permission === "ask" && !call.confirmation ? "permission" : "worker";
      this.rows[at!] = { ...call, waitsFor };
    }
  }

  private startTurn(event: SessionEvent) {
    const open = this.rows[this.turn] as Turn | undefined;
    // One that was put off, or taken up by another server, goes on.
    if (open && open.endedAt === null) return;
    this.turn = this.rows.length;
    this.turns += 1;
    this.rows.push({
      kind: "turn",
      key: event.id,
      event,
      number: this.turns,
      startedAt: event.processed_at ?? "",
      endedAt: null,
      ending: null,
      requests: 0,
      tokensIn: 0,
      tokensOut: 0,
    });
  }

  private changeTurn(to: Partial<Turn>) {
    const turn = this.rows[this.turn] as Turn | undefined;
    if (turn) this.rows[this.turn] = { ...turn, ...to };
  }

  private endTurn(event: SessionEvent, ending: string) {
    this.changeTurn({ endedAt: event.processed_at ?? null, ending });
  }

  private count(event: SessionEvent) {
    const turn = this.rows[this.turn] as Turn | undefined;
    const usage = event.model_usage;
    if (!turn || !usage) return;
    this.changeTurn({
      requests: turn.requests + 1,
      tokensIn: turn.tokensIn + usage.input_tokens + (usage.cache_read_input_tokens ?? 0),
      tokensOut: turn.tokensOut + usage.output_tokens,
    });
  }
}

/** What a call is about, in one line. */
export function gist(event: SessionEvent): string {
  const input = event.input ?? {};
  for (const name of ["command", "path", "file_path", "pattern", "query", "url"]) {
    if (typeof input[name] === "string") return firstLine(input[name]);
  }
  const text = JSON.stringify(input);
  return text === "{}" ? "" : text;
}

function firstLine(text: string): string {
  const line = text.trimStart().split("\n", 1)[0]!;
  return line.length < text.trim().length ? `${line} …` : line;
}
