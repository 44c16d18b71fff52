// The events of a session: those that there are, then those that come, each once.

import { ApiError, failure, headersFor } from "./api";
import { connection } from "./connection.svelte";
import type { SessionEvent } from "./types";

export interface Watcher {
  /** Whether the stream is open. */
  isOpen(open: boolean): void;
  events(events: SessionEvent[]): void;
  error(error: ApiError): void;
}

/** The longest pause before the stream is opened again. */
const LONGEST_PAUSE = 4000;
/**
 * How long a page may be out of sight until its stream is closed. A browser has six connections to a server, whatever the number
 * of its tabs, and an open stream is one of them.
 */
const OUT_OF_SIGHT = 15_000;

/**
 * Watches a session from the beginning of its log. The frames of the log carry its numbers, so a stream that is opened again
 * goes on where the one before it ended; what is only said on the way (`event_start`, `event_delta`) has none.
 */
export function watch(session: string, watcher: Watcher): () => void {
  const abort = new AbortController();
  void run(session, watcher, abort.signal);
  return () => abort.abort();
}

async function run(session: string, watcher: Watcher, signal: AbortSignal) {
  let last = "0";
  let pause = 250;
  const path = `/v1/sessions/${encodeURIComponent(session)}/events/stream`;
  while (!signal.aborted) {
    const unseen = whenUnseen(signal);
    try {
      const headers = { ...headersFor(path), "last-event-id": last };
      const query = "?event_deltas[]=agent.message&event_deltas[]=agent.thinking";
      const response = await fetch(path + query, { headers, signal: AbortSignal.any([signal, unseen.signal]), cache: "no-store" });
      connection.found();
      if (!response.ok) {
        const error = await failure(response);
        if (response.status < 500 && response.status !== 429) return watcher.error(error);
        throw error;
      }
      watcher.isOpen(true);
      for await (const frames of framesOf(response.body!)) {
        pause = 250;
        const events: SessionEvent[] = [];
        for (const frame of frames) {
          // A number that is not above the last one was told before.
          if (frame.id !== null) {
            if (Number(frame.id) <= Number(last)) continue;
            last = frame.id;
          }
          events.push(JSON.parse(frame.data) as SessionEvent);
        }
        if (events.length) watcher.events(events);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError) && !unseen.signal.aborted) connection.lost();
    } finally {
      unseen.stop();
    }
    watcher.isOpen(false);
    if (unseen.signal.aborted) {
      await seen(signal);
      continue;
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}

/** A signal that comes when the page has been out of sight for a while. */
function whenUnseen(signal: AbortSignal) {
  const unseen = new AbortController();
  const listening = new AbortController();
  let timer: ReturnType<typeof setTimeout>;
  const look = () => {
    clearTimeout(timer);
    if (document.visibilityState === "hidden") timer = setTimeout(() => unseen.abort(), OUT_OF_SIGHT);
  };
  document.addEventListener("visibilitychange", look, { signal: AbortSignal.any([signal, listening.signal]) });
  look();
  return {
    signal: unseen.signal,
    stop: () => {
      clearTimeout(timer);
      listening.abort();
    },
  };
}

/** Returns when the page is in sight. */
function seen(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (document.visibilityState === "visible" || signal.aborted) resolve();
      else document.addEventListener("visibilitychange", look, { once: true });
    };
    look();
  });
}

interface Frame {
  id: string | null;
  data: string;
}

/** The frames of a stream, those of one piece together. */
async function* framesOf(body: ReadableStream<Uint8Array>): AsyncGenerator<Frame[]> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let unread = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    unread += decoder.decode(value, { stream: true });
    const texts = unread.split("\n\n");
    unread = texts.pop()!;
    const frames = texts.map(frameOf).filter((frame) => frame !== null);
    if (frames.length) yield frames;
  }
}

function frameOf(text: string): Frame | null {
  let id: string | null = null;
  const data: string[] = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("id: ")) id = line.slice(4);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  return data.length ? { id, data: data.join("\n") } : null;
}
