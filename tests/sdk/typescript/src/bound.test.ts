/** What a session binds: files, its resources, memory stores, skills, vaults. Multipart uploads and binary downloads. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import Anthropic, { toFile } from '@anthropic-ai/sdk';
import { bash, client, follow, ids, makeAgent, makeSession, message, outputs, stranger, unique } from './setup.js';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const slug = (kind: string): string => unique(kind).replaceAll(' ', '-');

test('a file is uploaded, described, listed and deleted, in both shapes', async () => {
  const bytes = Buffer.from(Array.from({ length: 70_000 }, (_, n) => n % 256));
  const made = await client.beta.files.upload({ file: await toFile(bytes, 'numbers.bin') });
  assert.match(made.id, /^file_/);
  assert.deepEqual([made.filename, made.size_bytes, made.downloadable], ['numbers.bin', bytes.length, false]);
  assert.deepEqual(await client.beta.files.retrieveMetadata(made.id), made);
  assert((await ids(client.beta.files.list({ limit: 1 }))).includes(made.id));
  const general = await client.files.upload({
    file: await toFile(Buffer.from('text'), 'a.txt', { type: 'text/plain' }),
    expires_in_seconds: 3600,
  });
  assert.notEqual(general.expires_at, null);
  assert.equal((await client.files.retrieveMetadata(general.id)).mime_type, 'text/plain');
  assert((await ids(client.files.list({ ids: [general.id] }))).includes(general.id));
  await assert.rejects(client.files.download(general.id), Anthropic.BadRequestError);
  await assert.rejects(stranger.beta.files.retrieveMetadata(made.id), Anthropic.NotFoundError);
  assert.equal((await client.beta.files.delete(made.id)).type, 'file_deleted');
  assert.equal((await client.files.delete(general.id)).type, 'file_deleted');
  await assert.rejects(client.beta.files.retrieveMetadata(made.id), Anthropic.NotFoundError);
});

test('a session is given files, and what it hands over is downloaded byte by byte', async () => {
  const text = 'Grüße\n'.repeat(1000);
  const file = await client.beta.files.upload({ file: await toFile(Buffer.from(text), 'in.txt') });
  const session = await makeSession({ resources: [{ type: 'file', file_id: file.id, mount_path: '/in.txt' }] });
  const { resources } = client.beta.sessions;
  const added = await resources.add(session.id, { type: 'file', file_id: file.id, mount_path: '/more.txt' });
  assert.equal(added.mount_path, '/mnt/session/uploads/more.txt');
  assert.deepEqual(await resources.retrieve(added.id, { session_id: session.id }), added);
  const listed: string[] = [];
  for await (const resource of resources.list(session.id)) listed.push(resource.type);
  assert.deepEqual(listed, ['file', 'file']);
  await assert.rejects(
    resources.update(added.id, { session_id: session.id, authorization_token: 'x' }),
    Anthropic.BadRequestError,
  );
  assert.equal((await resources.delete(added.id, { session_id: session.id })).type, 'session_resource_deleted');
  const sent = message(bash('cat /mnt/session/uploads/in.txt > /mnt/session/outputs/out.txt'));
  await client.beta.sessions.events.send(session.id, { events: [sent] });
  await follow(session.id);
  // Outputs become files a moment after the rest.
  const deadline = Date.now() + 30_000;
  let output: Anthropic.Beta.BetaFileMetadata | undefined;
  while (output === undefined) {
    assert(Date.now() < deadline, 'the output does not become a file');
    for await (const found of client.beta.files.list({ scope_id: session.id })) {
      if (found.downloadable) output = found;
    }
  }
  const content = await client.beta.files.download(output.id);
  assert.equal(content.headers.get('content-disposition'), "attachment; filename*=utf-8''out.txt");
  assert.equal(Buffer.from(await content.arrayBuffer()).toString(), text);
});

test('a memory store is created, changed, listed, archived and deleted', async () => {
  const stores = client.beta.memoryStores;
  const made = await stores.create({ name: unique('store'), metadata: { kept: 'yes', dropped: 'yes' } });
  assert.deepEqual(await stores.retrieve(made.id), made);
  const updated = await stores.update(made.id, { description: 'd', metadata: { dropped: null } });
  assert.deepEqual([updated.description, updated.metadata], ['d', { kept: 'yes' }]);
  assert((await ids(stores.list({ limit: 1 }))).includes(made.id));
  const archived = await stores.archive(made.id);
  assert.notEqual(archived.archived_at, undefined);
  assert((await ids(stores.list({ include_archived: true }))).includes(made.id));
  await assert.rejects(stores.memories.create(made.id, { path: '/a', content: '' }), Anthropic.BadRequestError);
  assert.equal((await stores.delete(made.id)).type, 'memory_store_deleted');
});

test('memories have versions, preconditions and conflicts', async () => {
  const { memories, memoryVersions: versions } = client.beta.memoryStores;
  const { id: memory_store_id } = await client.beta.memoryStores.create({ name: unique('store') });
  const made = await memories.create(memory_store_id, { path: '/notes/a.md', content: 'one', view: 'full' });
  assert.deepEqual([made.content, made.content_sha256], ['one', sha256('one')]);
  const precondition = { type: 'content_sha256' as const, content_sha256: sha256('one') };
  const updated = await memories.update(made.id, { memory_store_id, content: 'two', precondition });
  assert.equal(updated.content_sha256, sha256('two'));
  await assert.rejects(memories.update(made.id, { memory_store_id, content: 'x', precondition }), Anthropic.ConflictError);
  await assert.rejects(memories.create(memory_store_id, { path: '/notes/a.md', content: '' }), Anthropic.ConflictError);
  assert.equal((await memories.retrieve(made.id, { memory_store_id })).content, 'two');
  const shallow: string[] = [];
  for await (const item of memories.list(memory_store_id, { depth: 1 })) shallow.push(`${item.type} ${item.path}`);
  assert.deepEqual(shallow, ['memory_prefix /notes/']);
  const all = await ids(versions.list(memory_store_id, { memory_id: made.id }));
  assert.deepEqual(all, [updated.memory_version_id, made.memory_version_id]);
  const redacted = await versions.redact(made.memory_version_id, { memory_store_id });
  assert.notEqual(redacted.redacted_at, null);
  assert.equal((await versions.retrieve(made.memory_version_id, { memory_store_id })).content, null);
  const gone = await memories.delete(made.id, { memory_store_id, expected_content_sha256: sha256('two') });
  assert.equal(gone.type, 'memory_deleted');
});

test('a skill is uploaded, versioned, downloaded and used', async () => {
  const name = slug('skill');
  const manifest = (description: string): Buffer => Buffer.from(`---\nname: ${name}\ndescription: ${description}\n---\nHow.\n`);
  const files = async (description: string) => [
    await toFile(manifest(description), `${name}/SKILL.md`),
    await toFile(Buffer.from('echo from the skill\n'), `${name}/say.sh`),
  ];
  const skill = await client.beta.skills.create({ files: await files('First.'), display_name: 'Reports' });
  assert.match(skill.latest_version_id, /^skver_/);
  assert.deepEqual(await client.beta.skills.retrieve(skill.id), skill);
  assert((await ids(client.beta.skills.list({ source: 'custom' }))).includes(skill.id));
  const second = await client.beta.skills.versions.create(skill.id, { files: await files('Second.') });
  assert.deepEqual([second.name, second.description], [name, 'Second.']);
  const latest = await client.beta.skills.versions.retrieve('latest', { skill_id: skill.id });
  assert.equal(latest.id, second.id);
  assert.equal((await ids(client.beta.skills.versions.list(skill.id))).length, 2);
  const content = await client.beta.skills.versions.download(second.id, { skill_id: skill.id });
  assert.equal(content.headers.get('content-type'), 'application/zip');
  assert.equal(Buffer.from(await content.arrayBuffer()).subarray(0, 2).toString(), 'PK');
  const agent = await makeAgent({ skills: [{ type: 'custom', skill_id: skill.id }] });
  const session = await makeSession({ agent: agent.id, initial_events: [message(bash(`sh skills/${name}/say.sh`))] });
  assert.deepEqual(outputs(await follow(session.id)), ['from the skill\n']);
  const first = await client.beta.skills.versions.delete(skill.latest_version_id, { skill_id: skill.id });
  assert.equal(first.type, 'skill_version_deleted');
  assert.equal((await client.beta.skills.delete(skill.id)).type, 'skill_deleted');
});

test('skills outside the beta resource are the same', async () => {
  const name = slug('skill');
  const file = await toFile(Buffer.from(`---\nname: ${name}\ndescription: d\n---\nHow.\n`), `${name}/SKILL.md`);
  const skill = await client.skills.create({ files: [file] });
  assert.deepEqual(await client.skills.retrieve(skill.id), skill);
  assert((await ids(client.skills.list())).includes(skill.id));
  const [version] = await ids(client.skills.versions.list(skill.id));
  assert.equal(version, skill.latest_version_id);
  assert.equal((await client.skills.versions.retrieve(version, { skill_id: skill.id })).name, name);
  assert.equal((await client.skills.delete(skill.id)).type, 'skill_deleted');
});

test('a vault keeps credentials, and shows no secret', async () => {
  const { vaults } = client.beta;
  const vault = await vaults.create({ display_name: unique('vault'), metadata: { team: 'night' } });
  assert.deepEqual(await vaults.retrieve(vault.id), vault);
  assert.equal((await vaults.update(vault.id, { display_name: 'renamed' })).display_name, 'renamed');
  assert((await ids(vaults.list({ limit: 1 }))).includes(vault.id));
  const { credentials } = vaults;
  const mcp_server_url = 'https://nowhere.invalid/mcp';
  const bearer = await credentials.create(vault.id, { auth: { type: 'static_bearer', mcp_server_url, token: 'hush' } });
  assert(!JSON.stringify(bearer).includes('hush'));
  const where = { vault_id: vault.id };
  assert.deepEqual(await credentials.retrieve(bearer.id, where), bearer);
  const auth = { type: 'static_bearer' as const, token: 'hush-hush' };
  assert.equal((await credentials.update(bearer.id, { ...where, auth })).id, bearer.id);
  assert.deepEqual(await ids(credentials.list(vault.id)), [bearer.id]);
  await assert.rejects(
    credentials.create(vault.id, { auth: { type: 'static_bearer', mcp_server_url, token: 't' } }),
    Anthropic.ConflictError,
  );
  await assert.rejects(credentials.mcpOAuthValidate(bearer.id, where), Anthropic.BadRequestError);
  assert.notEqual((await credentials.archive(bearer.id, where)).archived_at, null);
  assert.equal((await credentials.delete(bearer.id, where)).type, 'vault_credential_deleted');
  assert.notEqual((await vaults.archive(vault.id)).archived_at, null);
  assert.equal((await vaults.delete(vault.id)).type, 'vault_deleted');
});
