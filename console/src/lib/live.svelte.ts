// Something that is read again and again while it is shown.

import { untrack } from "svelte";
import { ApiError } from "./api";
import { connection } from "./connection.svelte";

/** How often what has no stream of its own is read again, and how often the server is tried while it is away. */
export const EVERY = 3000;
const AWAY = 1500;

export class Live<T> {
  value = $state.raw<T | undefined>();
  error = $state<ApiError | null>(null);
  private timer: ReturnType<typeof setTimeout> | undefined;
  private turn = 0;

  /** Must be made in a component: it reads while that is shown. */
  constructor(
    private read: (signal: AbortSignal) => Promise<T>,
    every = EVERY,
    /** What the value is of: when that changes it is read anew, and shown as loading until then. */
    of: () => unknown = () => null,
  ) {
    let shown: unknown;
    $effect(() => {
      const now = of();
      void connection.workspace;
      if (now !== shown) {
        untrack(() => (this.value = undefined));
        shown = now;
      }
      const abort = new AbortController();
      const round = async () => {
        clearTimeout(this.timer);
        if (document.visibilityState === "visible" || this.value === undefined) await this.load(abort.signal);
        if (!abort.signal.aborted) this.timer = setTimeout(round, this.error?.status === 0 ? AWAY : every);
      };
      this.again = round;
      // Nothing that is read on the way starts another round.
      untrack(() => void round());
      document.addEventListener("visibilitychange", round, { signal: abort.signal });
      return () => {
        abort.abort();
        clearTimeout(this.timer);
      };
    });
  }

  /** Reads now. */
  again: () => Promise<void> = async () => {};

  private async load(signal: AbortSignal) {
    const turn = ++this.turn;
    try {
      const value = await this.read(signal);
      if (signal.aborted || turn !== this.turn) return;
      this.value = value;
      this.error = null;
    } catch (error) {
      if (signal.aborted || turn !== this.turn) return;
      this.error = error instanceof ApiError ? error : new ApiError(-1, "error", String(error), null);
    }
  }
}
