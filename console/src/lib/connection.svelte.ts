// Whether the server answers, who is signed in, and in which workspace an administrator looks around.

import type { Who } from "./api";

class Connection {
  /** Since when the server has not answered. */
  lostAt = $state<number | null>(null);
  who = $state<Who | null>(null);
  /** Why nobody is signed in; `undefined` until that is known, null when somebody is. */
  signedOutBecause = $state<string | null | undefined>(undefined);
  /** The workspace that an administrator has picked. */
  workspace = $state<string | null>(null);
  /** Counts up each time that the server is back. */
  comebacks = $state(0);

  lost() {
    this.lostAt ??= Date.now();
  }

  found() {
    if (this.lostAt !== null) {
      this.lostAt = null;
      this.comebacks += 1;
    }
  }

  signedIn(who: Who) {
    this.who = who;
    this.signedOutBecause = null;
  }

  signedOut(because: string) {
    this.who = null;
    this.signedOutBecause = because;
  }
}

export const connection = new Connection();
