// A request as others would send it: curl, and the official Python SDK.

import { search, type ApiRequest } from "./api";

const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

export function asCurl({ method, path, query, body, headers }: ApiRequest): string {
  const lines = [`curl -s ${method === "GET" || body !== undefined ? "" : `-X ${method} `}${quoted(location.origin + path + search(query))}`];
  lines.push(`-H "x-api-key: $ANTHROPIC_API_KEY"`);
  if (path.startsWith("/v1/")) lines.push(`-H 'anthropic-beta: managed-agents-2026-04-01'`);
  for (const [name, value] of Object.entries(headers ?? {})) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body !== undefined) {
    lines.push(`-H 'content-type: application/json'`);
    lines.push(`-d ${quoted(JSON.stringify(body, null, 2))}`);
  }
  return lines.join(" \\\n  ");
}

/** JSON as Python writes it. */
function python(value: unknown, indent = ""): string {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    return `[\n${value.map((one) => `${inner}${python(one, inner)},\n`).join("")}${indent}]`;
  }
  const entries = Object.entries(value);
  if (!entries.length) return "{}";
  return `{\n${entries.map(([name, one]) => `${inner}${JSON.stringify(name)}: ${python(one, inner)},\n`).join("")}${indent}}`;
}

const VERBS = new Set(["archive", "pause", "unpause", "run", "stream", "send"]);

/** The SDK's call of an operation of the API: its resources are attributes, its ids the first arguments. */
function sdkCall(request: ApiRequest): string | null {
  if (!request.path.startsWith("/v1/")) return null;
  const segments = request.path.split("/").slice(2);
  const names: string[] = [];
  const ids: string[] = [];
  for (const segment of segments) {
    if (/^[a-z]+_[A-Za-z0-9]{8,}$/.test(segment)) ids.push(segment);
    else names.push(segment);
  }
  let verb = names.at(-1)!;
  if (VERBS.has(verb)) names.pop();
  else if (verb === "events" && request.method === "POST") verb = "send";
  else if (segments.at(-1) === ids.at(-1)) verb = { GET: "retrieve", POST: "update", DELETE: "delete" }[request.method];
  else verb = request.method === "GET" ? "list" : "create";
  // The id of the resource itself comes first; those that it is in are named.
  const args = ids.slice(-1).map((id) => JSON.stringify(id));
  ids.slice(0, -1).forEach((id, at) => args.push(`${names[at]!.replace(/s$/, "")}_id=${JSON.stringify(id)}`));
  for (const [name, value] of Object.entries({ ...request.query, ...(request.body as object | undefined) })) {
    if (value !== undefined && value !== null && value !== "") args.push(`${name}=${python(value, "    ")}`);
  }
  if (request.headers) args.push(`extra_headers=${python(request.headers, "    ")}`);
  const list = args.length > 1 ? `\n    ${args.join(",\n    ")},\n` : args.join("");
  return `client.beta.${names.join(".")}.${verb}(${list})`;
}

export function asPython(request: ApiRequest): string {
  const client = `from anthropic import Anthropic\n\nclient = Anthropic(base_url=${JSON.stringify(location.origin)})  # ANTHROPIC_API_KEY\n`;
  const call = sdkCall(request);
  if (call) return `${client}\nprint(${call})\n`;
  const path = JSON.stringify(request.path + search(request.query));
  const body = request.body === undefined ? "" : `, body=${python(request.body)}`;
  const headers = request.headers ? `, options={"headers": ${python(request.headers)}}` : "";
  return `${client}\n# Rota's own, beside the hosted API\nprint(client.${request.method.toLowerCase()}(${path}${body}${headers}, cast_to=object))\n`;
}
