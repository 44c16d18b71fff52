/** Sessions as resources; what happens inside them is in events.test.ts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import {
  bash,
  client,
  collect,
  follow,
  ids,
  instant,
  makeAgent,
  makeEnvironment,
  makeSession,
  message,
  outputs,
} from './setup.js';

test('a session starts idle with its agent as it was', async () => {
  const agent = await makeAgent();
  const environment = await makeEnvironment();
  const session = await makeSession({
    agent: agent.id,
    environment_id: environment.id,
    title: 'by hand',
    metadata: { team: 'night' },
  });
  assert.match(session.id, /^sesn_/);
  assert.deepEqual([session.status, session.title, session.metadata], ['idle', 'by hand', { team: 'night' }]);
  assert.equal(session.environment_id, environment.id);
  assert.deepEqual([session.vault_ids, session.resources, session.outcome_evaluations], [[], [], []]);
  await client.beta.agents.update(agent.id, { system: 'changed later' });
  const snapshot = (await client.beta.sessions.retrieve(session.id)).agent;
  assert.deepEqual([snapshot.id, snapshot.version, snapshot.system], [agent.id, 1, null]);
});

test('a session may pin an older version', async () => {
  const { id } = await makeAgent();
  await client.beta.agents.update(id, { system: 'two' });
  assert.equal((await makeSession({ agent: id })).agent.version, 2);
  assert.equal((await makeSession({ agent: { type: 'agent', id, version: 1 } })).agent.version, 1);
});

test('an override changes the session and not the agent', async () => {
  const { id } = await makeAgent({ system: "the agent's own" });
  const session = await makeSession({ agent: { type: 'agent_with_overrides', id, system: 'for this once' } });
  assert.equal(session.agent.system, 'for this once');
  assert.equal(session.agent.tools.length, 1);
  assert.equal((await client.beta.agents.retrieve(id)).system, "the agent's own");
});

test('initial events start the session', async () => {
  const session = await makeSession({ initial_events: [message(bash('echo first'))] });
  assert.equal(session.status, 'running');
  assert.match(outputs(await follow(session.id))[0]!, /first/);
  assert.equal((await client.beta.sessions.retrieve(session.id)).status, 'idle');
});

test('an update merges metadata', async () => {
  const session = await makeSession({ title: 'before', metadata: { kept: 'yes', dropped: 'yes' } });
  const updated = await client.beta.sessions.update(session.id, {
    title: 'after',
    metadata: { dropped: null, added: 'yes' },
  });
  assert.deepEqual([updated.title, updated.metadata], ['after', { kept: 'yes', added: 'yes' }]);
});

test('sessions come in either order over pages that lead back', async () => {
  const agent = (await makeAgent()).id;
  const environment = (await makeEnvironment()).id;
  const made: string[] = [];
  for (let count = 0; count < 4; count += 1) made.push((await makeSession({ agent, environment_id: environment })).id);
  const newest = [...made].reverse();
  assert.deepEqual(await ids(client.beta.sessions.list({ agent_id: agent, limit: 2 })), newest);
  assert.deepEqual(await ids(client.beta.sessions.list({ agent_id: agent, limit: 2, order: 'asc' })), made);
  const first = await client.beta.sessions.list({ agent_id: agent, limit: 2 });
  const second = await first.getNextPage();
  assert.deepEqual(
    second.data.map((session) => session.id),
    newest.slice(2),
  );
  assert.equal(second.next_page, null);
  const back = await client.beta.sessions.list({ agent_id: agent, limit: 2, page: second.prev_page! });
  assert.deepEqual(
    back.data.map((session) => session.id),
    newest.slice(0, 2),
  );
});

test('sessions are filtered', async () => {
  const agent = (await makeAgent()).id;
  const one = await makeSession({ agent });
  await client.beta.agents.update(agent, { system: 'two' });
  const two = await makeSession({ agent });
  await client.beta.sessions.archive(two.id);
  const listed = (filters: object) => ids(client.beta.sessions.list({ agent_id: agent, ...filters }));
  assert.deepEqual(await listed({}), [one.id]);
  assert.deepEqual(await listed({ include_archived: true }), [two.id, one.id]);
  assert.deepEqual(await listed({ include_archived: true, agent_version: 2 }), [two.id]);
  assert.deepEqual(await listed({ include_archived: true, statuses: ['terminated'] }), [two.id]);
  assert.deepEqual(await listed({ include_archived: true, statuses: ['idle', 'terminated'] }), [two.id, one.id]);
  const all = [two, one];
  const compare: Record<string, (left: bigint, right: bigint) => boolean> = {
    gt: (left, right) => left > right,
    gte: (left, right) => left >= right,
    lt: (left, right) => left < right,
    lte: (left, right) => left <= right,
  };
  for (const [name, holds] of Object.entries(compare)) {
    const at = one.created_at;
    const expected = all.filter((session) => holds(instant(session.created_at), instant(at)));
    assert.deepEqual(
      await listed({ include_archived: true, [`created_at[${name}]`]: at }),
      expected.map((session) => session.id),
      name,
    );
  }
});

test('an archived session is terminated and readable', async () => {
  const { id } = await makeSession();
  assert.notEqual((await client.beta.sessions.archive(id)).archived_at, null);
  assert.equal((await client.beta.sessions.retrieve(id)).status, 'terminated');
  assert.equal((await collect(client.beta.sessions.events.list(id))).at(-1)?.type, 'session.status_terminated');
});

test('a deleted session is gone', async () => {
  const { id } = await makeSession();
  assert.deepEqual(await client.beta.sessions.delete(id), { id, type: 'session_deleted' });
  await assert.rejects(client.beta.sessions.retrieve(id), Anthropic.NotFoundError);
});
