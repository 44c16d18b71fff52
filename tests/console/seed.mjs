// A store with something of everything, to look at.

import { ASKS, block, until } from "./harness.mjs";

/** Fills the store of a server. Returns what there is. */
export async function seed(rota) {
  const agent = await rota.agent({ name: "reporter", description: "Looks after disks and mail", system: "You report what you find, in two sentences." });
  const careful = await rota.agent({ name: "careful", tools: ASKS });
  const environment = await rota.environment("python");
  const text = `Look at the disk and say what you find.\n\n${block("bash", "df -h / | tee /mnt/session/outputs/report.txt")}\n\n${block("bash", "cat /nowhere")}`;
  const schedule = { type: "cron", expression: "30 2 * * *", timezone: "America/New_York" };
  const deployment = await rota.deployment(agent, environment, text, { name: "Disk report", description: "Nightly look at the disks of the build machines", schedule });
  await rota.deployment(agent, environment, "hello", { name: "Weekday mail", schedule: { type: "cron", expression: "*/20 * * * *", timezone: "Europe/Berlin" } });
  const asking = await rota.deployment(careful, environment, block("bash", "rm -rf /mnt/session/outputs/old"), { name: "Clean up" });
  const done = [];
  for (let at = 0; at < 4; at++) done.push((await rota.post(`/v1/deployments/${deployment.id}/run`)).session_id);
  const waiting = (await rota.post(`/v1/deployments/${asking.id}/run`)).session_id;
  const broken = await rota.environment("old");
  const failing = await rota.deployment(agent, broken, "hello", { name: "Old sync" });
  await rota.post(`/v1/environments/${broken.id}/archive`);
  await rota.post(`/v1/deployments/${failing.id}/run`);
  // A branch to look at, asked for by hooks and by hand, and every minute, which it is paused in.
  const named = await rota.deployment(agent, environment, "Review {{branch}}.", { name: "Review", schedule: { type: "cron", expression: "* * * * *", timezone: "Europe/Berlin" } });
  await rota.post(`/v1/deployments/${named.id}/pause`);
  await rota.post(`/rota/v1/deployments/${named.id}/hooks`, { scheme: "github", name: "repository" });
  const { id: run } = await rota.post(`/rota/v1/deployments/${named.id}/runs`, { inputs: { branch: "main" } });
  await rota.post(`/rota/v1/deployments/${named.id}/runs`, { inputs: { branch: "release" }, at: new Date(Date.now() + 30 * 3_600_000).toISOString() });
  await until("a time has passed", async () => (await rota.get(`/rota/v1/deployments/${named.id}/occurrences?outcome=skipped`)).data.length > 0);
  const workers = await rota.post("/v1/environments", { name: "build machines", config: { type: "self_hosted" } });
  await rota.post(`/rota/v1/environments/${workers.id}/keys`, { name: "build-1" });
  await rota.post(`/rota/v1/environments/${workers.id}/keys`, { name: "build-2", expires_at: new Date(Date.now() + 90 * 86_400_000).toISOString() });
  const vault = await rota.post("/v1/vaults", { display_name: "Tokens" });
  const auth = { type: "environment_variable", secret_name: "GITHUB_TOKEN", secret_value: "s", networking: { type: "limited", allowed_hosts: ["api.github.com"] } };
  await rota.post(`/v1/vaults/${vault.id}/credentials`, { display_name: "GitHub", auth });
  const store = await rota.post("/v1/memory_stores", { name: "Findings", description: "What earlier sessions found" });
  await rota.post(`/v1/memory_stores/${store.id}/memories`, { path: "/disks/build-1.md", content: "# build-1\n\nFull every second week." });
  await rota.post("/rota/v1/webhook_endpoints", { name: "pager", url: "https://hooks.example.com/rota", enabled_events: ["deployment_run.failed"] });
  for (const session of done) await rota.session(session, "idle");
  await until("it waits", async () => (await rota.get("/rota/v1/attention")).data.some((item) => item.session_id === waiting));
  await until("its files are there", async () => (await rota.get(`/v1/files?scope_id=${done[0]}`)).data.length > 0);
  return { agent, environment, deployment, named, run, vault, store, waiting, workers, done: done[0] };
}
