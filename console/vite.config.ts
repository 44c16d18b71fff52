import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

// What the console is made from. A test of the server reads the same list and the same form.
const SOURCES = ["index.html", "package-lock.json", "package.json", "public", "src", "svelte.config.js", "tsconfig.json", "vite.config.ts"];

function files(path: string): string[] {
  try {
    return readdirSync(path).flatMap((name) => files(join(path, name)));
  } catch {
    return [path];
  }
}

// A hash over each file's path and bytes, in the order of the paths.
function hash(paths: string[]): string {
  const sum = createHash("sha256");
  for (const path of paths.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))) {
    const bytes = readFileSync(path);
    sum.update(`${path}\n${bytes.length}\n`).update(bytes);
  }
  return sum.digest("hex");
}

// Compresses what was built, and writes down what it was built from and what came out.
function record(): Plugin {
  return {
    name: "record",
    apply: "build",
    closeBundle() {
      for (const path of files("dist")) {
        writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }));
        rmSync(path);
      }
      writeFileSync("dist/BUILD", `sources ${hash(SOURCES.flatMap(files))}\nbuilt ${hash(files("dist"))}\n`);
    },
  };
}

export default defineConfig({
  base: "/console/",
  plugins: [svelte(), record()],
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: false,
    rollupOptions: {
      output: {
        entryFileNames: "console.js",
        assetFileNames: (asset) => (asset.names[0]?.endsWith(".css") ? "console.css" : "[name][extname]"),
      },
    },
  },
  server: {
    proxy: Object.fromEntries(
      ["/v1", "/rota", "/console/sign-in"].map((path) => [path, { target: process.env.ROTA ?? "http://127.0.0.1:7420" }]),
    ),
  },
});
