/** Environments. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { client, ids, makeEnvironment, unique } from './setup.js';

const LIMITED = {
  type: 'limited' as const,
  allowed_hosts: ['example.org'],
  allow_mcp_servers: false,
  allow_package_managers: true,
};

test('a cloud environment comes back as it was created', async () => {
  const name = unique('environment');
  const environment = await client.beta.environments.create({
    name,
    description: 'limited',
    config: { type: 'cloud', networking: LIMITED, packages: { type: 'packages', pip: ['tomli'] } },
    metadata: { team: 'night' },
  });
  assert.match(environment.id, /^env_/);
  assert.deepEqual([environment.name, environment.description], [name, 'limited']);
  assert.deepEqual(environment.metadata, { team: 'night' });
  assert(environment.config.type === 'cloud');
  assert.deepEqual(environment.config.networking, LIMITED);
  assert.deepEqual([environment.config.packages.pip, environment.config.packages.apt], [['tomli'], []]);
  assert.deepEqual(await client.beta.environments.retrieve(environment.id), environment);
});

test('an environment is a cloud with an unrestricted network by default', async () => {
  const environment = await makeEnvironment();
  assert.equal(environment.description, null);
  assert(environment.config.type === 'cloud');
  assert.equal(environment.config.networking.type, 'unrestricted');
});

test('an environment may be self-hosted', async () => {
  assert.equal((await makeEnvironment({ config: { type: 'self_hosted' } })).config.type, 'self_hosted');
});

test('an update changes what it names', async () => {
  const environment = await makeEnvironment({ description: 'kept', metadata: { kept: 'yes', dropped: 'yes' } });
  const name = unique('renamed');
  const updated = await client.beta.environments.update(environment.id, {
    name,
    metadata: { dropped: null },
    config: { type: 'cloud', networking: LIMITED },
  });
  assert.deepEqual([updated.name, updated.description, updated.metadata], [name, 'kept', { kept: 'yes' }]);
  assert(updated.config.type === 'cloud');
  assert.equal(updated.config.networking.type, 'limited');
});

test('environments come over pages', async () => {
  const made: string[] = [];
  for (let count = 0; count < 5; count += 1) made.push((await makeEnvironment()).id);
  const listed = await ids(client.beta.environments.list({ limit: 2 }));
  assert.deepEqual(
    listed.filter((id) => made.includes(id)),
    made.reverse(),
  );
  assert.equal(new Set(listed).size, listed.length);
});

test('an archived environment is listed only when asked for', async () => {
  const { id } = await makeEnvironment();
  assert.notEqual((await client.beta.environments.archive(id)).archived_at, null);
  assert(!(await ids(client.beta.environments.list())).includes(id));
  assert((await ids(client.beta.environments.list({ include_archived: true }))).includes(id));
});

test('a deleted environment is gone', async () => {
  const { id } = await makeEnvironment();
  assert.deepEqual(await client.beta.environments.delete(id), { id, type: 'environment_deleted' });
  await assert.rejects(client.beta.environments.retrieve(id), Anthropic.NotFoundError);
});

test('two environments may not have one name', async () => {
  const { name } = await makeEnvironment();
  await assert.rejects(client.beta.environments.create({ name }), (failure) => {
    assert(failure instanceof Anthropic.ConflictError);
    assert.equal(failure.type, 'invalid_request_error');
    assert.equal(failure.headers.get('x-should-retry'), 'false');
    return true;
  });
});
