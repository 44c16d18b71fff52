/** The organization, its workspaces and API keys, with an administrator's key. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { administrator, client, collect, ids, spare, unique, variable } from './setup.js';

const { workspaces, apiKeys } = administrator.beta.organization;

test('the organization is the one of every response', async () => {
  const { data, response } = await administrator.beta.organization.retrieve().withResponse();
  assert.equal(data.id, response.headers.get('anthropic-organization-id'));
});

test('a workspace is created, changed, listed and archived', async () => {
  const made = await workspaces.create({ name: unique('workspace'), tags: { team: 'night' } });
  assert.deepEqual(await workspaces.retrieve(made.id), made);
  const updated = await workspaces.update(made.id, { display_color: '#00FF7F', tags: { team: null } });
  assert.deepEqual([updated.name, updated.display_color, updated.tags], [made.name, '#00FF7F', {}]);
  assert((await ids(workspaces.list({ limit: 1 }))).includes(made.id));
  assert.deepEqual(await ids(workspaces.list({ ids: [made.id] })), [made.id]);
  assert((await workspaces.archive(made.id)).archived_at);
  assert(!(await ids(workspaces.list())).includes(made.id));
  assert((await ids(workspaces.list({ include_archived: true }))).includes(made.id));
});

test('a key that is switched off is refused until it is switched on', async () => {
  const end = variable('ROTA_SPARE_KEY').slice(-4);
  const key = (await collect(apiKeys.list())).find((key) => key.partial_key_hint?.endsWith(end));
  assert(key);
  assert.deepEqual(await apiKeys.retrieve(key.id), key);
  assert.equal((await apiKeys.update(key.id, { status: 'inactive' })).status, 'inactive');
  await assert.rejects(spare.beta.agents.list(), Anthropic.AuthenticationError);
  await apiKeys.update(key.id, { status: 'active' });
  await spare.beta.agents.list();
});

test('the organization is for administrators', async () => {
  await assert.rejects(client.beta.organization.retrieve(), Anthropic.PermissionDeniedError);
  await assert.rejects(client.beta.organization.workspaces.list(), Anthropic.PermissionDeniedError);
  await assert.rejects(administrator.beta.agents.list(), Anthropic.PermissionDeniedError);
});
