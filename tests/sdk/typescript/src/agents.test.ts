/** Agents and their versions. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, ids, instant, makeAgent, unique } from './setup.js';

test('an agent comes back as it was created', async () => {
  const name = unique('agent');
  const agent = await client.beta.agents.create({
    name,
    model: 'playbook',
    description: 'answers from its playbook',
    system: 'Be brief.',
    tools: [
      {
        type: 'agent_toolset_20260401',
        default_config: { enabled: true, permission_policy: { type: 'always_allow' } },
        configs: [{ name: 'bash', enabled: true, permission_policy: { type: 'always_ask' } }],
      },
    ],
    metadata: { team: 'night' },
  });
  assert.match(agent.id, /^agent_/);
  assert.deepEqual(
    [agent.name, agent.description, agent.system, agent.model.id],
    [name, 'answers from its playbook', 'Be brief.', 'playbook'],
  );
  assert.deepEqual(agent.metadata, { team: 'night' });
  assert.deepEqual([agent.version, agent.archived_at], [1, null]);
  assert.deepEqual([agent.mcp_servers, agent.skills], [[], []]);
  assert.equal(agent.execution_identity.type, 'service_account');
  const [toolset] = agent.tools;
  assert(toolset?.type === 'agent_toolset_20260401');
  assert.deepEqual(
    toolset.configs.map((tool) => [tool.name, tool.permission_policy.type]),
    [['bash', 'always_ask']],
  );
  assert.deepEqual(await client.beta.agents.retrieve(agent.id), agent);
});

test('an update makes a version and keeps the older one', async () => {
  const first = await makeAgent({ system: 'one', metadata: { kept: 'yes', dropped: 'yes' } });
  const second = await client.beta.agents.update(first.id, {
    version: 1,
    system: 'two',
    metadata: { dropped: null, added: 'yes' },
  });
  assert.deepEqual([second.version, second.system, second.name], [2, 'two', first.name]);
  assert.deepEqual(second.metadata, { kept: 'yes', added: 'yes' });
  assert.deepEqual(await client.beta.agents.retrieve(first.id), second);
  assert.equal((await client.beta.agents.retrieve(first.id, { version: 1 })).system, 'one');
});

test('an update that changes nothing makes no version', async () => {
  const agent = await makeAgent({ system: 'same' });
  assert.deepEqual(await client.beta.agents.update(agent.id, { system: 'same' }), agent);
});

test('null clears what may be cleared', async () => {
  const agent = await makeAgent({ system: 'gone', description: 'gone' });
  const cleared = await client.beta.agents.update(agent.id, { system: null, description: null, tools: [] });
  assert.deepEqual([cleared.system, cleared.description, cleared.tools], [null, null, []]);
});

test('versions come newest first over pages', async () => {
  const agent = await makeAgent();
  for (const version of [1, 2, 3, 4]) {
    await client.beta.agents.update(agent.id, { version, system: `after ${version}` });
  }
  const page = await client.beta.agents.versions.list(agent.id, { limit: 2 });
  assert.deepEqual(
    page.data.map((found) => found.version),
    [5, 4],
  );
  const versions: number[] = [];
  for await (const found of page) versions.push(found.version);
  assert.deepEqual(versions, [5, 4, 3, 2, 1]);
});

test('agents come newest first over pages and are filtered by the time of creation', async () => {
  const made = [await makeAgent(), await makeAgent(), await makeAgent()];
  const mine = new Set(made.map((agent) => agent.id));
  const listed = async (filters: object) => (await ids(client.beta.agents.list(filters))).filter((id) => mine.has(id));
  const [first, middle] = [made[0]!.created_at, made[1]!.created_at];
  const since = made.filter((agent) => instant(agent.created_at) >= instant(middle)).map((agent) => agent.id);
  const until = made.filter((agent) => instant(agent.created_at) <= instant(middle)).map((agent) => agent.id);
  assert.deepEqual(await listed({ 'created_at[gte]': first, limit: 2 }), [...mine].reverse());
  assert.deepEqual(await listed({ 'created_at[gte]': middle }), since.reverse());
  assert.deepEqual(await listed({ 'created_at[lte]': middle }), until.reverse());
});

test('an archived agent is listed only when asked for', async () => {
  const agent = await makeAgent();
  const archived = await client.beta.agents.archive(agent.id);
  assert.notEqual(archived.archived_at, null);
  const since = { 'created_at[gte]': agent.created_at };
  assert(!(await ids(client.beta.agents.list(since))).includes(agent.id));
  assert((await ids(client.beta.agents.list({ ...since, include_archived: true }))).includes(agent.id));
});

test('an agent may carry custom tools', async () => {
  const tool = {
    type: 'custom' as const,
    name: 'weather',
    description: 'Tells the weather.',
    input_schema: { type: 'object' as const, properties: { city: { type: 'string' } }, required: ['city'] },
  };
  assert.deepEqual((await makeAgent({ tools: [tool] })).tools, [tool]);
});
