/** User profiles, tunnels and dreams. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import Anthropic from '@anthropic-ai/sdk';
import { client, ids, makeSession, unique } from './setup.js';

const TLS = new URL('../../../../crates/rota/tests/it/tls/', import.meta.url);
const authority = (name: string): string => readFileSync(new URL(`authority_${name}.pem`, TLS), 'utf8');

test('a profile lives in both of its shapes', async () => {
  const name = unique('customer');
  const made = await client.userProfiles.create({ name, external_user_details: { reference_id: 'row 7' } });
  assert.deepEqual([made.access_type, made.enforcement_status], ['application', 'unrestricted']);
  const legacy = await client.beta.userProfiles.retrieve(made.id);
  assert.deepEqual([legacy.external_id, legacy.trust_grants], ['row 7', {}]);
  const updated = await client.userProfiles.update(made.id, { access_type: 'passthrough' });
  assert.deepEqual([updated.access_type, updated.name], ['passthrough', name]);
  assert((await ids(client.userProfiles.list({ order_by: 'name' }))).includes(made.id));
  assert((await ids(client.beta.userProfiles.list())).includes(made.id));
  await assert.rejects(client.beta.userProfiles.createEnrollmentURL(made.id), Anthropic.BadRequestError);
  assert.equal((await client.userProfiles.delete(made.id)).type, 'user_profile_deleted');
  await assert.rejects(client.userProfiles.retrieve(made.id), Anthropic.NotFoundError);
});

test('a tunnel has a token and certificates', async () => {
  const { tunnels } = client.beta;
  const made = await tunnels.create({ display_name: unique('tunnel') });
  const first = await tunnels.revealToken(made.id);
  const second = await tunnels.rotateToken(made.id, { reason: 'a test' });
  assert.notEqual(second.tunnel_token, first.tunnel_token);
  const certificate = await tunnels.certificates.create(made.id, { ca_certificate_pem: authority('one') });
  assert.deepEqual(await tunnels.certificates.retrieve(certificate.id, { tunnel_id: made.id }), certificate);
  assert.deepEqual(await ids(tunnels.certificates.list(made.id)), [certificate.id]);
  await tunnels.certificates.archive(certificate.id, { tunnel_id: made.id });
  assert.deepEqual(await ids(tunnels.certificates.list(made.id)), []);
  assert((await ids(tunnels.list())).includes(made.id));
  assert.deepEqual(await tunnels.archive(made.id), await tunnels.retrieve(made.id));
});

test('a dream writes a memory store', async () => {
  const store = await client.beta.memoryStores.create({ name: unique('store') });
  const session = await makeSession();
  const made = await client.beta.dreams.create({
    model: 'playbook',
    inputs: [
      { type: 'memory_store', memory_store_id: store.id },
      { type: 'sessions', session_ids: [session.id] },
    ],
  });
  let dream = made;
  while (dream.status === 'pending' || dream.status === 'running') {
    await sleep(100);
    dream = await client.beta.dreams.retrieve(made.id);
  }
  assert.deepEqual([dream.status, dream.outputs.length], ['completed', 1]);
  assert((await ids(client.beta.dreams.list({ statuses: ['completed'] }))).includes(made.id));
  await assert.rejects(client.beta.dreams.cancel(made.id), Anthropic.BadRequestError);
  assert.notEqual((await client.beta.dreams.archive(made.id)).archived_at, null);
});
