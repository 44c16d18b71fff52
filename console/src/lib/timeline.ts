// When a session was at work: a lane for each thread, with a bar for each request to the model and each call of a tool.

import type { SessionEvent } from "./types";

export interface Bar {
  /** The event that it leads to. */
  id: string;
  kind: "model" | "tool";
  name: string;
  /** How many stand in it: those that are too close to be told apart are one. */
  count: number;
  /** Per cent of the width. */
  left: number;
  width: number;
  seconds: number;
  isOpen: boolean;
  isError: boolean;
}

export interface Lane {
  key: string;
  name: string;
  bars: Bar[];
}

export interface Timeline {
  lanes: Lane[];
  /** Where it was at rest: no time is drawn for that. */
  pauses: { left: number; seconds: number }[];
  /** Of all turns together. */
  seconds: number;
  /** Lanes beyond the bound. */
  more: number;
}

/** More threads are counted, and not drawn. */
const MOST_LANES = 20;
/** What is narrower, in per cent, is drawn as wide as that. */
const NARROWEST = 0.4;
/** What is too close to be told apart is drawn as one, at most so wide: a lane has few bars however much was done, and each leads near. */
const WIDEST_TOGETHER = 1;
const MAIN = "main";

interface Span {
  id: string;
  kind: Bar["kind"];
  name: string;
  lane: string;
  from: number;
  to: number | null;
  isError: boolean;
}

const time = (event: SessionEvent) => (event.processed_at ? new Date(event.processed_at).getTime() : null);

/** What of a log has a beginning and an end. */
function read(events: SessionEvent[]) {
  const lanes = new Map<string, string>([[MAIN, "Agent"]]);
  const spans = new Map<string, Span>();
  const turns: { from: number; to: number | null }[] = [];
  let main: string | null = null;
  const laneOf = (event: SessionEvent) => {
    const thread = event.session_thread_id as string | null | undefined;
    return thread && thread !== main && lanes.has(thread) ? thread : MAIN;
  };
  const end = (id: string | undefined, at: number, isError: boolean) => {
    const span = id === undefined ? undefined : spans.get(id);
    if (span && span.to === null) Object.assign(span, { to: at, isError });
  };
  for (const event of events) {
    const at = time(event);
    if (at === null) continue;
    const begin = (kind: Span["kind"], name: string) => spans.set(event.id, { id: event.id, kind, name, lane: laneOf(event), from: at, to: null, isError: false });
    switch (event.type) {
      case "session.status_running":
        if (turns.at(-1)?.to !== null) turns.push({ from: at, to: null });
        break;
      case "session.status_idle":
      case "session.status_terminated":
        if (turns.at(-1)?.to === null) turns.at(-1)!.to = at;
        break;
      case "session.thread_status_running":
        // The first thread that nobody made is the session's own.
        if (main === null && !lanes.has(String(event.session_thread_id))) {
          main = String(event.session_thread_id);
          if (event.agent_name) lanes.set(MAIN, String(event.agent_name));
        }
        break;
      case "session.thread_created":
        if (event.session_thread_id !== main) lanes.set(String(event.session_thread_id), String(event.agent_name ?? "Thread"));
        break;
      case "span.model_request_start":
        begin("model", "Request to the model");
        break;
      case "span.model_request_end":
        end(event.model_request_start_id, at, !!event.is_error);
        break;
      case "agent.tool_use":
      case "agent.mcp_tool_use":
      case "agent.custom_tool_use":
        begin("tool", `Call of ${[event.mcp_server_name, event.name].filter(Boolean).join(" · ")}`);
        break;
      case "agent.tool_result":
      case "agent.mcp_tool_result":
      case "user.tool_result":
      case "user.custom_tool_result":
        end(event.tool_use_id ?? event.mcp_tool_use_id ?? event.custom_tool_use_id, at, !!event.is_error);
        break;
    }
  }
  return { lanes, spans: [...spans.values()], turns };
}

export function timelineOf(events: SessionEvent[], now: number): Timeline {
  const { lanes, spans, turns } = read(events);
  const last = events.findLast((event) => event.processed_at);
  const latest = last ? time(last)! : now;
  const isAtWork = turns.at(-1)?.to === null;
  // What waits for an answer goes on while the session rests: it is drawn to the end of its turn.
  const pieces = turns.map(({ from, to }) => ({ from, to: to ?? Math.max(now, latest) }));
  const work = pieces.reduce((sum, piece) => sum + Math.max(1, piece.to - piece.from), 0) || 1;

  const placed: { from: number; to: number; left: number }[] = [];
  let before = 0;
  for (const { from, to } of pieces) {
    placed.push({ from, to, left: before });
    before += (Math.max(1, to - from) / work) * 100;
  }
  const place = (at: number): number => {
    const piece = placed.findLast((one) => one.from <= at);
    return piece ? piece.left + (Math.max(0, Math.min(at, piece.to) - piece.from) / work) * 100 : 0;
  };

  const shown = [...lanes].slice(0, MOST_LANES).map(([key, name]): Lane => {
    const bars: Bar[] = [];
    for (const kind of ["model", "tool"] as const) {
      let open: Bar | undefined;
      for (const span of spans) {
        if (span.lane !== key || span.kind !== kind) continue;
        const until = span.to ?? (isAtWork ? now : latest);
        const left = Math.min(place(span.from), 100 - NARROWEST);
        const right = Math.max(place(until), left + NARROWEST);
        const seconds = Math.max(0, until - span.from) / 1000;
        const isOpen = span.to === null;
        if (open && left < Math.min(open.left + open.width + NARROWEST / 2, open.left + WIDEST_TOGETHER)) {
          open.width = Math.max(open.width, right - open.left);
          open.count += 1;
          open.seconds += seconds;
          open.isOpen ||= isOpen;
          open.isError ||= span.isError;
        } else {
          open = { id: span.id, kind, name: span.name, count: 1, left, width: right - left, seconds, isOpen, isError: span.isError };
          bars.push(open);
        }
      }
    }
    return { key, name, bars: bars.sort((one, other) => one.left - other.left) };
  });
  return {
    lanes: shown,
    pauses: placed.slice(1).map((piece, at) => ({ left: piece.left, seconds: (piece.from - placed[at]!.to) / 1000 })),
    seconds: work / 1000,
    more: lanes.size - shown.length,
  };
}
