// The address of the page: which screen, of what, and its filters.

const BASE = "/console";

class Route {
  path = $state("");
  query = $state<Record<string, string>>({});

  constructor() {
    this.read();
    addEventListener("popstate", () => this.read());
  }

  private read() {
    this.path = location.pathname.slice(BASE.length).replace(/\/+$/, "") || "/";
    this.query = Object.fromEntries(new URLSearchParams(location.search));
  }

  get segments(): string[] {
    return this.path.split("/").filter(Boolean).map(safelyDecoded);
  }

  go(path: string, replace = false) {
    const url = BASE + path;
    if (url === location.pathname + location.search) return;
    history[replace ? "replaceState" : "pushState"](null, "", url);
    const before = this.path;
    this.read();
    if (this.path !== before) {
      scrollTo(0, 0);
      document.getElementById("main")?.focus({ preventScroll: true });
    }
  }

  /** Changes filters of the current screen; an empty text takes one away. */
  filter(changes: Record<string, string | null>, replace = true) {
    const next = { ...this.query, ...changes };
    const kept = Object.entries(next).filter(([, value]) => value !== null && value !== "");
    const text = new URLSearchParams(kept as [string, string][]).toString();
    this.go(this.path + (text ? `?${text}` : ""), replace);
  }
}

function safelyDecoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export const route = new Route();

/** The address of a screen, for links that are opened in a tab of their own too. */
export const href = (path: string) => BASE + path;

/** Follows links of the console without loading the page anew. */
export function onLink(event: MouseEvent) {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element).closest?.("a");
  const url = link && new URL(link.href, location.href);
  if (!url || link.target || link.download || url.origin !== location.origin) return;
  if (url.pathname !== BASE && !url.pathname.startsWith(`${BASE}/`)) return;
  event.preventDefault();
  route.go(url.pathname.slice(BASE.length) + url.search || "/");
}
