// How fast the console is on this machine: from the browser's own entries, the middle of several loads. Nothing is decided by it.

import { readdir, stat } from "node:fs/promises";
import { Browser, Rota, playing, signedIn, until } from "./harness.mjs";

const LOADS = 9;
const RUNS = 300;

const middle = (values) => [...values].sort((one, other) => one - other)[values.length >> 1];

/** Loads an address again and again. The first paint, and when `selector` was there `least` times; milliseconds from the start of the load. */
async function loads(page, url, selector, least) {
  const found = [];
  for (let at = 0; at < LOADS; at++) {
    await page.goto("about:blank");
    await page.goto(`${url}${url.includes("?") ? "&" : "?"}watch=${encodeURIComponent(selector)}&least=${least}`);
    found.push(
      await until("it is whole", () =>
        page.evaluate(() => {
          const paint = performance.getEntriesByName("first-contentful-paint")[0]?.startTime;
          return paint && window.wholeAt ? { paint, whole: window.wholeAt } : undefined;
        }),
      ),
    );
  }
  return { paint: middle(found.map((one) => one.paint)), whole: middle(found.map((one) => one.whole)) };
}

/** Runs in the page before anything of it: notes when what the address asks for is there. */
function watch() {
  const wanted = new URLSearchParams(location.search);
  const [selector, least] = [wanted.get("watch"), Number(wanted.get("least"))];
  if (!selector) return;
  history.replaceState(null, "", location.pathname);
  const look = () => {
    if (!window.wholeAt && document.querySelectorAll(selector).length >= least) requestAnimationFrame(() => (window.wholeAt ??= performance.now()));
  };
  new MutationObserver(look).observe(document, { childList: true, subtree: true });
}

const rota = await Rota.start();
const browser = await Browser.start();
try {
  const [agent, environment] = [await rota.agent(), await rota.environment("old")];
  const deployment = await rota.deployment(agent, environment, "hello", { name: "Old sync" });
  const session = await rota.post("/v1/sessions", { agent: agent.id, environment_id: environment.id });
  await rota.post(`/v1/environments/${environment.id}/archive`);
  for (let at = 0; at < RUNS; at++) await rota.post(`/v1/deployments/${deployment.id}/run`);
  const page = await signedIn(browser, rota);
  await page.addInitScript(watch);
  const long = [{ type: "session.status_running" }];
  for (let n = 0; n < 5000; n++) {
    long.push({ type: "agent.tool_use", id: `sevt_call${n}`, name: "bash", input: { command: `echo ${n}` }, evaluated_permission: "allow" });
    long.push({ type: "agent.tool_result", tool_use_id: `sevt_call${n}`, content: [{ type: "text", text: `${n}` }] });
  }
  await playing(page, session.id, long);
  const screens = {
    "attention": ["/console", "main h1", 1],
    [`runs, of ${RUNS}`]: ["/console/runs", "a.run", 15],
    "deployments": ["/console/deployments", 'main a[href*="/deployments/depl_"]', 1],
    "a deployment": [`/console/deployments/${deployment.id}`, "a.run", 10],
    [`a session of ${long.length} events`]: [`/console/sessions/${session.id}`, ".row.call", 5],
  };
  console.log(`${"screen".padEnd(28)} first paint   whole (ms, the middle of ${LOADS} loads)`);
  for (const [name, [path, selector, least]] of Object.entries(screens)) {
    const { paint, whole } = await loads(page, rota.url + path, selector, least);
    console.log(`${name.padEnd(28)} ${paint.toFixed(0).padStart(11)}   ${whole.toFixed(0).padStart(5)}`);
  }
  const dist = new URL("../../console/dist/", import.meta.url);
  const sizes = await Promise.all((await readdir(dist)).filter((name) => name.endsWith(".gz")).map(async (name) => (await stat(new URL(name, dist))).size));
  console.log(`\nconsole/dist, compressed: ${(sizes.reduce((sum, size) => sum + size, 0) / 1024).toFixed(0)} KB`);
} finally {
  await browser.stop();
  await rota.stop();
}
