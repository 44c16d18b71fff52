// Runs in words.

import { start } from "./beyond.svelte";
import { route } from "./router.svelte";
import { toasts } from "./ui.svelte";
import type { Followed, ListedRun, StartedRun, Trigger } from "./types";
import { moment, sentence, words } from "./format";

/** Why an occurrence has no run, or none yet. */
export const REASONS: Record<string, string> = {
  missed: "no server was there in time",
  paused: "the deployment was paused",
  superseded: "the schedule was changed before it fired",
  archived: "the deployment was archived before it fired",
  overlap: "an earlier session was still at work",
  concurrency: "as many sessions as allowed were at work",
  spend: "its ceiling of spend was reached",
  held: "schedules were held",
  due: "about to start",
  queued: "waits for an earlier session to end",
  retrying: "starting failed and is tried again",
};

export const reasonText = (reason: string) => sentence(REASONS[reason] ?? words(reason));

/** What started a run: as it stands in a row, and in full. */
export const TRIGGER_WORDS: Record<Trigger, [short: string, full: string]> = {
  schedule: ["schedule", "On schedule"],
  manual: ["by hand", "By hand"],
  at: ["planned", "At a planned time"],
  hook: ["hook", "By a hook"],
  backfill: ["backfill", "Made up for later"],
  rerun: ["again", "Run again"],
};

/** The limit of the policy that ended a session. */
export const INTERRUPTED: Record<string, string> = {
  max_session_seconds: "Interrupted: it took longer than its policy allows",
  max_idle_waiting_seconds: "Interrupted: it waited longer than its policy allows",
};

/** Why no session followed one that died. */
const NOT_FOLLOWED: Record<string, string> = {
  attempts: "as many were tried as the policy allows",
  changes: "it may have changed something",
  overtaken: "the next time came first",
  resumed: "it works again",
  policy: "the policy asks for none any more",
};

export function followedText(followed: Followed): string {
  if (followed.run_id) return "Another session followed";
  if (followed.at) return `Another session follows at ${moment(followed.at)}`;
  const reason = followed.reason ?? "";
  return `No other session follows: ${NOT_FOLLOWED[reason] ?? REASONS[reason] ?? words(reason)}`;
}

/** What there is to say about a run beside its state. */
export function note(run: ListedRun): string {
  const attempt = run.attempt > 1 ? `Attempt ${run.attempt}` : "";
  const followed = run.followed ? followedText(run.followed) : "";
  return [attempt, fate(run), followed].filter(Boolean).join(" · ");
}

function fate(run: ListedRun): string {
  if (run.error) return run.error.message ?? sentence(words(run.error.type));
  if (run.reason) return reasonText(run.reason);
  const session = run.session;
  if (!session) return "";
  if (run.state === "waiting") {
    const count = session.waiting_on.length;
    return session.waits_for_human ? `Waits until ${count === 1 ? "a call is" : `${count} calls are`} allowed or denied` : "Waits for results of calls";
  }
  if (session.interrupted_by && run.state === "failed") return INTERRUPTED[session.interrupted_by] ?? sentence(words(session.interrupted_by));
  if (session.error && (run.state === "failed" || run.state === "retrying")) return session.error.message ?? sentence(words(session.error.type));
  if (run.state === "done" && session.stop_reason && session.stop_reason !== "end_turn") return sentence(words(session.stop_reason));
  return "";
}

export const runKey = (run: ListedRun) => run.run_id ?? `${run.deployment_id} ${run.start_id ?? ""} ${run.at}`;

export const isOver = (run: ListedRun) => ["done", "failed", "deleted", "skipped", "missed"].includes(run.state);

/** Whether it can be run again: it has failed, and has not been run again yet. */
export const canRerun = (run: ListedRun) => run.run_id !== null && run.state === "failed" && run.rerun_by === null;

/** Whether there are other runs for the same work. */
export const hasOthers = (run: ListedRun) => !!(run.rerun_of || run.rerun_by || run.retry_of || run.followed);

/** Starts a run that failed once more, and says what came of it. */
export async function rerun(id: string, name: string): Promise<void> {
  started(await start<StartedRun>({ method: "POST", path: `/rota/v1/runs/${encodeURIComponent(id)}/rerun` }), `${name} runs again`);
}

/** Says that a run has started, or why it did not. */
export function started(run: StartedRun, text: string) {
  if (run.session_id) toasts.say(text, { href: `/sessions/${run.session_id}`, text: "Open" });
  else toasts.fail(new Error(run.error?.message ?? "It did not start."));
}

/** To what a start has led. */
export function toSession(run: StartedRun) {
  if (run.session_id) route.go(`/sessions/${run.session_id}`);
  else toasts.fail(new Error(run.error?.message ?? "It did not start."));
}

/** How long a run has taken, or takes so far, in seconds. */
export function seconds(run: ListedRun, now: number): number | null {
  if (!run.session) return null;
  if (run.state === "working") return Math.max(0, (now - new Date(run.at).getTime()) / 1000);
  return run.session.duration_seconds;
}
