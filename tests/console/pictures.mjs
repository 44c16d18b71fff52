// The pictures of docs/console.md: a few screens with something of everything in them.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Browser, Rota, signIn, until } from "./harness.mjs";
import { seed } from "./seed.mjs";

const FOLDER = process.argv[2];

const rota = await Rota.start();
const browser = await Browser.start();
try {
  const { deployment, done, workers } = await seed(rota);
  await mkdir(FOLDER, { recursive: true });
  const pictures = {
    "attention-light": "/",
    "deployment-dark": `/deployments/${deployment.id}`,
    "session-light": `/sessions/${done}`,
    "editor-dark": `/deployments/${deployment.id}/edit`,
    "workers-light": `/environments/${workers.id}`,
  };
  for (const [name, path] of Object.entries(pictures)) {
    const page = await browser.page({ viewport: { width: 1200, height: 750 }, colorScheme: name.split("-").at(-1) });
    await page.goto(`${rota.url}/console${path}`);
    await signIn(page, rota.key);
    await page.getByRole("heading", { level: 1 }).first().waitFor();
    await until("all is loaded", async () => (await page.getByText("Loading…").count()) === 0);
    if (path.startsWith("/sessions")) await page.getByRole("button", { name: /^bash/ }).first().click();
    await page.screenshot({ path: join(FOLDER, `${name}.png`) });
    await page.context().close();
  }
} finally {
  await browser.stop();
  await rota.stop();
}
