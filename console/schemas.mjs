// Writes `src/lib/schemas.json`: what the contract says of the bodies that the editors send, and of nothing else.
//
//   node schemas.mjs            writes it
//   node schemas.mjs --print    prints it

import { readFileSync, writeFileSync } from "node:fs";

const BODIES = {
  agent: "/v1/agents",
  agentChange: "/v1/agents/{agent_id}",
  deployment: "/v1/deployments",
  deploymentChange: "/v1/deployments/{deployment_id}",
  environment: "/v1/environments",
  environmentChange: "/v1/environments/{environment_id}",
};

const at = (path) => new URL(path, import.meta.url);
const contract = JSON.parse(readFileSync(at("../contract/openapi.json"), "utf8"));

/** The types that were met, by a short name each. */
const types = {};
const names = new Map();

function named(reference) {
  const name = reference.split("/").at(-1);
  if (!names.has(name)) {
    names.set(name, `t${names.size}`);
    types[names.get(name)] = null;
    types[names.get(name)] = compact(contract.components.schemas[name]);
  }
  return names.get(name);
}

/** A schema in the few words that `src/lib/schema.ts` reads. */
function compact(schema) {
  if (schema.$ref) return { ref: named(schema.$ref) };
  if ("const" in schema) return { const: schema.const };
  if (schema.enum) return { enum: schema.enum };
  if (schema.anyOf) return { any: schema.anyOf.map(compact) };
  const { type, properties, required, items, additionalProperties: others } = schema;
  return {
    type,
    ...(properties ? { fields: Object.fromEntries(Object.entries(properties).map(([name, one]) => [name, compact(one)])) } : {}),
    ...(required ? { required } : {}),
    ...(items ? { items: compact(items) } : {}),
    // What names no fields may have any; what names some has no others, unless it says so.
    ...(typeof others === "object" ? { others: compact(others) } : others === true || (type === "object" && !properties) ? { others: {} } : {}),
  };
}

const bodies = Object.fromEntries(
  Object.entries(BODIES).map(([name, path]) => [name, compact(contract.paths[path].post.requestBody.content["application/json"].schema)]),
);
const text = `${JSON.stringify({ bodies, types })}\n`;

if (process.argv.includes("--print")) process.stdout.write(text);
else writeFileSync(at("src/lib/schemas.json"), text);
