/** Webhooks, received by a real server, verified and read by the SDK. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { client, KEY, makeAgent, variable } from './setup.js';

interface Delivery {
  headers: Record<string, string>;
  body: string;
}

/** Calls what is Rota's own, which the SDK and the contract do not know. */
async function rota(method: string, path: string, body?: object): Promise<any> {
  const headers = { 'x-api-key': KEY, 'content-type': 'application/json' };
  const url = `${variable('ROTA_BASE_URL')}/rota/v1${path}`;
  const response = await fetch(url, { method, headers, ...(body && { body: JSON.stringify(body) }) });
  assert.equal(response.status, 200);
  return response.json();
}

test('an event is verified and read by the SDK, and with another secret it is not', async () => {
  const server = createServer(async (request, response) => {
    const body = await text(request);
    response.writeHead(204).end();
    server.emit('delivery', { headers: request.headers, body });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hooks`;
  const endpoint = await rota('POST', '/webhook_endpoints', { url, enabled_events: ['agent.created'] });
  try {
    const arrives = once(server, 'delivery');
    const agent = await makeAgent();
    const [{ headers, body }] = (await arrives) as [Delivery];
    const event = client.beta.webhooks.unwrap(body, { headers, key: endpoint.signing_secret });
    assert.deepEqual([event.type, event.id], ['event', headers['webhook-id']]);
    assert.deepEqual([event.data.type, event.data.id], ['agent.created', agent.id]);
    const key = `whsec_${Buffer.alloc(32).toString('base64')}`;
    assert.throws(() => client.beta.webhooks.unwrap(body, { headers, key }));
  } finally {
    await rota('DELETE', `/webhook_endpoints/${endpoint.id}`);
    server.closeAllConnections();
    server.close();
  }
});
