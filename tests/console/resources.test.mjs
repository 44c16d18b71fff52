// Environments with their workers, keys, packages and images; the server's own state; starts beyond a ceiling.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, NASTY, Rota, heading, heldAgainst, signedIn, signIn, sound, until } from "./harness.mjs";

/** A model that costs something: what it is asked and answers costs a dollar for a thousand tokens. */
const DEAR = `[[models]]\nid = "dear"\nprovider = "playbook"\nprice = { input = 1000.0, output = 1000.0 }\n`;

let browser;
let rota;
before(async () => ([browser, rota] = await Promise.all([Browser.start(), Rota.start(DEAR)])));
after(async () => {
  await browser?.stop();
  await rota?.stop();
});

const selfHosted = (name) => rota.post("/v1/environments", { name, config: { type: "self_hosted" } });

/** The status that the server answers a worker with this key. */
async function polls(environment, key) {
  const headers = { authorization: `Bearer ${key}`, "anthropic-beta": "managed-agents-2026-04-01" };
  return (await fetch(`${rota.url}/v1/environments/${environment}/work/poll`, { headers })).status;
}

describe("environments", () => {
  test("a key for workers is shown once, lets a worker in, and is revoked", async () => {
    const environment = await selfHosted("mine");
    const page = await signedIn(browser, rota, `/console/environments/${environment.id}`);
    const card = page.getByRole("region", { name: "Keys of its workers" });
    await card.getByText("a worker needs one").waitFor();
    await card.getByRole("button", { name: "New key" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Name").fill(NASTY.slice(0, 200));
    await dialog.getByRole("button", { name: "As a request" }).click();
    await page.getByText(/\/rota\/v1\/environments\/env_\w+\/keys'/).waitFor();
    await page.keyboard.press("Escape");
    await dialog.getByRole("button", { name: "Make it" }).click();
    await page.getByText("It is shown only now").waitFor();
    const secret = await page.getByRole("dialog").getByText(/^ek-rota-\S+$/).textContent();
    assert.equal(await polls(environment.id, secret), 200);
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
    await card.getByRole("cell", { name: "active" }).waitFor();
    await page.reload();
    await card.getByRole("cell", { name: "active" }).waitFor();
    assert.ok(!(await page.content()).includes(secret), "the secret is told once");
    await card.getByRole("button", { name: "Revoke" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
    await card.getByRole("cell", { name: "revoked" }).waitFor();
    assert.equal(await polls(environment.id, secret), 401);
    await sound(page);
  });

  test("what waits for workers is counted, and that none is there is said", async () => {
    const [environment, agent] = [await selfHosted("empty"), await rota.agent()];
    const page = await signedIn(browser, rota, `/console/environments/${environment.id}`);
    const card = page.getByRole("region", { name: "Its workers" });
    await card.getByText("Sessions that wait for one").waitFor();
    const session = await rota.post("/v1/sessions", { agent: agent.id, environment_id: environment.id });
    await rota.post(`/v1/sessions/${session.id}/events`, { events: [{ type: "user.message", content: [{ type: "text", text: "```bash\necho hi\n```" }] }] });
    await card.getByText("no worker asks for them").waitFor();
    await sound(page);
  });

  test("how its packages were installed is shown with its log, and a failure in words", async () => {
    const environment = await rota.post("/v1/environments", { name: "packed", config: { type: "cloud", networking: { type: "unrestricted" }, packages: { pip: ["requests"] } } });
    const page = await signedIn(browser, rota, `/console/environments/${environment.id}`);
    const card = page.getByRole("region", { name: "Packages of its sandboxes" });
    await card.getByText("requests").waitFor();
    await card.getByText("not built").waitFor();
    const build = { type: "environment_build", environment_id: environment.id, state: "failed", log: `begun ${NASTY}`, error: `pip: ${NASTY}`, started_at: "2026-11-30T07:00:00Z", ended_at: "2026-11-30T07:00:12Z" };
    await page.route(`**/rota/v1/environments/${environment.id}/build`, (route) => route.fulfill({ json: build }));
    await card.getByText("failed", { exact: true }).waitFor();
    await card.getByText("begun").waitFor();
    await card.getByText("in 12 s").waitFor();
    await sound(page);
  });

  test("an image is chosen for it, and one that the server has not is refused in words", async () => {
    const environment = await rota.environment("imaged");
    const page = await browser.page();
    const image = { type: "image", name: "tools", digest: "sha256:0", reference: NASTY, architecture: "amd64", size_bytes: 4096, created_at: "2026-11-30T07:00:00Z" };
    await page.route("**/rota/v1/images", (route) => route.fulfill({ json: { data: [image] } }));
    await page.goto(`${rota.url}/console/environments/${environment.id}`);
    await signIn(page, rota.key);
    const card = page.getByRole("region", { name: "Image of its sandboxes" });
    await card.getByRole("combobox", { name: "Image" }).selectOption("tools");
    await card.getByText("amd64").waitFor();
    await card.getByRole("button", { name: "Use it" }).click();
    await card.getByRole("alert").waitFor();
    assert.equal((await rota.get(`/rota/v1/environments/${environment.id}/image`)).image, null);
    // Once it has it, it is taken.
    await page.route(`**/rota/v1/environments/${environment.id}/image`, (route) => route.fulfill({ json: { type: "environment_image", environment_id: environment.id, image: "tools" } }));
    await card.getByRole("button", { name: "Use it" }).click();
    await page.getByText("Sessions that begin from now on have it").waitFor();
    await sound(page);
  });
});

describe("the server", () => {
  test("its schedules are held and released, all and those of a workspace, by an administrator", async () => {
    const { key } = await rota.newKey("--admin", "--name", "operator");
    const page = await browser.page();
    await page.goto(`${rota.url}/console/server`);
    await signIn(page, key);
    const card = page.getByRole("region", { name: "Schedules" });
    await card.getByText("they fire").waitFor();
    await card.getByRole("button", { name: "Hold all schedules" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Hold all schedules" }).click();
    await card.getByText("all held").waitFor();
    await card.getByRole("button", { name: "Release all" }).click();
    await card.getByText("they fire").waitFor();
    await card.getByRole("button", { name: "Hold those of this workspace" }).click();
    const held = page.getByRole("list", { name: "Workspaces that are held" });
    await held.getByRole("button", { name: "Release" }).click();
    await held.waitFor({ state: "detached" });
    await sound(page);
  });

  test("the key of a workspace sees whether it is ready and its images, and no more", async () => {
    const page = await signedIn(browser, rota, "/console/server");
    await page.getByText("ready", { exact: true }).waitFor();
    await page.getByText("No images").waitFor();
    await page.getByText("needs an administrator's key").waitFor();
    assert.equal(await page.getByRole("button", { name: /^Hold/ }).count(), 0);
    await sound(page);
  });
});

describe("a ceiling of spend", () => {
  test("is gone beyond by whoever insists, and by nobody else", async () => {
    const deployment = await rota.deployment(await rota.agent({ name: "dear", model: "dear" }), await rota.environment("dear"), "hello", { name: "Dear" });
    await rota.post(`/rota/v1/deployments/${deployment.id}/policy`, { spend: { per_day_cents: 1 } });
    const first = await rota.post(`/v1/deployments/${deployment.id}/run`);
    await rota.session(first.session_id, "idle");
    const runs = async () => (await rota.get(`/rota/v1/runs?deployment_id=${deployment.id}`)).data.length;
    const page = await signedIn(browser, rota, `/console/deployments/${deployment.id}`);
    await page.getByRole("button", { name: "Run now" }).click();
    const dialog = page.getByRole("dialog", { name: "Start it beyond its ceiling?" });
    await dialog.getByText(/has spent/).waitFor();
    await dialog.getByRole("button", { name: "As a request" }).click();
    await page.getByText("rota-force: true'").waitFor();
    await page.keyboard.press("Escape");
    await dialog.getByRole("button", { name: "Leave it" }).click();
    await dialog.waitFor({ state: "detached" });
    assert.equal(await runs(), 1);
    // The same from the form.
    await page.getByRole("button", { name: "Run with…" }).click();
    await page.getByRole("button", { name: "Run it" }).click();
    await dialog.getByRole("button", { name: "Start it all the same" }).click();
    await page.getByText("Turn 1").waitFor();
    assert.equal(await runs(), 2);
    await sound(page);
  });
});

test("a version of a skill is downloaded as it was uploaded", async () => {
  const body = new FormData();
  body.append("files[]", new Blob(["---\nname: reports\ndescription: How to report\n---\nIn two sentences."]), "reports/SKILL.md");
  const skill = await rota.post("/v1/skills", body);
  const page = await signedIn(browser, rota, `/console/skills/${skill.id}`);
  const [saved] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download" }).click()]);
  assert.equal(saved.suggestedFilename(), "reports.zip");
  const archive = await readFile(await saved.path());
  assert.equal(archive.subarray(0, 2).toString(), "PK");
  assert.ok(archive.includes("reports/SKILL.md"));
  await sound(page);
});

test("a key that ends in the middle of a form leads to the sign-in, and back to the same page", async () => {
  const environment = await selfHosted("ending");
  const { id, key } = await rota.newKey("--name", "short");
  const page = await browser.page();
  await page.goto(`${rota.url}/console/environments/${environment.id}`);
  await signIn(page, key);
  await page.getByRole("button", { name: "New key" }).click();
  await page.getByRole("dialog").getByLabel("Name").fill("never made");
  await rota.revoke(id);
  await page.getByText("the key with which this browser signed in has ended").waitFor();
  assert.equal((await rota.get(`/rota/v1/environments/${environment.id}/keys`)).data.length, 0);
  await signIn(page, rota.key);
  await heading(page, "ending").waitFor();
  await sound(page);
});

test("the screens of environments and of the server are accessible in every look", async () => {
  const [mine, cloud] = [await selfHosted(NASTY.slice(0, 100)), await rota.environment("for looks")];
  await rota.post(`/rota/v1/environments/${mine.id}/keys`, { name: NASTY });
  await rota.post(`/rota/v1/environments/${mine.id}/keys`, { name: "ends", expires_at: new Date(Date.now() + 3_600_000).toISOString() });
  const { key } = await rota.newKey("--admin", "--name", "looks");
  const wrong = [];
  for (const [look, options] of Object.entries(LOOKS)) {
    const page = await browser.page(options);
    await page.goto(`${rota.url}/console`);
    await signIn(page, key);
    for (const [name, path, text] of [["workers", `/environments/${mine.id}`, "ends"], ["cloud", `/environments/${cloud.id}`, "Packages of its sandboxes"], ["server", "/server", "they fire"]]) {
      await page.goto(`${rota.url}/console${path}`);
      await page.locator("main").getByText(text).first().waitFor();
      await until("all is loaded", async () => (await page.getByText("Loading…").count()) === 0);
      wrong.push(...(await heldAgainst(page, `${name}-${look}`)));
    }
    await page.goto(`${rota.url}/console/environments/${mine.id}`);
    await page.getByRole("button", { name: "New key" }).click();
    await page.getByRole("dialog").waitFor();
    wrong.push(...(await heldAgainst(page, `new-key-${look}`)));
    await sound(page);
    await page.context().close();
  }
  assert.deepEqual(wrong, []);
});
