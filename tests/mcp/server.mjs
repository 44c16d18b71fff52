// An MCP server of the official TypeScript SDK, for the tests: it keeps events, so that a stream which broke off can be taken up.
//
//     node server.mjs
//
// It prints its port once it listens.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";

import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { z } from "zod";

const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

class Events {
  #events = [];

  async storeEvent(stream, message) {
    return String(this.#events.push({ stream, message }) - 1);
  }

  async replayEventsAfter(last, { send }) {
    const { stream } = this.#events[Number(last)];
    for (const [id, event] of this.#events.entries()) {
      // An event without a message only says where the stream is.
      if (id > Number(last) && event.stream === stream && event.message?.jsonrpc) await send(String(id), event.message);
    }
    return stream;
  }
}

function build() {
  const server = new McpServer({ name: "typescript", version: "1" });
  const text = (text) => ({ content: [{ type: "text", text }] });
  server.registerTool("add", { description: "Adds.", inputSchema: { a: z.number(), b: z.number() } }, async ({ a, b }) => text(String(a + b)));
  server.registerTool("picture", { description: "Shows a picture." }, async () => ({
    content: [{ type: "image", mimeType: "image/png", data: PIXEL }],
  }));
  server.registerTool("weather", { description: "Says how warm it is.", outputSchema: { degrees: z.number() } }, async () => ({
    content: [],
    structuredContent: { degrees: 21 },
  }));
  server.registerTool("fails", { description: "Never works." }, async () => {
    throw new Error("it is broken");
  });
  server.registerTool("breaks_off", { description: "Ends its stream and answers all the same." }, async ({ closeSSEStream }) => {
    closeSSEStream();
    return text("taken up");
  });
  server.registerTool("grow", { description: "Adds another tool." }, async () => {
    server.registerTool("grown", { description: "Was not there before." }, async () => text("grown"));
    return text("there is more");
  });
  return server;
}

const sessions = new Map();

async function answer(request, response) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = pieces.length > 0 ? JSON.parse(Buffer.concat(pieces).toString()) : undefined;
  let transport = sessions.get(request.headers["mcp-session-id"]);
  if (!transport) {
    // As the examples of the SDK have it: a session that is not known is 400.
    if (body?.method !== "initialize") return response.writeHead(400).end();
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      eventStore: new Events(),
      retryInterval: 10,
      onsessioninitialized: (id) => sessions.set(id, transport),
    });
    await build().connect(transport);
  }
  await transport.handleRequest(request, response, body);
}

const server = createServer((request, response) => {
  if (request.url === "/forget") {
    sessions.clear();
    return response.writeHead(204).end();
  }
  answer(request, response).catch((error) => {
    console.error(error);
    response.writeHead(500).end();
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
