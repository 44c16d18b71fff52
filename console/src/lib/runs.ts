// Runs in words.

import type { ListedRun } from "./types";
import { sentence, words } from "./format";

/** Why an occurrence has no run, or none yet. */
export const REASONS: Record<string, string> = {
  missed: "no server was there in time",
  paused: "the deployment was paused",
  superseded: "the schedule was changed before it fired",
  archived: "the deployment was archived before it fired",
  overlap: "an earlier session was still at work",
  concurrency: "as many sessions as allowed were at work",
  due: "about to start",
  queued: "waits for an earlier session to end",
  retrying: "starting failed and is tried again",
};

export const reasonText = (reason: string) => sentence(REASONS[reason] ?? words(reason));

/** What there is to say about a run beside its state. */
export function note(run: ListedRun): string {
  if (run.error) return run.error.message ?? sentence(words(run.error.type));
  if (run.reason) return reasonText(run.reason);
  const session = run.session;
  if (!session) return "";
  if (run.state === "waiting") {
    const count = session.waiting_on.length;
    return session.waits_for_human ? `Waits until ${count === 1 ? "a call is" : `${count} calls are`} allowed or denied` : "Waits for results of calls";
  }
  if (session.error && run.state === "failed") return session.error.message ?? sentence(words(session.error.type));
  if (run.state === "done" && session.stop_reason && session.stop_reason !== "end_turn") return sentence(words(session.stop_reason));
  return "";
}

export const runKey = (run: ListedRun) => run.run_id ?? `${run.deployment_id} ${run.at}`;

export const isOver = (run: ListedRun) => ["done", "failed", "deleted", "skipped", "missed"].includes(run.state);

/** How long a run has taken, or takes so far, in seconds. */
export function seconds(run: ListedRun, now: number): number | null {
  if (!run.session) return null;
  if (run.state === "working") return Math.max(0, (now - new Date(run.at).getTime()) / 1000);
  return run.session.duration_seconds;
}
