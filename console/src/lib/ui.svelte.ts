// What lies above the screens: messages, and the choice of colours.

export interface Toast {
  id: number;
  text: string;
  isError: boolean;
  link?: { href: string; text: string };
}

class Toasts {
  shown = $state<Toast[]>([]);
  private next = 0;

  say(text: string, link?: Toast["link"]) {
    this.add({ text, isError: false, ...(link ? { link } : {}) });
  }

  fail(error: unknown) {
    this.add({ text: error instanceof Error ? error.message : String(error), isError: true });
  }

  private add(toast: Omit<Toast, "id">) {
    const id = this.next++;
    this.shown = [...this.shown.slice(-3), { id, ...toast }];
    setTimeout(() => this.close(id), toast.isError ? 12_000 : 6_000);
  }

  close(id: number) {
    this.shown = this.shown.filter((toast) => toast.id !== id);
  }
}

export const toasts = new Toasts();

/** Does something that may fail, and says so if it does. Whether it went well. */
export async function attempt(act: () => Promise<unknown>): Promise<boolean> {
  try {
    await act();
    return true;
  } catch (error) {
    toasts.fail(error);
    return false;
  }
}

const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

class Look {
  theme = $state<Theme>("system");

  constructor() {
    const kept = localStorage.getItem("rota.theme") as Theme | null;
    if (kept && THEMES.includes(kept)) this.theme = kept;
    this.show();
  }

  next() {
    this.theme = THEMES[(THEMES.indexOf(this.theme) + 1) % THEMES.length]!;
    localStorage.setItem("rota.theme", this.theme);
    this.show();
  }

  private show() {
    document.documentElement.dataset.theme = this.theme;
  }
}

export const look = new Look();
