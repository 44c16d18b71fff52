/** The work of self-hosted environments, as a worker and its operator see it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { bash, client, connect, follow, ids, KEY, makeEnvironment, makeSession, message, variable } from './setup.js';

async function site() {
  const environment = await makeEnvironment({ config: { type: 'self_hosted' } });
  const answer = await fetch(`${variable('ROTA_BASE_URL')}/rota/v1/environments/${environment.id}/keys`, {
    method: 'POST',
    headers: { 'x-api-key': KEY, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'worker' }),
  });
  const { secret } = (await answer.json()) as { secret: string };
  return { environment_id: environment.id, worker: connect({ authToken: secret }) };
}

test('a worker takes work, keeps it, answers its call and stops', async () => {
  const { environment_id, worker } = await site();
  const { work } = worker.beta.environments;
  assert.equal(await work.poll(environment_id), null);
  const session = await makeSession({ environment_id, initial_events: [message(bash('hostname'))] });
  const given = await work.poll(environment_id, { block_ms: 900 });
  assert.deepEqual([given?.id, given?.state, given?.data.type], [session.id, 'queued', 'session']);
  const where = { environment_id };
  assert.equal((await work.ack(session.id, where)).state, 'starting');
  const beat = await work.heartbeat(session.id, { ...where, expected_last_heartbeat: 'NO_HEARTBEAT' });
  assert.deepEqual([beat.state, beat.lease_extended], ['active', true]);
  await assert.rejects(
    work.heartbeat(session.id, { ...where, expected_last_heartbeat: 'NO_HEARTBEAT' }),
    (error: unknown) => error instanceof Anthropic.APIError && error.status === 412,
  );
  const calls = (await follow(session.id)).filter((event) => event.type === 'agent.tool_use');
  assert.equal(calls.length, 1);
  const content = [{ type: 'text' as const, text: 'from a worker' }];
  const result = { type: 'user.tool_result' as const, tool_use_id: calls[0]!.id, content };
  await assert.rejects(client.beta.sessions.events.send(session.id, { events: [result] }), Anthropic.PermissionDeniedError);
  await worker.beta.sessions.events.send(session.id, { events: [result] });
  assert.equal((await work.stop(session.id, { ...where, force: true })).state, 'stopped');
});

test('the queue is listed, counted and described', async () => {
  const { environment_id, worker } = await site();
  const session = await makeSession({ environment_id, initial_events: [message(bash('true'))] });
  assert.deepEqual(await ids(worker.beta.environments.work.list(environment_id)), [session.id]);
  const { work } = client.beta.environments;
  assert.equal((await work.stats(environment_id)).depth, 1);
  const updated = await work.update(session.id, { environment_id, metadata: { host: 'bench' } });
  assert.deepEqual(updated.metadata, { host: 'bench' });
  assert.deepEqual(await work.retrieve(session.id, { environment_id }), updated);
  await assert.rejects(work.poll(environment_id), Anthropic.PermissionDeniedError);
});

test('a worker reads and writes the memories of its session with the token of its work', async () => {
  const { environment_id, worker } = await site();
  const { id: memory_store_id } = await client.beta.memoryStores.create({ name: 'notes' });
  const session = await makeSession({
    environment_id,
    initial_events: [message(bash('true'))],
    resources: [{ type: 'memory_store', memory_store_id, access: 'read_write' }],
  });
  const given = await worker.beta.environments.work.poll(environment_id, { block_ms: 900 });
  const secret = JSON.parse(Buffer.from(given!.secret!, 'base64url').toString()) as { sessions_token: string };
  const { memories, memoryVersions } = connect({ authToken: secret.sessions_token }).beta.memoryStores;
  const made = await memories.create(memory_store_id, { path: '/a.md', content: 'a' });
  assert.deepEqual(await ids(memories.list(memory_store_id) as AsyncIterable<{ id: string }>), [made.id]);
  await assert.rejects(memoryVersions.list(memory_store_id), Anthropic.AuthenticationError);
  const version = await client.beta.memoryStores.memoryVersions.retrieve(made.memory_version_id, { memory_store_id });
  assert.deepEqual(version.created_by, { type: 'session_actor', session_id: session.id });
});
