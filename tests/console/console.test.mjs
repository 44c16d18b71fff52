// Every screen and action of the console, in a browser against a real server.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ASKS, Browser, LOOKS, NASTY, Rota, block, heading, heldAgainst, playing, signedIn, signIn, until } from "./harness.mjs";
import { seed } from "./seed.mjs";

const PICTURES = process.env.ROTA_PICTURES;

let browser;
before(async () => (browser = await Browser.start()));
after(async () => await browser?.stop());

function serverFor(suite) {
  before(async () => (suite.rota = await Rota.start()));
  after(async () => await suite.rota?.stop());
}

function sound(page) {
  assert.deepEqual(page.faults, [], "the page has no faults");
}

const rows = (page) => page.locator("a.run");

describe("signing in", () => {
  const suite = {};
  serverFor(suite);

  test("the address that the server printed signs in once, and leaves nothing of a key in the browser", async () => {
    const { rota } = suite;
    const address = await rota.address();
    const page = await browser.page();
    await page.goto(address);
    await heading(page, "Attention").waitFor();
    assert.equal(new URL(page.url()).hash, "");
    const [cookie, ...others] = await page.context().cookies();
    assert.deepEqual([others.length, cookie.httpOnly, cookie.sameSite], [0, true, "Strict"]);
    const kept = await page.evaluate(() => [document.cookie, JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage })].join());
    for (const text of [kept, cookie.value]) assert.ok(!text.includes("sk-rota") && !text.includes(rota.key.slice(10)), text);
    await page.reload();
    await heading(page, "Attention").waitFor();
    sound(page);

    const other = await browser.page();
    await other.goto(address);
    await other.getByText("this address has been used").waitFor();
    sound(other);
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByText("You have signed out.").waitFor();
    assert.deepEqual(await page.context().cookies(), []);
    // The key that the address made has ended with it.
    await page.context().addCookies([cookie]);
    await page.reload();
    await page.getByText("has ended: sign in again").waitFor();
  });

  test("a key signs in, and whoever signed in with it is out when it ends", async () => {
    const { rota } = suite;
    const { id, key } = await rota.newKey("--name", "short");
    const page = await browser.page();
    await page.goto(`${rota.url}/console/runs?state=failed`);
    await signInWrongly(page);
    await signIn(page, key);
    await heading(page, "Runs").waitFor();
    assert.equal(await page.getByRole("combobox", { name: /^State/ }).inputValue(), "failed", "the address is kept");
    await rota.revoke(id);
    await page.getByText("the key with which this browser signed in has ended").waitFor();
    sound(page);
  });

  async function signInWrongly(page) {
    await page.getByLabel("API key").fill("sk-rota-wrong");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("invalid x-api-key").first().waitFor();
  }

  test("a browser that asks for / is led to the console, and a client is not", async () => {
    const { rota } = suite;
    const asked = (accept) => fetch(`${rota.url}/`, { redirect: "manual", headers: { accept } });
    const led = await asked("text/html,application/xhtml+xml");
    assert.deepEqual([led.status, led.headers.get("location")], [303, "/console"]);
    assert.equal((await asked("application/json")).status, 401);
  });

  test("no page of another origin acts, reads or frames", async () => {
    const { rota } = suite;
    const environment = await rota.environment("kept");
    const page = await signedIn(browser, rota);
    // Another port of the same host is the same site: its requests have the cookie.
    const evil = createServer((request, response) => response.setHeader("content-type", "text/html").end("<title>evil</title>")).listen(0, "127.0.0.1");
    await until("the other page is served", async () => evil.listening);
    const stranger = await page.context().newPage();
    await stranger.goto(`http://127.0.0.1:${evil.address().port}/`);
    const tried = await stranger.evaluate(
      async ([url, id]) => {
        const attempt = async (path, init) => {
          try {
            const response = await fetch(url + path, { credentials: "include", ...init });
            return response.status || response.type;
          } catch {
            return "refused";
          }
        };
        const said = [
          await attempt(`/v1/environments/${id}`, { headers: { "x-rota-console": "1", "anthropic-beta": "managed-agents-2026-04-01" } }),
          await attempt(`/v1/environments/${id}`, { method: "DELETE" }),
          await attempt(`/console/sign-in`, { method: "DELETE" }),
          await attempt(`/v1/environments/${id}/archive`, { method: "POST", mode: "no-cors" }),
          await attempt(`/rota/v1/runs`),
        ];
        const frame = document.createElement("iframe");
        frame.src = `${url}/console`;
        await new Promise((resolve) => {
          frame.onload = resolve;
          document.body.append(frame);
        });
        const form = document.createElement("form");
        form.method = "post";
        form.action = `${url}/v1/environments/${id}/archive`;
        form.target = "to";
        const target = document.createElement("iframe");
        target.name = "to";
        document.body.append(target, form);
        await new Promise((resolve) => {
          target.onload = resolve;
          form.submit();
        });
        return said;
      },
      [rota.url, environment.id],
    );
    assert.ok(!tried.some((one) => typeof one === "number" && one < 400), `no answer is read: ${tried}`);
    assert.ok(!stranger.frames().some((frame) => frame.url().startsWith(`${rota.url}/console`)), "the console is not framed");
    const there = await rota.get(`/v1/environments/${environment.id}`);
    assert.equal(there.archived_at ?? null, null, "nothing was changed");
    await page.reload();
    await heading(page, "Attention").waitFor();
    // Nor does a page that is opened by a link, where no script can set a header.
    const direct = await page.context().newPage();
    assert.equal((await direct.goto(`${rota.url}/rota/v1/runs`)).status(), 403);
    evil.close();
  });

  test("a server that is killed comes back to the same page, signed in", async () => {
    const { rota } = suite;
    const page = await signedIn(browser, rota, "/console/deployments");
    await page.getByText("No deployment yet").waitFor();
    const banner = page.getByText("The server does not answer");
    await rota.kill();
    await banner.first().waitFor();
    await rota.serve();
    await banner.first().waitFor({ state: "detached" });
    await rota.deployment(await rota.agent(), await rota.environment("back"), "hello", { name: "Made afterwards" });
    await page.getByText("Made afterwards").waitFor();
    sound(page);
  });
});

describe("from nothing to a session", () => {
  const suite = {};
  serverFor(suite);

  test("an agent, an environment and a deployment are made in forms, and run", async () => {
    const { rota } = suite;
    const page = await signedIn(browser, rota);
    await page.getByText("Nothing runs here yet").waitFor();
    await page.getByRole("link", { name: "Make an agent" }).click();
    await page.getByRole("textbox", { name: /^Name/ }).fill("watcher");
    await page.getByRole("textbox", { name: /^System text/ }).fill("You watch the disk.");
    await page.getByRole("combobox", { name: /^write/ }).selectOption("off");
    const json = page.getByLabel("As JSON");
    assert.match(await json.inputValue(), /"name": "write",\s+"enabled": false/);
    // What is written in the JSON is in the form.
    await json.fill((await json.inputValue()).replace("You watch the disk.", "You watch the disk, daily."));
    assert.equal(await page.getByRole("textbox", { name: /^System text/ }).inputValue(), "You watch the disk, daily.");
    await json.fill("{");
    await page.getByRole("button", { name: "Make it" }).click();
    await page.getByText("The JSON cannot be read").waitFor();
    await json.fill(JSON.stringify({ name: "watcher", model: "playbook", system: "You watch.", tools: [{ type: "agent_toolset_20260401" }] }));
    await page.getByRole("button", { name: "Make it" }).click();
    await heading(page, "watcher").waitFor();

    await page.goto(`${rota.url}/console/environments/new`);
    await page.getByRole("textbox", { name: /^Name/ }).fill("base");
    await page.getByRole("combobox", { name: /^Network/ }).selectOption("limited");
    await page.getByRole("textbox", { name: /^Hosts/ }).fill("example.com");
    await page.getByRole("button", { name: "Make it" }).click();
    await heading(page, "base").waitFor();

    await page.goto(`${rota.url}/console/deployments`);
    await page.getByRole("link", { name: "Make a deployment" }).click();
    await page.getByRole("textbox", { name: /^Name/ }).fill("Disk watch");
    await page.getByRole("textbox", { name: /^First message/ }).fill(block("bash", "echo the disk is fine"));
    await page.getByLabel("On a schedule").check();
    await page.getByRole("textbox", { name: /^Expression/ }).fill("61 * * * *");
    await page.locator(".preview .bad").waitFor();
    await page.getByRole("textbox", { name: /^Expression/ }).fill("30 2 * * *");
    await page.getByRole("combobox", { name: /^Time zone/ }).fill("America/New_York");
    await page.getByText("Every day at 02:30").waitFor();
    await page.getByRole("button", { name: "Make it" }).click();
    await heading(page, "Disk watch").waitFor();
    await page.getByText("It has not run yet").waitFor();
    await page.getByLabel("Next times").getByText("New York").first().waitFor();

    await page.getByRole("button", { name: "Run now" }).click();
    await page.getByText("Turn 1").waitFor();
    const call = page.getByRole("button", { name: /bash echo the disk is fine/ });
    await call.waitFor();
    await page.getByText("· done").waitFor();
    await call.click();
    await page.locator(".unfolded").getByText("the disk is fine", { exact: true }).waitFor();
    sound(page);
  });

  test("a message is answered, an event has a link and its JSON, and the log is downloaded", async () => {
    const { rota } = suite;
    const page = await signedIn(browser, rota, "/console/sessions");
    await page.getByRole("table").getByRole("link").first().click();
    await page.getByLabel("Message").fill(`Again.\n${block("bash", "echo second > /mnt/session/outputs/left.txt")}`);
    await page.getByRole("button", { name: "Send" }).click();
    await page.getByText("Turn 2").waitFor();
    await page.getByText("· done").nth(1).waitFor();
    const id = new URL(page.url()).pathname.split("/").at(-1);
    await page.locator(".row.call").last().getByRole("button", { name: "Raw event" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText('"type": "agent.tool_result"').waitFor();
    await page.keyboard.press("Escape");
    await page.locator(".row.call .gutter a").last().click();
    await page.waitForURL(/event=/);
    await page.reload();
    await page.locator(".row.call.marked").waitFor();
    const [saved] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download" }).click()]);
    const lines = (await readFile(await saved.path(), "utf8")).trim().split("\n").map((line) => JSON.parse(line).id);
    const log = await rota.get(`/v1/sessions/${id}/events?limit=1000`);
    assert.deepEqual(lines, log.data.map((event) => event.id));
    await page.getByRole("tab", { name: "Files" }).click();
    const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("row", { name: /left.txt/ }).getByRole("button", { name: "Download" }).click()]);
    assert.equal(await readFile(await file.path(), "utf8"), "second\n");
    await page.getByRole("tab", { name: "Network" }).click();
    await page.getByText("No connection").waitFor();
    await page.getByRole("tab", { name: "Details" }).click();
    await page.getByText("version 1").waitFor();
    sound(page);
  });

  test("a request is shown as curl and as the SDK's call", async () => {
    const { rota } = suite;
    const page = await signedIn(browser, rota, "/console/deployments");
    await page.getByRole("link", { name: /Disk watch/ }).click();
    await page.getByRole("button", { name: "Run as a request" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText(/curl -s -X POST 'http.*\/v1\/deployments\/depl_\w+\/run'/).waitFor();
    await dialog.getByRole("button", { name: "Python SDK" }).click();
    await dialog.getByText(/client\.beta\.deployments\.run\("depl_\w+"\)/).waitFor();
    sound(page);
  });
});

describe("sessions that wait", () => {
  const suite = {};
  serverFor(suite);

  test("an approval in one browser shows in the other, and a denial is read by the agent", async () => {
    const { rota } = suite;
    const [agent, environment] = [await rota.agent({ tools: ASKS }), await rota.environment()];
    const deployment = await rota.deployment(agent, environment, `${block("bash", "echo one")}\n${block("bash", "echo two")}`);
    const run = await rota.post(`/v1/deployments/${deployment.id}/run`);
    const first = await signedIn(browser, rota);
    await first.getByText("waits until calls are allowed or denied").waitFor();
    await first.getByRole("link", { name: "Answer" }).click();
    const second = await signedIn(browser, rota, `/console/sessions/${run.session_id}`);
    for (const page of [first, second]) await page.getByText("May the agent run this?").waitFor();
    await first.getByRole("button", { name: "Allow" }).click();
    // The next call waits, in both.
    for (const page of [first, second]) {
      await page.getByRole("button", { name: /bash echo two/ }).waitFor();
      await page.getByRole("button", { name: "Deny…" }).waitFor();
    }
    await second.getByRole("button", { name: "Deny…" }).click();
    await second.getByLabel("Why not? The agent reads it.").fill("not today");
    await second.getByRole("button", { name: "Deny", exact: true }).click();
    for (const page of [first, second]) {
      await page.getByText("· done").waitFor();
      assert.equal(await page.getByText("May the agent run this?").count(), 0);
      sound(page);
    }
    const log = await rota.get(`/v1/sessions/${run.session_id}/events?limit=1000`);
    const said = log.data.filter((event) => event.type === "user.tool_confirmation").map((event) => [event.result, event.deny_message ?? null]);
    assert.deepEqual(said, [["allow", null], ["deny", "not today"]]);
  });

  test("a session at work is interrupted, also after its server was killed, and no event is doubled", async () => {
    const { rota } = suite;
    const [agent, environment] = [await rota.agent(), await rota.environment("other")];
    const deployment = await rota.deployment(agent, environment, `${block("bash", "echo begun; sleep 600")}\n${block("bash", "echo never")}`, { name: "Long" });
    const run = await rota.post(`/v1/deployments/${deployment.id}/run`);
    const page = await signedIn(browser, rota, `/console/sessions/${run.session_id}`);
    await page.getByRole("button", { name: /bash echo begun/ }).waitFor();
    await page.getByText("Live", { exact: true }).waitFor();
    await rota.kill();
    await page.getByText("Connecting again…").waitFor();
    await rota.serve();
    await page.getByText("Live", { exact: true }).waitFor();
    // The call that the crash cut off is closed, and the one after it runs.
    await page.getByRole("button", { name: /bash echo never/ }).waitFor();
    await page.getByLabel("Message").fill(block("bash", "sleep 601"));
    await page.getByRole("button", { name: "Send" }).click();
    await page.getByRole("button", { name: /bash sleep 601/ }).waitFor();
    await page.getByRole("button", { name: "Interrupt" }).click();
    await page.getByText("Interrupted by the user").waitFor();
    await rota.session(run.session_id, "idle");
    await page.getByRole("button", { name: "Interrupt" }).waitFor({ state: "detached" });
    const [saved] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download" }).click()]);
    const lines = (await readFile(await saved.path(), "utf8")).trim().split("\n").map((line) => JSON.parse(line).id);
    const log = await rota.get(`/v1/sessions/${run.session_id}/events?limit=1000`);
    assert.deepEqual(lines, log.data.map((event) => event.id));
    sound(page);
  });

  test("a custom tool's result is given in place", async () => {
    const { rota } = suite;
    const tool = { type: "custom", name: "ask_boss", description: "Asks.", input_schema: { type: "object", properties: { what: { type: "string" } } } };
    const agent = await rota.agent({ tools: [tool] });
    const deployment = await rota.deployment(agent, await rota.environment("boss"), block("ask_boss", `{"what": "May I?"}`));
    const run = await rota.post(`/v1/deployments/${deployment.id}/run`);
    const page = await signedIn(browser, rota, `/console/sessions/${run.session_id}`);
    await page.getByLabel("The result of this call").fill("yes, you may");
    await page.getByRole("button", { name: "Send the result" }).click();
    await page.getByText("· done").waitFor();
    await page.getByText("yes, you may").first().waitFor();
    sound(page);
  });
});

describe("runs and deployments", () => {
  const suite = {};
  serverFor(suite);

  test("filters are in the address, the keyboard walks, and more runs come when the end is near", async () => {
    const { rota } = suite;
    const [agent, environment] = [await rota.agent(), await rota.environment()];
    const many = await rota.deployment(agent, environment, "hello", { name: "Many" });
    const few = await rota.deployment(agent, environment, "hello", { name: "Few" });
    for (let at = 0; at < 230; at += 10) await Promise.all(Array.from({ length: 10 }, () => rota.post(`/v1/deployments/${many.id}/run`)));
    await rota.post(`/v1/deployments/${few.id}/run`);
    const page = await signedIn(browser, rota, "/console/runs");
    await page.getByText("100 shown, more below").waitFor();
    assert.ok((await rows(page).count()) < 60, "only what is seen is there");
    const list = page.getByRole("region", { name: "Runs, newest first" });
    await until("all are read", async () => {
      await list.evaluate((box) => box.scrollTo(0, box.scrollHeight));
      return await page.getByText("231 shown").isVisible();
    });
    await page.getByRole("combobox", { name: /^Deployment/ }).selectOption({ label: "Few" });
    await page.waitForURL(/deployment_id=depl_/);
    await page.getByText("1 shown").waitFor();
    await page.reload();
    await page.getByText("1 shown").waitFor();
    await rota.post(`/v1/deployments/${few.id}/run`);
    await page.getByText("2 shown").waitFor();
    await page.getByRole("combobox", { name: /^State/ }).selectOption("missed");
    await page.getByText("No run matches").waitFor();
    await page.getByRole("link", { name: "Clear the filters" }).click();
    await page.getByText("100 shown, more below").waitFor();
    await rows(page).first().focus();
    await page.keyboard.press("j");
    await page.keyboard.press("j");
    await page.keyboard.press("k");
    await page.locator("a.run.selected:focus").waitFor();
    await page.keyboard.press("Enter");
    await page.waitForURL(/\/sessions\/sesn_/);
    await page.getByText("Turn 1").waitFor();
    await page.locator("body").press("g");
    await page.keyboard.press("d");
    await heading(page, "Deployments").waitFor();
    sound(page);
  });

  test("a policy is edited, a schedule paused and taken up, a deployment archived", async () => {
    const { rota } = suite;
    const [agent, environment] = [await rota.agent(), await rota.environment("zones")];
    const schedule = { type: "cron", expression: "0 9 * * 1-5", timezone: "America/New_York" };
    const deployment = await rota.deployment(agent, environment, "hello", { name: "Weekday mail", schedule });
    const page = await signedIn(browser, rota, `/console/deployments/${deployment.id}`);
    await page.getByText("On weekdays at 09:00").waitFor();
    await page.getByRole("region", { name: "Policy" }).getByRole("button", { name: "Edit" }).click();
    await page.getByRole("radio", { name: /Skips it/ }).check();
    await page.getByRole("spinbutton", { name: /^Attempts to start/ }).fill("4");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("The policy holds from now on").waitFor();
    const policy = await rota.get(`/rota/v1/deployments/${deployment.id}/policy`);
    assert.deepEqual([policy.overlap, policy.retry.max_attempts], ["skip", 4]);
    await page.getByRole("button", { name: "Pause", exact: true }).click();
    await page.getByText("Paused by hand").waitFor();
    await page.getByRole("button", { name: "Unpause" }).click();
    await page.getByLabel("Next times").waitFor();
    await page.getByRole("link", { name: "Edit", exact: true }).click();
    await page.getByRole("textbox", { name: /^Description/ }).fill("Mail on weekdays");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("Mail on weekdays").waitFor();
    await page.getByRole("button", { name: "Archive" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Archive" }).click();
    await page.getByRole("button", { name: "Run now" }).waitFor({ state: "detached" });
    sound(page);
  });

  test("what is paused by an error is unpaused from where attention is asked for", async () => {
    const { rota } = suite;
    const [agent, environment] = [await rota.agent(), await rota.environment("gone")];
    const schedule = { type: "cron", expression: "* * * * *", timezone: "UTC" };
    const deployment = await rota.deployment(agent, environment, "hello", { name: "Broken", schedule });
    await rota.post(`/v1/environments/${environment.id}/archive`);
    await until("it is paused", async () => (await rota.get(`/v1/deployments/${deployment.id}`)).status === "paused");
    const page = await signedIn(browser, rota);
    const item = page.getByRole("listitem").filter({ hasText: "Broken" });
    await item.getByText("Paused by an error").first().waitFor();
    await item.getByRole("button", { name: "Unpause" }).first().click();
    await page.getByText("Broken runs again").waitFor();
    await rota.post(`/v1/deployments/${deployment.id}/pause`);
    await page.goto(`${rota.url}/console/runs?state=failed`);
    await page.getByText(/archived/).first().waitFor();
    sound(page);
  });
});

describe("what a page asks for", () => {
  const suite = {};
  serverFor(suite);

  test("a list is read again after its pause, and not before", async () => {
    const { rota } = suite;
    const deployment = await rota.deployment(await rota.agent(), await rota.environment(), "hello");
    const page = await browser.page();
    const asked = new Map();
    page.on("request", (request) => {
      const { pathname } = new URL(request.url());
      const times = asked.get(pathname) ?? [];
      asked.set(pathname, [...times, Date.now()]);
    });
    await page.goto(`${rota.url}/console/deployments/${deployment.id}`);
    await signIn(page, rota.key);
    const often = `/v1/deployments/${deployment.id}`;
    await until("it is read four times", async () => (asked.get(often)?.length ?? 0) >= 4);
    // A timer comes late on a busy machine, and never early.
    for (const [path, times] of asked) {
      if (!path.startsWith("/v1/") && !path.startsWith("/rota/")) continue;
      const gaps = times.slice(1).map((time, at) => time - times[at]);
      assert.ok(gaps.every((gap) => gap > 1000), `${path} is read every ${gaps} ms`);
    }
    sound(page);
  });
});

describe("resources", () => {
  const suite = {};
  serverFor(suite);

  test("vaults, files, memory stores and webhooks are made and shown", async () => {
    const { rota } = suite;
    const page = await signedIn(browser, rota, "/console/vaults");
    await page.getByText("No vault yet").waitFor();
    await page.getByRole("button", { name: "New vault" }).click();
    await page.getByRole("textbox", { name: /^Name/ }).fill("tokens");
    await page.getByRole("button", { name: "Make it" }).click();
    await page.getByRole("link", { name: "tokens" }).click();
    await page.getByRole("button", { name: "New credential" }).click();
    await page.getByLabel("Name of the variable").fill("API_TOKEN");
    await page.getByRole("textbox", { name: /^Secret/ }).fill("very-secret-value");
    await page.getByRole("textbox", { name: /^Hosts that may receive it/ }).fill("api.example.com");
    await page.getByRole("button", { name: "Make it" }).click();
    await page.getByRole("cell", { name: "API_TOKEN" }).waitFor();
    assert.ok(!(await page.content()).includes("very-secret-value"));

    await page.goto(`${rota.url}/console/files`);
    await page.getByLabel("File to upload").setInputFiles({ name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("some notes") });
    const row = page.getByRole("row", { name: /notes.txt/ });
    await row.waitFor();
    await row.getByRole("button", { name: "Delete" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await page.getByText("No file yet").waitFor();

    await page.goto(`${rota.url}/console/memory`);
    await page.getByRole("button", { name: "New store" }).click();
    await page.getByRole("textbox", { name: /^Name/ }).fill("notes");
    await page.getByRole("button", { name: "Make it" }).click();
    await page.getByRole("link", { name: "notes" }).waitFor();
    const store = (await rota.get("/v1/memory_stores")).data[0];
    const memory = await rota.post(`/v1/memory_stores/${store.id}/memories`, { path: "/a/b.md", content: "first\nline" });
    await rota.post(`/v1/memory_stores/${store.id}/memories/${memory.id}`, { content: "first\nother line" });
    await page.getByRole("link", { name: "notes" }).click();
    await page.getByRole("link", { name: /\/a\/b.md/ }).click();
    await page.getByText("other line").first().waitFor();
    await page.getByRole("button", { name: /created/ }).click();
    await page.locator(".lines .gone").getByText("line").waitFor();

    await page.goto(`${rota.url}/console/webhooks`);
    await page.getByRole("button", { name: "New endpoint" }).click();
    await page.getByRole("textbox", { name: /^Name/ }).fill("pager");
    await page.getByRole("textbox", { name: /^URL/ }).fill(`http://127.0.0.1:9/${encodeURIComponent(NASTY)}`);
    await page.getByRole("textbox", { name: /^Events/ }).fill("environment.created");
    await page.getByRole("dialog").getByRole("button", { name: "Make it" }).click();
    await page.getByText("shown only now").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
    await rota.environment("told of");
    await page.getByRole("link", { name: "pager" }).click();
    await page.getByRole("cell", { name: "environment.created" }).waitFor();
    await page.getByRole("button", { name: "Disable" }).click();
    await page.getByRole("button", { name: "Enable" }).waitFor();

    await page.goto(`${rota.url}/console/models`);
    await page.getByText("playbook").first().waitFor();
    await page.goto(`${rota.url}/console/keys`);
    await page.getByText("managed with an administrator's key").waitFor();
    await page.goto(`${rota.url}/console/nothing/here`);
    await page.getByText("There is nothing at this address").waitFor();
    await page.goto(`${rota.url}/console/deployments/depl_111111111111111111111111`);
    await page.getByText("This deployment is not there").waitFor();
    sound(page);
  });

  test("an administrator sees keys and all workspaces, and picks one", async () => {
    const { rota } = suite;
    const { key } = await rota.newKey("--admin", "--name", "chief");
    await rota.newKey("--workspace", "Second");
    await rota.environment("of the first");
    const page = await browser.page();
    await page.goto(`${rota.url}/console/environments`);
    await signIn(page, key);
    await page.getByRole("combobox", { name: /^Workspace/ }).selectOption({ label: "Second" });
    await page.getByText("No environment yet").waitFor();
    await page.getByRole("combobox", { name: /^Workspace/ }).selectOption({ label: "Default" });
    await page.getByRole("link", { name: "of the first" }).waitFor();
    await page.goto(`${rota.url}/console/keys`);
    await page.getByRole("cell", { name: /chief/ }).waitFor();
    await page.getByRole("region", { name: "How long things are kept" }).getByText("For ever").first().waitFor();
    await page.getByRole("button", { name: "New workspace" }).click();
    await page.getByRole("dialog").getByLabel("Name").fill("Third");
    await page.getByRole("dialog").getByRole("button", { name: "Make it" }).click();
    await page.getByRole("cell", { name: "Third", exact: true }).waitFor();
    await page.goto(`${rota.url}/console/audit?operation=environments.create`);
    await page.getByRole("button", { name: "environments.create" }).first().waitFor();
    sound(page);
  });

  test("versions of an agent are kept and compared, and a stale one is refused", async () => {
    const { rota } = suite;
    const agent = await rota.agent({ name: "changing", system: "one" });
    const page = await signedIn(browser, rota, `/console/agents/${agent.id}`);
    await page.getByRole("textbox", { name: /^System text/ }).fill("two");
    await page.getByRole("button", { name: "Save as a new version" }).click();
    await page.getByText("Version 2 holds").waitFor();
    await page.getByRole("region", { name: "Versions" }).getByRole("button", { name: /^1 / }).click();
    await page.locator(".lines .gone").getByText('"system": "one"').waitFor();
    await rota.post(`/v1/agents/${agent.id}`, { version: 2, system: "three, by another" });
    await page.getByRole("textbox", { name: /^System text/ }).fill("four");
    await page.getByRole("button", { name: "Save as a new version" }).click();
    await page.getByRole("alert").waitFor();
    assert.equal((await rota.get(`/v1/agents/${agent.id}`)).system, "three, by another");
    sound(page);
  });
});

describe("starts, policies and what became of them", () => {
  const suite = {};
  serverFor(suite);

  test("all of a policy is in its form: what is changed is sent, and nothing else", async () => {
    const { rota } = suite;
    const [agent, environment] = [await rota.agent({ tools: ASKS }), await rota.environment("policies")];
    const schedule = { type: "cron", expression: "0 9 * * 1-5", timezone: "UTC" };
    const deployment = await rota.deployment(agent, environment, "hello", { name: "With a policy", schedule });
    const path = `/rota/v1/deployments/${deployment.id}/policy`;
    await rota.post(path, { starts_at: "2026-01-02T03:04:05.678901Z", catch_up_seconds: 1800 });
    // A link asks for the form.
    const page = await signedIn(browser, rota, `/console/deployments/${deployment.id}?edit=policy`);
    const form = page.getByRole("dialog");
    const fill = async (name, value) => await form.getByRole("spinbutton", { name }).fill(value);
    await form.getByRole("radio", { name: /Waits/ }).check();
    await fill(/^Sessions at work/, "2");
    await fill(/^Sessions, where one dies/, "3");
    await form.getByRole("checkbox", { name: /Even after changes/ }).check();
    await form.getByLabel("The schedule ends").fill("2030-01-02T03:04");
    await form.getByRole("combobox", { name: /^A call that waits/ }).selectOption("within");
    await fill(/^Answer within/, "90");
    await fill(/^Wait at most/, "600");
    await fill(/^Take at most/, "3600");
    await fill(/^Pause after failed runs/, "5");
    await fill(/^Silent after intervals/, "4");
    await fill(/^Dollars a day/, "2.50");
    await form.getByRole("combobox", { name: /^A run goes to/ }).selectOption("continue");
    await fill(/^Tell it the last report/, "2000");
    const [sent] = await Promise.all([page.waitForRequest((request) => request.method() === "POST" && request.url().endsWith("/policy")), form.getByRole("button", { name: "Save" }).click()]);
    await page.getByText("The policy holds from now on").waitFor();
    for (const name of ["starts_at", "catch_up_seconds", "jitter"]) assert.ok(!(name in sent.postDataJSON()), `${name} was not changed`);
    const { type: _, deployment_id: __, warnings: ___, ...policy } = await rota.get(path);
    assert.deepEqual(policy, {
      overlap: "queue_one",
      max_concurrent_sessions: 2,
      retry: { max_attempts: 1, max_sessions: 3, even_after_changes: true, initial_backoff_seconds: 30, max_backoff_seconds: 600, multiplier: 2 },
      catch_up_seconds: 1800,
      jitter: "off",
      silent_after_intervals: 4,
      spend: { per_day_cents: 250, per_month_cents: null },
      session: "continue",
      carry_forward: 2000,
      unattended: { answer_within_seconds: 90 },
      max_session_seconds: 3600,
      max_idle_waiting_seconds: 600,
      pause_after_failures: 5,
      starts_at: "2026-01-02T03:04:05.678901Z",
      ends_at: "2030-01-02T02:04:00.000000Z",
      paused_by: null,
    });
    const card = page.getByRole("region", { name: "Policy" });
    for (const text of ["Up to 3 sessions, even after changes", "Are denied after 1 min", "Paused after 5 in a row", "$2.50 a day", "Goes on in the last one"]) await card.getByText(text).waitFor();
    // What is emptied is no limit any more.
    await card.getByRole("button", { name: "Edit" }).click();
    for (const name of [/^Dollars a day/, /^Take at most/, /^Tell it the last report/]) await fill(name, "");
    await form.getByRole("combobox", { name: /^A call that waits/ }).selectOption("wait");
    await form.getByRole("button", { name: "Save" }).click();
    await form.waitFor({ state: "detached" });
    const emptied = await rota.get(path);
    assert.deepEqual([emptied.spend, emptied.max_session_seconds, emptied.carry_forward, emptied.unattended, emptied.ends_at], [null, null, null, "wait", policy.ends_at]);
    sound(page);
  });

  test("what a policy leaves without an end is said, and what it paused is told and taken up", async () => {
    const { rota } = suite;
    const environment = await rota.environment("pausing");
    const asking = await rota.deployment(await rota.agent({ tools: ASKS }), environment, "hello", { name: "Asks for ever" });
    const page = await signedIn(browser, rota, `/console/deployments/${asking.id}`);
    const [warning] = (await rota.get(`/rota/v1/deployments/${asking.id}/policy`)).warnings;
    await page.getByRole("region", { name: "Policy" }).getByText(warning.message.slice(1)).waitFor();
    const failing = await rota.deployment(await rota.agent(), environment, "hello", { name: "Fails twice", schedule: { type: "cron", expression: "0 0 1 1 *", timezone: "UTC" } });
    await rota.post(`/rota/v1/deployments/${failing.id}/policy`, { pause_after_failures: 2 });
    await rota.post(`/v1/environments/${environment.id}/archive`);
    for (let at = 0; at < 2; at++) await rota.post(`/v1/deployments/${failing.id}/run`);
    await until("it is paused", async () => (await rota.get(`/v1/deployments/${failing.id}`)).status === "paused");
    await page.goto(`${rota.url}/console/deployments/${failing.id}`);
    await page.getByText("Paused after 2 failed runs in a row").waitFor();
    await page.getByRole("link", { name: "The last one" }).click();
    await page.getByText("What became of it").waitFor();
    await page.goto(`${rota.url}/console`);
    const item = page.getByRole("listitem").filter({ hasText: "Fails twice" }).filter({ hasText: "Paused by an error" });
    await item.getByRole("button", { name: "Unpause" }).click();
    await page.getByText("Fails twice runs again").waitFor();
    assert.equal((await rota.get(`/v1/deployments/${failing.id}`)).status, "active");
    sound(page);
  });

  test("a deployment runs with inputs and content, now and at a time, and a planned start is cancelled", async () => {
    const { rota } = suite;
    const [agent, environment] = [await rota.agent(), await rota.environment("inputs")];
    const deployment = await rota.deployment(agent, environment, `Review {{branch}} for {{ who }}. ${NASTY} {{no name}}`, { name: "Review" });
    const page = await signedIn(browser, rota, `/console/deployments/${deployment.id}`);
    await page.getByRole("button", { name: "Run with…" }).click();
    const dialog = page.getByRole("dialog");
    assert.deepEqual(await dialog.locator("label .mono").allTextContents(), ["branch", "who"]);
    await dialog.getByRole("textbox", { name: "branch" }).fill("main");
    await dialog.getByRole("textbox", { name: "who" }).fill(NASTY);
    await dialog.getByRole("textbox", { name: /^Further content/ }).fill("Look at the tests first.");
    await dialog.getByRole("button", { name: "Run it" }).click();
    await page.waitForURL(/\/sessions\/sesn_/);
    await page.getByText("Review main for").waitFor();
    await page.getByText("Look at the tests first.").first().waitFor();

    await page.goto(`${rota.url}/console/deployments/${deployment.id}`);
    await page.getByRole("button", { name: "Run with…" }).click();
    await dialog.getByRole("textbox", { name: "branch" }).fill("release");
    await dialog.getByRole("textbox", { name: "who" }).fill("later");
    await dialog.getByLabel("At a time").check();
    const tomorrow = new Date(Date.now() + 26 * 3_600_000).toISOString().slice(0, 16);
    await dialog.getByLabel("Time, in your zone").fill(tomorrow);
    await dialog.getByRole("button", { name: "Plan it" }).click();
    await page.getByText(/^Planned for /).waitFor();
    const starts = page.getByRole("region", { name: "Planned starts" });
    await starts.getByText("branch: release, who: later").waitFor();
    await starts.getByRole("button", { name: "Cancel" }).click();
    await starts.getByText("None: its schedule").waitFor();
    await starts.getByRole("button", { name: "Past too" }).click();
    await starts.getByText("cancelled").waitFor();
    assert.deepEqual((await rota.get(`/rota/v1/deployments/${deployment.id}/starts`)).data.map((start) => start.state), ["cancelled"]);
    // Its run shows with what it was started.
    const [run] = (await rota.get(`/rota/v1/runs?deployment_id=${deployment.id}`)).data;
    await page.goto(`${rota.url}/console/runs/${run.run_id}`);
    await page.getByRole("region", { name: "Its inputs" }).getByText("main", { exact: true }).waitFor();
    assert.equal(await page.evaluate(() => window.taken), undefined);
    sound(page);
  });

  test("a start whose answer was lost is sent again, and has started once", async () => {
    const { rota } = suite;
    const deployment = await rota.deployment(await rota.agent(), await rota.environment("once"), "hello", { name: "Once" });
    const page = await signedIn(browser, rota, `/console/deployments/${deployment.id}`);
    let sent = 0;
    await page.route(`**/rota/v1/deployments/${deployment.id}/runs`, async (route) => {
      sent += 1;
      if (sent > 1) return await route.continue();
      await route.fetch();
      await route.abort();
    });
    await page.getByRole("button", { name: "Run with…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("button", { name: "Run it" }).click();
    await page.getByRole("dialog").getByRole("alert").waitFor();
    await dialog.getByRole("button", { name: "Run it" }).click();
    await page.waitForURL(/\/sessions\/sesn_/);
    const runs = (await rota.get(`/rota/v1/runs?deployment_id=${deployment.id}`)).data;
    assert.deepEqual([sent, runs.length], [2, 1]);
    sound(page);
  });

  test("a hook's secret is shown once and starts the deployment, until the hook is deleted", async () => {
    const { rota } = suite;
    const deployment = await rota.deployment(await rota.agent(), await rota.environment("hooked"), "hello", { name: "Hooked" });
    const page = await signedIn(browser, rota, `/console/deployments/${deployment.id}`);
    const card = page.getByRole("region", { name: "Hooks" });
    await card.getByRole("button", { name: "New hook" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("textbox", { name: /^Name/ }).fill("monitor");
    await dialog.getByRole("combobox", { name: /^Who calls/ }).selectOption("bearer");
    await dialog.getByRole("button", { name: "Make it" }).click();
    await dialog.getByText("shown only now").waitFor();
    const [secret, address] = await dialog.locator("code").allTextContents();
    await dialog.getByRole("button", { name: "Close" }).click();
    await dialog.waitFor({ state: "detached" });
    await card.getByText("never called").waitFor();
    assert.ok(!(await page.content()).includes(secret), "the secret is gone from the page");
    assert.equal(await card.getByText(address).count(), 1);
    const call = () => fetch(address, { method: "POST", headers: { authorization: `Bearer ${secret}` }, body: "disk full" });
    const answer = await (await call()).json();
    assert.equal(answer.outcome, "started");
    await page.locator(`a.run[data-run="${answer.run_id}"]`).getByText("hook", { exact: true }).waitFor();
    await card.getByText("last called").waitFor();
    await card.getByRole("button", { name: "Delete" }).click();
    await dialog.getByRole("button", { name: "Delete" }).click();
    await card.getByText("None: a hook is").waitFor();
    assert.equal((await call()).status, 404);
    await page.goto(`${rota.url}/console/runs?trigger=hook`);
    await page.getByText("1 shown").waitFor();
    sound(page);
  });

  test("what failed is run again from the list and from where attention is asked for, and the two runs name each other", async () => {
    const { rota } = suite;
    const [agent, broken, whole] = [await rota.agent(), await rota.environment("broken"), await rota.environment("whole")];
    const made = [];
    for (const name of ["Mended", "Mended too"]) {
      const deployment = await rota.deployment(agent, broken, "hello", { name });
      made.push(deployment.id);
    }
    await rota.post(`/v1/environments/${broken.id}/archive`);
    for (const id of made) await rota.post(`/v1/deployments/${id}/run`);
    const page = await signedIn(browser, rota, `/console/runs?state=failed&deployment_id=${made[0]}`);
    await page.getByText("1 shown").waitFor();
    // As long as nothing is mended, it fails again: that is another run, which can be run again in its place.
    await page.getByRole("button", { name: "Run again" }).click();
    await page.getByText("2 shown").waitFor();
    await page.getByRole("link", { name: "Attempts" }).waitFor();
    await rota.post(`/v1/deployments/${made[0]}`, { environment_id: whole.id });
    await page.getByRole("button", { name: "Run again" }).click();
    await page.getByText("Mended runs again").waitFor();
    await until("no run is left to run again", async () => (await page.getByRole("button", { name: "Run again" }).count()) === 0);
    const runs = (await rota.get(`/rota/v1/runs?deployment_id=${made[0]}`)).data;
    await rows(page).last().click();
    await heading(page, "Mended").waitFor();
    await page.getByText("Done again by").waitFor();
    await page.getByRole("link", { name: runs[1].run_id }).click();
    await page.getByText("Does again").waitFor();
    await page.getByRole("link", { name: runs[0].run_id }).click();
    await page.getByRole("link", { name: "Open its session" }).waitFor();

    await page.goto(`${rota.url}/console`);
    const item = page.getByRole("listitem").filter({ hasText: "Mended too" });
    await item.getByText("Fails", { exact: true }).waitFor();
    await rota.post(`/v1/deployments/${made[1]}`, { environment_id: whole.id });
    await item.getByRole("button", { name: "Run again" }).click();
    await page.getByText("Mended too runs again").waitFor();
    await item.waitFor({ state: "detached" });
    const [again] = (await rota.get(`/rota/v1/runs?deployment_id=${made[1]}`)).data;
    assert.equal(again.trigger, "rerun");
    sound(page);
  });

  test("a session beyond its limit is shown as interrupted by it", async () => {
    const { rota } = suite;
    const deployment = await rota.deployment(await rota.agent(), await rota.environment("limited"), block("bash", "sleep 600"), { name: "Too long" });
    await rota.post(`/rota/v1/deployments/${deployment.id}/policy`, { max_session_seconds: 1 });
    await rota.post(`/v1/deployments/${deployment.id}/run`);
    const page = await signedIn(browser, rota, `/console/runs?deployment_id=${deployment.id}`);
    await page.getByText("Interrupted: it took longer than its policy allows").waitFor();
    await page.getByRole("button", { name: "Run again" }).waitFor();
    sound(page);
  });

  test("what a schedule passed over is made up for from its calendar", async () => {
    const { rota } = suite;
    const deployment = await rota.deployment(await rota.agent(), await rota.environment("late"), "hello", { name: "Passed over", schedule: { type: "cron", expression: "* * * * *", timezone: "UTC" } });
    await rota.post(`/v1/deployments/${deployment.id}/pause`);
    const skipped = `/rota/v1/deployments/${deployment.id}/occurrences?outcome=skipped`;
    await until("a time has passed", async () => (await rota.get(skipped)).data.length > 0);
    await rota.post(`/v1/deployments/${deployment.id}/unpause`);
    const [{ scheduled_at }] = (await rota.get(skipped)).data;
    const page = await signedIn(browser, rota, `/console/deployments/${deployment.id}`);
    await page.getByRole("button", { name: "Make up for…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText(/ of this range did not run\./).waitFor();
    await dialog.getByRole("button", { name: /^Plan \d+ starts?$/ }).click();
    await page.getByText(/^\d+ starts? (is|are) planned$/).waitFor();
    await until("it has run", async () => (await rota.get(`/rota/v1/runs?deployment_id=${deployment.id}&trigger=backfill`)).data.some((run) => run.scheduled_at === scheduled_at));
    await page.goto(`${rota.url}/console/runs?trigger=backfill`);
    await rows(page).first().getByText("backfill").waitFor();
    await rota.post(`/v1/deployments/${deployment.id}/pause`);
    sound(page);
  });
});

describe("every kind of what may be", () => {
  const suite = {};
  serverFor(suite);

  test("each kind of attention has its words and its button", async () => {
    const { rota } = suite;
    const deployment = await rota.deployment(await rota.agent(), await rota.environment(), "hello", { name: "Of all kinds" });
    const endpoint = await rota.post("/rota/v1/webhook_endpoints", { name: "pager", url: "http://127.0.0.1:9/", enabled_events: ["deployment_run.failed"] });
    await rota.post(`/rota/v1/webhook_endpoints/${endpoint.id}`, { state: "disabled" });
    const of = (kind, fields = {}) => ({
      type: "attention_item", kind, since: new Date().toISOString(), message: `${kind}: ${NASTY}`, deployment_id: deployment.id, deployment_name: deployment.name,
      run_id: null, session_id: null, webhook_endpoint_id: null, waiting_on: [], failures: null, ...fields,
    });
    const nobody = { deployment_id: null, deployment_name: null };
    const data = [
      of("missed"), of("missed", { message: "a planned start was missed" }), of("silent"), of("spend_near"), of("spend_reached"), of("retrying"),
      of("paused"), of("failing", { run_id: "drun_1", failures: 3 }), of("webhook_disabled", { ...nobody, webhook_endpoint_id: endpoint.id }),
    ];
    const page = await browser.page();
    await page.route("**/rota/v1/attention", (route) => route.fulfill({ json: { data, is_cut: false } }));
    await page.goto(`${rota.url}/console`);
    await signIn(page, rota.key);
    const main = page.locator("main");
    for (const text of ["Missed its time", "Silent", "Near its ceiling of spend", "Ceiling of spend reached", "Tries again", "Paused by an error", "Fails", "Webhook is off"]) {
      await main.getByText(text, { exact: true }).first().waitFor();
    }
    await main.getByText("3 times in a row").waitFor();
    assert.equal(await page.getByRole("button", { name: "Run now" }).count(), 3);
    await page.getByRole("button", { name: "Enable" }).click();
    await page.getByText("The endpoint is enabled again").waitFor();
    assert.equal((await rota.get(`/rota/v1/webhook_endpoints/${endpoint.id}`)).state, "enabled");
    const item = page.getByRole("listitem").filter({ hasText: "Silent" });
    await item.getByRole("button", { name: "Run now" }).click();
    await page.getByText("Of all kinds was started").waitFor();
    assert.equal((await rota.get(`/rota/v1/runs?deployment_id=${deployment.id}`)).data.length, 1);
    await page.getByRole("link", { name: "Change the ceiling" }).first().click();
    await page.getByRole("dialog").getByText("Ceiling of spend").waitFor();
    assert.equal(await page.evaluate(() => window.taken), undefined);
    sound(page);
  });

  test("today's sums are those of the server", async () => {
    const { rota } = suite;
    const page = await browser.page();
    const sum = { runs: { total: 52_000, done: 51_900, failed: 7, waiting: 3, working: 2, deleted: 88 }, tokens: { input_tokens: 5, output_tokens: 6 }, cost: { micro_cents: 1_234_000_000, currency: "USD" } };
    await page.route("**/rota/v1/runs/sums?*", (route) => route.fulfill({ json: { data: [sum] } }));
    await page.goto(`${rota.url}/console`);
    await signIn(page, rota.key);
    const today = page.getByRole("region", { name: "Today" });
    for (const [name, value] of [["Done", "51,900"], ["Failed", "7"], ["Waiting", "3"], ["At work", "2"], ["Missed", "0"], ["Cost", "$12.34"]]) {
      await today.locator("div", { has: page.getByText(name, { exact: true }) }).getByText(value, { exact: true }).waitFor();
    }
    sound(page);
  });

  test("each state and each trigger of a run has its words, and what followed a dead session is said", async () => {
    const { rota } = suite;
    const session = (fields = {}) => ({
      id: "sesn_111111111111111111111111", status: "idle", stop_reason: "end_turn", error: null, interrupted_by: null, waits_for_human: false, waiting_on: [],
      stopped_at: null, duration_seconds: 3, usage: {}, cost: null, model: "m", ...fields,
    });
    let at = 0;
    const of = (state, trigger, fields = {}) => ({
      type: "listed_run", run_id: `drun_11111111111111111111111${at}`, start_id: null, deployment_id: "depl_111111111111111111111111", deployment_name: "Made up", agent: { id: "a", version: 1 },
      trigger, rerun_of: null, rerun_by: null, scheduled_at: null, scheduled_until: null, at: new Date(Date.now() - 1000 * at++).toISOString(), state, reason: null, error: null,
      session: session(), attempt: 1, retry_of: null, followed: null, ...fields,
    });
    const dead = session({ stop_reason: "terminated", error: { type: "unknown_error", message: "It died" } });
    const data = [
      of("working", "at"),
      of("retrying", "hook", { session: session({ error: { type: "model_overloaded_error", message: "The model is busy" } }) }),
      of("failed", "schedule", { session: dead, attempt: 2, retry_of: "drun_0", followed: { at: null, run_id: null, reason: "changes" } }),
      of("failed", "schedule", { session: dead, followed: { at: null, run_id: "drun_2", reason: null }, rerun_by: "drun_3" }),
      of("failed", "backfill", { session: session({ interrupted_by: "max_idle_waiting_seconds" }) }),
      of("skipped", "at", { run_id: null, session: null, start_id: "start_1", reason: "spend" }),
      of("skipped", "schedule", { run_id: null, session: null, reason: "held" }),
      of("done", "rerun", { rerun_of: "drun_4" }),
    ];
    const page = await browser.page();
    await page.route("**/rota/v1/runs?*", (route) => route.fulfill({ json: { data, next_page: null } }));
    await page.goto(`${rota.url}/console/runs`);
    await signIn(page, rota.key);
    for (const text of [
      "The model is busy", "Attempt 2 · It died · No other session follows: it may have changed something", "It died · Another session followed",
      "Interrupted: it waited longer than its policy allows", "Its ceiling of spend was reached", "Schedules were held",
    ]) await page.getByText(text, { exact: true }).waitFor();
    for (const [row, text] of [[0, "planned"], [1, "hook"], [4, "backfill"], [7, "again"]]) await rows(page).nth(row).getByText(text, { exact: true }).waitFor();
    assert.equal(await page.getByRole("button", { name: "Run again" }).count(), 2);
    assert.equal(await page.getByRole("link", { name: "Attempts" }).count(), 2);
    sound(page);
  });
});

describe("who changed what, and how long it is kept", () => {
  const suite = {};
  serverFor(suite);

  test("the audit is filtered by its address and by clicks, and downloaded whole", async () => {
    const { rota } = suite;
    const agent = await rota.agent();
    await rota.post(`/v1/agents/${agent.id}`, { version: 1, system: "other" });
    const deployment = await rota.deployment(agent, await rota.environment(), "hello", { name: "Watched" });
    await rota.post(`/rota/v1/deployments/${deployment.id}/policy`, { overlap: "skip" });
    const page = await signedIn(browser, rota, `/console/deployments/${deployment.id}`);
    await page.getByRole("link", { name: "by whom" }).click();
    await heading(page, "Audit").waitFor();
    const changes = page.getByRole("region", { name: "Changes, newest first" });
    await changes.getByText("deployments.policy.update").waitFor();
    assert.equal(await changes.locator("tbody tr").count(), 2);
    await changes.getByRole("cell", { name: "overlap", exact: true }).waitFor();
    await page.getByRole("link", { name: "Clear" }).click();
    await changes.getByRole("button", { name: "agents.update" }).click();
    await page.waitForURL(/operation=agents\.update/);
    await until("one is left", async () => (await changes.locator("tbody tr").count()) === 1);
    await changes.getByRole("link", { name: agent.id }).waitFor();
    await page.reload();
    assert.equal(await page.getByRole("textbox", { name: /^Operation/ }).inputValue(), "agents.update");
    await page.getByRole("combobox", { name: /^Who/ }).selectOption("scheduler");
    await page.getByText("No change matches").waitFor();
    await page.getByRole("link", { name: "Clear the filters" }).click();
    await changes.waitFor();
    const [saved] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download" }).click()]);
    const lines = (await readFile(await saved.path(), "utf8")).trim().split("\n").map((line) => JSON.parse(line).id);
    assert.deepEqual(lines, (await rota.get("/rota/v1/audit?limit=1000")).data.map((event) => event.id));
    sound(page);
  });

  test("what is kept how long is set for the workspace and for a deployment", async () => {
    const { rota } = suite;
    const page = await signedIn(browser, rota, "/console/keys");
    const card = page.getByRole("region", { name: "How long things are kept" });
    await card.getByText("For ever").first().waitFor();
    // Of what goes by itself it says so.
    assert.equal(await card.getByText("30 days").count(), 2);
    await card.getByRole("button", { name: "Edit" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("spinbutton", { name: "Sessions, days", exact: true }).fill("90");
    await dialog.getByRole("button", { name: "Save" }).click();
    await card.getByText("90 days").waitFor();
    await card.getByRole("button", { name: "What would go now" }).click();
    await card.getByText("The next sweep removes nothing.").waitFor();
    const deployment = await rota.deployment(await rota.agent(), await rota.environment("kept"), "hello", { name: "Kept" });
    await page.goto(`${rota.url}/console/deployments/${deployment.id}`);
    await card.getByText("90 days").waitFor();
    await card.getByRole("button", { name: "Edit" }).click();
    await dialog.getByRole("spinbutton", { name: "Runs, days" }).fill("7");
    await dialog.getByRole("button", { name: "Save" }).click();
    await card.getByText("7 days", { exact: true }).waitFor();
    // Of the sessions it has said nothing: those stay with the workspace.
    await rota.post("/rota/v1/retention", { sessions_days: 60 });
    const { sessions_days, runs_days } = await rota.get(`/rota/v1/deployments/${deployment.id}/retention`);
    assert.deepEqual([sessions_days, runs_days], [60, 7]);
    await page.reload();
    await card.getByRole("button", { name: "Edit" }).click();
    await dialog.getByRole("spinbutton", { name: "Runs, days" }).fill("");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.waitFor({ state: "detached" });
    assert.notEqual((await rota.get(`/rota/v1/deployments/${deployment.id}/retention`)).runs_days, 7);
    sound(page);
  });

  test("sessions are listed by what they are doing", async () => {
    const { rota } = suite;
    const environment = await rota.environment("states");
    const asking = await rota.deployment(await rota.agent({ name: "asker", tools: ASKS }), environment, block("bash", "echo"), { name: "Asking" });
    const resting = await rota.deployment(await rota.agent({ name: "rester" }), environment, "hello", { name: "Resting" });
    const [waits, rests] = [await rota.post(`/v1/deployments/${asking.id}/run`), await rota.post(`/v1/deployments/${resting.id}/run`)];
    for (const run of [waits, rests]) await rota.session(run.session_id, "idle");
    const page = await signedIn(browser, rota, "/console/sessions");
    await page.getByRole("row", { name: /asker/ }).getByText("1 call to allow or deny").waitFor();
    await page.getByRole("row", { name: /rester/ }).getByText("at rest").waitFor();
    await page.getByRole("combobox", { name: "State" }).selectOption("waiting");
    await page.getByRole("row", { name: /rester/ }).waitFor({ state: "detached" });
    await page.getByRole("row", { name: /asker/ }).getByRole("link", { name: "Asking" }).last().waitFor();
    await page.reload();
    await page.getByRole("row", { name: /asker/ }).waitFor();
    await rota.post(`/v1/sessions/${rests.session_id}/archive`);
    await page.getByRole("combobox", { name: "State" }).selectOption("");
    await page.getByLabel("Archived too").check();
    await page.getByRole("row", { name: /rester/ }).getByText("ended").waitFor();
    sound(page);
  });
});

describe("what others wrote", () => {
  const suite = {};
  serverFor(suite);

  test("is text and nothing else on every screen", async () => {
    const { rota } = suite;
    const [agent, environment] = [await rota.agent({ name: NASTY, description: NASTY, system: NASTY }), await rota.environment(NASTY.slice(0, 200))];
    const message = `${NASTY}\n${block("bash", `printf '%s' '${NASTY}' | tee /mnt/session/outputs/'x<img src=x onerror=window.taken=1>.html'`)}\n${block("grep", `{"pattern": ${JSON.stringify(NASTY)}, "path": "/nowhere"}`)}`;
    const deployment = await rota.deployment(agent, environment, message, { name: NASTY, description: NASTY, metadata: { note: NASTY } });
    const run = await rota.post(`/v1/deployments/${deployment.id}/run`);
    const named = await rota.deployment(agent, environment, "Take {{it}}.", { name: NASTY });
    await rota.post(`/rota/v1/deployments/${named.id}/hooks`, { scheme: "github", name: NASTY });
    const given = await rota.post(`/rota/v1/deployments/${named.id}/runs`, { inputs: { it: NASTY } });
    await rota.post(`/rota/v1/deployments/${named.id}/runs`, { inputs: { it: NASTY }, at: new Date(Date.now() + 86_400_000).toISOString() });
    const store = await rota.post("/v1/memory_stores", { name: NASTY, description: NASTY });
    await rota.post(`/v1/memory_stores/${store.id}/memories`, { path: "/<img src=x onerror=window.taken=1>", content: NASTY });
    const vault = await rota.post("/v1/vaults", { display_name: NASTY });
    const file = new FormData();
    file.append("file", new Blob(["content"]), "x<img src=x onerror=window.taken=1>.txt");
    await rota.post("/v1/files", file);
    await rota.session(run.session_id, "idle");
    await until("its file is there", async () => (await rota.get(`/v1/files?scope_id=${run.session_id}`)).data.length > 0);
    const page = await signedIn(browser, rota);
    const seen = {
      "": "Today",
      "/runs": "Duration",
      "/deployments": "onerror",
      [`/deployments/${deployment.id}`]: "onerror",
      [`/deployments/${deployment.id}/edit`]: "First message",
      [`/deployments/${named.id}`]: "onerror",
      [`/deployments/${named.id}?edit=policy&day=${encodeURIComponent(NASTY)}`]: "onerror",
      [`/runs/${given.id}`]: "onerror",
      [`/runs/${encodeURIComponent(NASTY)}`]: "This run",
      "/audit": "agents.create",
      [`/audit?resource_id=${encodeURIComponent(NASTY)}&operation=${encodeURIComponent(NASTY)}`]: "No change matches",
      "/sessions": "onerror",
      [`/sessions/${run.session_id}`]: "onerror",
      [`/sessions/${run.session_id}?tab=files`]: "onerror",
      [`/sessions/${run.session_id}?tab=details`]: "onerror",
      "/agents": "onerror",
      [`/agents/${agent.id}`]: "onerror",
      "/environments": "onerror",
      "/memory": "onerror",
      [`/memory/${store.id}`]: "onerror",
      "/vaults": "onerror",
      [`/vaults/${vault.id}`]: "onerror",
      "/files": "onerror",
      [`/runs?deployment_id=${encodeURIComponent(NASTY)}&state=${encodeURIComponent(NASTY)}`]: "Runs",
      [`/deployments?q=${encodeURIComponent(NASTY)}`]: "onerror",
    };
    for (const [path, text] of Object.entries(seen)) {
      await page.goto(`${rota.url}/console${path}`);
      await page.locator("main").getByText(text).first().waitFor();
      if (path.includes(run.session_id) && !path.includes("tab")) {
        await page.getByRole("button", { name: "Unfold all" }).click();
        await page.locator(".unfolded").first().waitFor();
      }
      assert.equal(await page.evaluate(() => window.taken), undefined, path);
      assert.equal(await page.locator("main img, main script, main iframe").count(), 0, path);
    }
    sound(page);
  });
});

/** The log of a long session. */
function longLog(events) {
  const log = [{ type: "session.status_running" }, { type: "user.message", content: [{ type: "text", text: "Begin." }] }];
  while (log.length < events - 1) {
    const n = log.length;
    log.push({ type: "agent.tool_use", id: `sevt_call${n}`, name: "bash", input: { command: `echo ${n}` }, evaluated_permission: "allow" });
    log.push({ type: "agent.tool_result", tool_use_id: `sevt_call${n}`, content: [{ type: "text", text: `${n}\n`.repeat(1 + (n % 7)) }] });
    log.push({ type: "agent.message", content: [{ type: "text", text: `Step ${n}. ${"What it did there, in words. ".repeat(n % 9)}` }] });
  }
  log.push({ type: "session.status_idle", stop_reason: { type: "end_turn" } });
  return log;
}

describe("long lists and every look", () => {
  const suite = {};
  serverFor(suite);

  test("a transcript of 10,000 events holds few of them in the page, follows its end, and scrolls to its beginning", async () => {
    const { rota } = suite;
    const session = await rota.post("/v1/sessions", { agent: (await rota.agent({ name: "long" })).id, environment_id: (await rota.environment("long")).id });
    const page = await signedIn(browser, rota, "/console");
    await playing(page, session.id, longLog(10_000));
    await page.goto(`${rota.url}/console/sessions/${session.id}`);
    await page.getByText("Step 9998.").waitFor();
    // Neither does its time line: what is too close to be told apart is one bar.
    const bars = await page.getByRole("region", { name: "Time line" }).getByRole("button").count();
    assert.ok(bars > 5 && bars < 600, `${bars} bars are in the page`);
    const list = page.getByRole("region", { name: "Transcript" });
    const held = await list.locator(".row").count();
    assert.ok(held > 5 && held < 120, `${held} rows are in the page`);
    await list.evaluate((box) => (box.scrollTop = 0));
    await page.getByText("Begin.").waitFor();
    // Through all of it, one screen after the other: something is always there, and nothing jumps back.
    const blank = await list.evaluate(async (box) => {
      let blank = 0;
      let before = -1;
      for (let step = 0; step < 120; step++) {
        box.scrollTop += box.clientHeight * 3;
        await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
        if (box.scrollTop < before) return "it jumped back";
        before = box.scrollTop;
        const middle = box.getBoundingClientRect();
        const there = document.elementFromPoint(middle.left + middle.width / 2, middle.top + middle.height / 2);
        if (!there?.closest(".row, .turn")) blank += 1;
      }
      return blank;
    });
    assert.equal(blank, 0);
    sound(page);
  });

  test("every screen is accessible, in both themes and on a narrow display, and does not scroll sideways", async () => {
    const { rota } = suite;
    const seeded = await seed(rota);
    const screens = {
      attention: "/",
      runs: "/runs",
      run: `/runs/${seeded.run}`,
      deployments: "/deployments",
      deployment: `/deployments/${seeded.deployment.id}`,
      "deployment-policy": `/deployments/${seeded.deployment.id}?edit=policy`,
      "deployment-start": `/deployments/${seeded.named.id}`,
      "deployment-hook": `/deployments/${seeded.named.id}`,
      "deployment-backfill": `/deployments/${seeded.named.id}`,
      "deployment-retention": `/deployments/${seeded.named.id}`,
      "deployment-new": `/deployments/new`,
      "deployment-edit": `/deployments/${seeded.deployment.id}/edit`,
      sessions: "/sessions",
      session: `/sessions/${seeded.done}`,
      "session-waiting": `/sessions/${seeded.waiting}`,
      "session-network": `/sessions/${seeded.done}?tab=network`,
      "session-files": `/sessions/${seeded.done}?tab=files`,
      "session-details": `/sessions/${seeded.done}?tab=details`,
      agents: "/agents",
      agent: `/agents/${seeded.agent.id}`,
      environments: "/environments",
      environment: `/environments/${seeded.environment.id}`,
      vaults: "/vaults",
      vault: `/vaults/${seeded.vault.id}`,
      files: "/files",
      skills: "/skills",
      memory: "/memory",
      store: `/memory/${seeded.store.id}`,
      webhooks: "/webhooks",
      models: "/models",
      audit: "/audit",
      keys: "/keys",
    };
    if (PICTURES) await mkdir(PICTURES, { recursive: true });
    const wrong = [];
    for (const [look, options] of Object.entries(LOOKS)) {
      const page = await browser.page(options);
      await page.goto(`${rota.url}/console`);
      await page.getByRole("heading", { name: "Sign in to Rota" }).waitFor();
      wrong.push(...(await hold(page, `sign-in-${look}`)));
      await signIn(page, rota.key);
      for (const [name, path] of Object.entries(screens)) {
        await page.goto(`${rota.url}/console${path}`);
        await heading(page, /./).first().waitFor();
        await page.getByText("Loading…").first().waitFor({ state: "detached" });
        if (name === "session") {
          await page.getByRole("button", { name: /^bash/ }).first().click();
          await page.locator(".unfolded").first().waitFor();
        }
        if (DIALOGS[name]) await DIALOGS[name](page);
        if (DIALOGS[name] || name === "deployment-policy") await page.getByRole("dialog").waitFor();
        wrong.push(...(await hold(page, `${name}-${look}`)));
      }
      sound(page);
      await page.context().close();
    }
    assert.deepEqual(wrong, []);
  });

  const DIALOGS = {
    "deployment-start": async (page) => {
      await page.getByRole("button", { name: "Run with…" }).click();
      await page.getByLabel("At a time").check();
    },
    "deployment-hook": (page) => page.getByRole("button", { name: "New hook" }).click(),
    "deployment-backfill": (page) => page.getByRole("button", { name: "Make up for…" }).click(),
    "deployment-retention": (page) => page.getByRole("region", { name: "How long things are kept" }).getByRole("button", { name: "Edit" }).click(),
  };

  /** What is against the rules in a page. Takes its picture. */
  async function hold(page, name) {
    if (PICTURES) await page.screenshot({ path: join(PICTURES, `${name}.png`) });
    return await heldAgainst(page, name);
  }
});
