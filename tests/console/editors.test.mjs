// The editors say what is against the contract while somebody writes.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Browser, LOOKS, NASTY, Rota, heading, heldAgainst, signedIn, signIn, sound, until } from "./harness.mjs";

const CONSOLE = fileURLToPath(new URL("../../console/", import.meta.url));

test("the schemas of the editors are those of the contract", async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [`${CONSOLE}schemas.mjs`, "--print"], { maxBuffer: 1 << 24 });
  assert.equal(await readFile(`${CONSOLE}src/lib/schemas.json`, "utf8"), stdout, "`make console` writes them");
});

describe("while somebody writes", () => {
  let browser;
  let rota;
  before(async () => ([browser, rota] = await Promise.all([Browser.start(), Rota.start()])));
  after(async () => {
    await browser?.stop();
    await rota?.stop();
  });

  /** What is said of a text in the JSON, when it is said. */
  async function faults(page, text) {
    await page.getByLabel("As JSON").fill(typeof text === "string" ? text : JSON.stringify(text));
    return await page.getByRole("list", { name: "What is wrong" }).getByRole("listitem").allTextContents();
  }
  const AGENT = { name: "a", model: "playbook" };
  const TOOLSET = "agent_toolset_20260401";

  test("each fault is named with its place, and none is found in what is right", async () => {
    const page = await signedIn(browser, rota, "/console/agents/new");
    await page.getByLabel("As JSON").waitFor();
    const told = [
      [AGENT, []],
      [{ model: "playbook" }, ["name is missing"]],
      [{ ...AGENT, name: 5 }, ["name is a number, and should be a text"]],
      [{ ...AGENT, nmae: "b" }, [/^nmae is no field here; those are .*name/]],
      [{ ...AGENT, description: null }, []],
      [{ ...AGENT, model: { id: "playbook", effort: "some" } }, [/^model\.effort is "some", and should be one of "low", "medium", "high", "xhigh", "max"/]],
      [{ ...AGENT, tools: {} }, ["tools is an object, and should be a list"]],
      [{ ...AGENT, tools: [{ type: "toolset" }] }, [/^tools\[0\]\.type is "toolset", and should be one of .*"agent_toolset_20260401"/]],
      [{ ...AGENT, tools: [{}] }, [/^tools\[0\]\.type is missing: one of /]],
      [{ ...AGENT, tools: [{ type: TOOLSET, configs: [{ name: "bash", permission_policy: { type: "never" } }] }] }, [/^tools\[0\]\.configs\[0\]\.permission_policy\.type is "never", and should be one of "always_allow", "always_ask", "auto"/]],
      [{ ...AGENT, metadata: { a: 1 } }, ["metadata.a is a number, and should be a text"]],
      [{ ...AGENT, metadata: { [NASTY]: 1 } }, [/onerror/]],
      [{ ...AGENT, constructor: 1 }, [/^constructor is no field here/]],
    ];
    for (const [body, expected] of told) {
      const found = (await faults(page, body)).map((text) => text.trim());
      assert.equal(found.length, expected.length, `${JSON.stringify(body)}: ${found}`);
      expected.forEach((one, at) => (typeof one === "string" ? assert.equal(found[at], one) : assert.match(found[at], one)));
    }
    const pane = page.getByLabel("As JSON");
    assert.equal(await pane.getAttribute("aria-invalid"), "true");
    await pane.fill(JSON.stringify(AGENT));
    assert.equal(await pane.getAttribute("aria-invalid"), "false");
    // The server has the last word, also on what is said to be wrong.
    await pane.fill(JSON.stringify({ ...AGENT, nmae: "b" }));
    await page.getByRole("button", { name: "Make it" }).click();
    await page.getByRole("alert").getByText(/nmae/).waitFor();
    await sound(page);
  });

  test("what the server has is right as it is, in each editor", async () => {
    const agent = await rota.agent({
      description: "all there is", metadata: { a: "b" }, mcp_servers: [{ type: "url", name: "files", url: "https://files.example.com/mcp" }],
      tools: [{ type: TOOLSET, configs: [{ name: "bash", enabled: true, permission_policy: { type: "always_ask" } }] }, { type: "mcp_toolset", mcp_server_name: "files" }],
    });
    const environment = await rota.post("/v1/environments", { name: "all", description: "of it", config: { type: "cloud", networking: { type: "limited", allowed_hosts: ["example.com"], allow_package_managers: true }, packages: { pip: ["requests"] } } });
    const hosted = await rota.post("/v1/environments", { name: "hosted", config: { type: "self_hosted" } });
    const store = await rota.post("/v1/memory_stores", { name: "kept" });
    const deployment = await rota.deployment(agent, environment, "hello", {
      schedule: { type: "cron", expression: "0 9 * * *", timezone: "UTC" }, resources: [{ type: "memory_store", memory_store_id: store.id, access: "read_only" }], metadata: { a: "b" },
    });
    const page = await signedIn(browser, rota);
    for (const [path, name] of [[`/agents/${agent.id}`, "reporter"], [`/environments/${environment.id}`, "all"], [`/environments/${hosted.id}`, "hosted"], [`/deployments/${deployment.id}/edit`, "Edit Disk report"]]) {
      await page.goto(`${rota.url}/console${path}`);
      await heading(page, name).waitFor();
      await until("the JSON has what is stored", async () => (await page.getByLabel("As JSON").inputValue()).length > 40);
      assert.deepEqual(await page.getByRole("list", { name: "What is wrong" }).allTextContents(), [], path);
      await page.getByRole("button", { name: /^Save/ }).click();
      await until(`${path} is taken as it is`, async () => (await page.locator(".toast").count()) > 0);
      assert.equal(await page.getByRole("alert").count(), 0, path);
    }
    await sound(page);
  });

  test("a version is compared with what is written", async () => {
    const agent = await rota.agent({ name: "compared", system: "first" });
    await rota.post(`/v1/agents/${agent.id}`, { version: 1, system: "second" });
    const page = await signedIn(browser, rota, `/console/agents/${agent.id}?version=1`);
    await page.locator(".lines .gone").getByText("first").waitFor();
    await page.locator(".lines .new").getByText("second").waitFor();
    await page.getByRole("textbox", { name: /^System text/ }).fill("third");
    await page.locator(".lines .new").getByText("third").waitFor();
    await sound(page);
  });

  test("an editor with faults is accessible in every look", async () => {
    const wrong = [];
    for (const [look, options] of Object.entries(LOOKS)) {
      const page = await browser.page(options);
      await page.goto(`${rota.url}/console/agents/new`);
      await signIn(page, rota.key);
      await faults(page, { ...AGENT, tools: [{ type: NASTY }], [NASTY]: 1 });
      wrong.push(...(await heldAgainst(page, `editor-${look}`)));
      await sound(page);
      await page.context().close();
    }
    assert.deepEqual(wrong, []);
  });
});
