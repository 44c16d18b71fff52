// The time line of a session, and the log of what it reached in the network.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, NASTY, Rota, block, heldAgainst, playing, signedIn, signIn, sound, until } from "./harness.mjs";

let browser;
let rota;
before(async () => ([browser, rota] = await Promise.all([Browser.start(), Rota.start()])));
after(async () => {
  await browser?.stop();
  await rota?.stop();
});

async function newSession(fields = {}) {
  const agent = await rota.agent({ name: "worker", ...fields });
  return await rota.post("/v1/sessions", { agent: agent.id, environment_id: (await rota.environment(agent.id.slice(-12))).id });
}

const OWN = "sthr_own";

/** Two turns with an hour between them, a thread beside the agent's own, a call that fails and a request that has not ended. */
function twoTurns() {
  const now = Date.now();
  const at = (seconds, event) => ({ ...event, processed_at: new Date(now - seconds * 1000).toISOString() });
  return [
    at(3620, { type: "session.status_running" }),
    at(3620, { type: "session.thread_status_running", session_thread_id: OWN, agent_name: NASTY }),
    at(3620, { type: "user.message", content: [{ type: "text", text: "Begin." }] }),
    at(3620, { type: "span.model_request_start", id: "sevt_ask1" }),
    at(3616, { type: "agent.tool_use", id: "sevt_call1", name: "bash", input: { command: "true" }, evaluated_permission: "allow" }),
    at(3616, { type: "span.model_request_end", model_request_start_id: "sevt_ask1", is_error: false, model_usage: { input_tokens: 5, output_tokens: 5, cache_read_input_tokens: 0 } }),
    at(3607, { type: "agent.tool_result", tool_use_id: "sevt_call1", is_error: true, content: [{ type: "text", text: "no" }] }),
    at(3606, { type: "session.thread_created", session_thread_id: "sthr_other", agent_name: `helper ${NASTY}` }),
    at(3605, { type: "agent.mcp_tool_use", id: "sevt_call2", session_thread_id: "sthr_other", mcp_server_name: "files", name: NASTY, input: {}, evaluated_permission: "allow" }),
    at(3602, { type: "agent.mcp_tool_result", mcp_tool_use_id: "sevt_call2", content: [{ type: "text", text: "yes" }] }),
    at(3600, { type: "session.status_idle", stop_reason: { type: "end_turn" } }),
    at(20, { type: "session.status_running" }),
    at(19, { type: "span.model_request_start", id: "sevt_ask2" }),
    at(10, { type: "agent.message", id: "sevt_said", content: [{ type: "text", text: "The end." }] }),
  ];
}

describe("the time line", () => {
  test("has a lane for each thread, leaves pauses out, and its bars lead to their events", async () => {
    const session = await newSession();
    const page = await signedIn(browser, rota);
    await playing(page, session.id, twoTurns());
    await page.goto(`${rota.url}/console/sessions/${session.id}`);
    const line = page.getByRole("region", { name: "Time line" });
    await line.getByText("1 pause left out").waitFor();
    const lanes = line.getByRole("toolbar");
    assert.equal(await lanes.count(), 2);
    assert.deepEqual(await lanes.nth(0).getByRole("button").evaluateAll((bars) => bars.map((bar) => bar.getAttribute("aria-label"))), [
      "Request to the model, 4.0 s",
      "Call of bash, 9.0 s, failed",
      "Request to the model, not ended",
    ]);
    await lanes.nth(1).getByRole("button", { name: /^Call of files · / }).click();
    await page.waitForURL(/event=sevt_call2/);
    await page.locator(".row.call.marked").waitFor();
    // A request has no row of its own: it leads to what came of it.
    await lanes.nth(0).getByRole("button", { name: /not ended/ }).click();
    await page.waitForURL(/event=sevt_ask2/);
    await page.locator(".row.agent.marked").getByText("The end.").waitFor();
    // From bar to bar by the keyboard.
    await lanes.nth(0).getByRole("button").first().focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("Enter");
    await page.waitForURL(/event=sevt_call1/);
    await page.getByRole("button", { name: "Time line" }).click();
    await line.waitFor({ state: "detached" });
    await page.reload();
    await page.getByText("The end.").waitFor();
    assert.equal(await line.count(), 0, "the address keeps it away");
    await sound(page);
  });

  test("grows with a real session, a bar for each of its calls", async () => {
    const session = await newSession();
    const page = await signedIn(browser, rota, `/console/sessions/${session.id}`);
    await page.getByText("Nothing has been said yet").waitFor();
    await page.getByLabel("Message").fill(`${block("bash", "sleep 1; echo one")}\n${block("bash", "sleep 1; echo two")}`);
    await page.getByRole("button", { name: "Send" }).click();
    const line = page.getByRole("region", { name: "Time line" });
    await rota.session(session.id, "idle");
    await until("both calls are bars", async () => (await line.locator(".bar.tool").count()) === 2);
    await until("none is open", async () => (await line.locator(".bar.open").count()) === 0);
    await line.getByText("worker", { exact: true }).waitFor();
    await sound(page);
  });
});

describe("what a session reached", () => {
  const connection = (n, fields) => ({
    id: `conn_${n}`, type: "egress_connection", session_id: "sesn_1", host: "api.example.com", port: 443, outcome: "allowed", reason: null,
    bytes_in: 2048, bytes_out: 100, credentials: [], started_at: "2026-11-30T07:00:00Z", duration_ms: 42, ...fields,
  });

  test("is filtered by its host and outcome, in the address, beyond one page of the server", async () => {
    const session = await newSession();
    const page = await signedIn(browser, rota);
    const pages = {
      first: { data: [connection(1), connection(2, { host: "pypi.org" })], next_page: "second" },
      second: { data: [connection(3, { host: NASTY, outcome: "refused", reason: "host_not_allowed" })], next_page: null },
    };
    await page.route(`**/rota/v1/sessions/${session.id}/egress?*`, (route) => {
      const query = new URL(route.request().url()).searchParams;
      const { data, next_page } = pages[query.get("page") ?? "first"];
      const outcome = query.get("outcome");
      return route.fulfill({ json: { data: data.filter((one) => !outcome || one.outcome === outcome), next_page } });
    });
    await page.goto(`${rota.url}/console/sessions/${session.id}?tab=network`);
    const table = page.getByRole("region", { name: "Connections" });
    await table.getByText("host not allowed").waitFor();
    const count = () => table.locator("tbody tr").count();
    assert.equal(await count(), 3);
    await page.getByLabel("Host").fill("PyPI");
    await until("one is left", async () => (await count()) === 1);
    await page.reload();
    await table.getByText("pypi.org:443").waitFor();
    assert.equal(await count(), 1);
    await page.getByLabel("Outcome").selectOption("refused");
    await page.getByText("No connection matches").waitFor();
    await page.getByRole("button", { name: "Clear the filters" }).click();
    await until("all are there", async () => (await count()) === 3);
    await sound(page);
  });
});

test("a session with a time line is accessible in every look", async () => {
  const session = await newSession();
  const wrong = [];
  for (const [look, options] of Object.entries(LOOKS)) {
    const page = await browser.page(options);
    await playing(page, session.id, twoTurns());
    await page.goto(`${rota.url}/console/sessions/${session.id}`);
    await signIn(page, rota.key);
    await page.getByRole("region", { name: "Time line" }).getByText("left out").waitFor();
    wrong.push(...(await heldAgainst(page, `session-${look}`)));
    await sound(page);
    await page.context().close();
  }
  assert.deepEqual(wrong, []);
});
