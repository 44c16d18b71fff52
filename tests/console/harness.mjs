// A server and a browser for the tests of the console. Nothing here waits for a time: it waits for what it names.

import assert from "node:assert/strict";
import { spawn, execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import { chromium } from "playwright-core";

export const PATIENCE = Number(process.env.ROTA_PATIENCE_MS ?? 120_000);
const BIN = process.env.ROTA_BIN;
/** A folder with built pages that stand for those of the binary. */
const PAGES = process.env.ROTA_PAGES;
const run = promisify(execFile);

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Asks until `condition` gives something, or patience has ended. */
export async function until(what, condition) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await condition().catch(() => undefined);
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export class Rota {
  /** A server with a store of its own, and with `config` in its file beside what all have. */
  static async start(config = "") {
    const rota = new Rota();
    rota.data = await mkdtemp(join(tmpdir(), "rota-console-"));
    rota.port = await freePort();
    rota.url = `http://127.0.0.1:${rota.port}`;
    await writeFile(join(rota.data, "rota.toml"), `[webhooks]\nallow_private = true\n${config}`);
    await rota.serve();
    rota.key = (await readFile(join(rota.data, "data", "first_key"), "utf8")).trim();
    return rota;
  }

  async serve() {
    const args = ["serve", "--config", join(this.data, "rota.toml"), "--data", join(this.data, "data"), "--listen", `127.0.0.1:${this.port}`];
    this.log = "";
    this.process = spawn(BIN, args, { stdio: ["ignore", "ignore", "pipe"] });
    this.process.stderr.on("data", (text) => (this.log += text));
    await until("the server is ready", async () => {
      if (this.process.exitCode !== null) throw new Error(this.log);
      return (await fetch(`${this.url}/readyz`)).ok;
    }).catch((error) => {
      throw new Error(`${error.message}\n${this.log}`);
    });
  }

  /** The address that signs in once. It is written after the server answers, anew by each start. */
  async address(before) {
    const file = join(this.data, "data", "console_address");
    return await until("the address of the console", async () => {
      const text = (await readFile(file, "utf8")).trim();
      return text !== before && text.includes(`:${this.port}/`) ? text : undefined;
    });
  }

  async kill() {
    this.process.kill("SIGKILL");
    if (this.process.exitCode === null && this.process.signalCode === null) await once(this.process, "exit");
  }

  async stop() {
    await this.kill();
    await rm(this.data, { recursive: true, force: true, maxRetries: 5 });
  }

  async cli(...args) {
    return (await run(BIN, [...args, "--data", join(this.data, "data"), "--config", join(this.data, "rota.toml")])).stdout;
  }

  /** A key that `rota keys create` makes. */
  async newKey(...scope) {
    const { stdout } = await run(BIN, ["keys", "create", "--data", join(this.data, "data"), ...scope, "--json"]);
    return JSON.parse(stdout);
  }

  async revoke(id) {
    await run(BIN, ["keys", "revoke", "--data", join(this.data, "data"), id]);
  }

  async call(method, path, body) {
    const headers = { "x-api-key": this.key, "anthropic-beta": "managed-agents-2026-04-01" };
    if (body !== undefined && !(body instanceof FormData)) headers["content-type"] = "application/json";
    const response = await fetch(this.url + path, { method, headers, body: body instanceof FormData || body === undefined ? body : JSON.stringify(body) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return JSON.parse(text);
  }

  get(path) {
    return this.call("GET", path);
  }

  post(path, body) {
    return this.call("POST", path, body);
  }

  agent(fields = {}) {
    return this.post("/v1/agents", { name: "reporter", model: "playbook", tools: [{ type: "agent_toolset_20260401" }], ...fields });
  }

  environment(name = "python") {
    return this.post("/v1/environments", { name });
  }

  deployment(agent, environment, text, fields = {}) {
    return this.post("/v1/deployments", {
      name: "Disk report",
      agent: agent.id,
      environment_id: environment.id,
      initial_events: [{ type: "user.message", content: [{ type: "text", text }] }],
      ...fields,
    });
  }

  async session(id, status) {
    return await until(`session ${id} is ${status}`, async () => {
      const session = await this.get(`/v1/sessions/${id}`);
      return session.status === status ? session : undefined;
    });
  }
}

/** Answers as the server does, headers and all, with the file of `PAGES`. */
async function instead(route) {
  try {
    const response = await route.fetch({ maxRedirects: 0 });
    const file = /\/console\/(console\.js|console\.css|icon\.svg)$/.exec(new URL(route.request().url()).pathname)?.[1] ?? "index.html";
    const { "content-encoding": _, "content-length": __, etag: ___, ...headers } = response.headers();
    await route.fulfill({ status: response.status(), headers, body: gunzipSync(await readFile(join(PAGES, `${file}.gz`))) });
  } catch {
    await route.abort().catch(() => {});
  }
}

/** A browser with pages that say what went wrong in them. */
export class Browser {
  static async start() {
    const browser = new Browser();
    browser.chromium = await chromium.launch({
      executablePath: process.env.ROTA_BROWSER,
      args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
    });
    return browser;
  }

  async page(options = {}) {
    const context = await this.chromium.newContext({ viewport: { width: 1360, height: 860 }, timezoneId: "Europe/Berlin", acceptDownloads: true, ...options });
    context.setDefaultTimeout(PATIENCE);
    if (PAGES) await context.route(/\/console(?!\/sign-in)(\/|\?|$)/, instead);
    const page = await context.newPage();
    page.faults = [];
    page.on("pageerror", (error) => page.faults.push(String(error)));
    page.on("console", (message) => {
      // That a request failed is no fault of the page.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) page.faults.push(message.text());
    });
    return page;
  }

  async stop() {
    await this.chromium.close();
  }
}

/** A page that is signed in with the first key. */
export async function signedIn(browser, rota, path = "/console", options = {}) {
  const page = await browser.page(options);
  await page.goto(rota.url + path);
  await signIn(page, rota.key);
  return page;
}

/** What others may write that has no business to be more than text. */
export const NASTY = `"><img src=x onerror="window.taken=1"><script>window.taken=1</script>`;

/** A block of a playbook, in the fences that it needs. */
export const block = (label, text) => `\`\`\`${label}\n${text}\n\`\`\``;

export const ASKS = [{ type: "agent_toolset_20260401", configs: [{ name: "bash", enabled: true, permission_policy: { type: "always_ask" } }] }];

export const heading = (page, name) => page.getByRole("heading", { level: 1, name });

/** That nothing went wrong in a page, and nothing that others wrote was run. */
export async function sound(page) {
  assert.deepEqual(page.faults, [], "the page has no faults");
  assert.equal(await page.evaluate(() => window.taken), undefined, "nothing was run");
  assert.equal(await page.locator("main img, main script, main iframe").count(), 0, "nothing is markup");
}

const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What of a page is against the rules of accessibility, or wider than the display. */
export async function heldAgainst(page, name) {
  // The page's own policy lets no other script in; the inspector's does.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const told = violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) told.push(`${wide} px too wide`);
  return told.map((one) => `${name}: ${one}`);
}

/** The frames of a stream with these events, a tenth of a second apart. */
export function framesOf(log) {
  const at = (n) => new Date(Date.UTC(2026, 10, 30) + n * 100).toISOString();
  return log.map((event, n) => `id: ${n + 1}\nevent: ${event.type}\ndata: ${JSON.stringify({ id: `sevt_${n}`, processed_at: at(n), ...event })}\n\n`).join("");
}

/** Answers the stream of a session with a log, once; what is asked for after it is quiet. */
export async function playing(page, session, log) {
  const body = framesOf(log);
  await page.route(`**/v1/sessions/${session}/events/stream**`, (route) =>
    route.fulfill({ contentType: "text/event-stream", body: route.request().headers()["last-event-id"] === "0" ? body : ": keepalive\n\n" }),
  );
}

/** The looks in which every screen is held to the rules. */
export const LOOKS = {
  light: { colorScheme: "light" },
  dark: { colorScheme: "dark" },
  narrow: { colorScheme: "light", viewport: { width: 390, height: 844 }, hasTouch: true },
};

export async function signIn(page, key) {
  await page.getByLabel("API key").fill(key);
  await page.getByRole("button", { name: "Sign in" }).click();
  // On a narrow display the menu is closed.
  await page.locator('nav[aria-label="Screens"]').waitFor({ state: "attached" });
}
