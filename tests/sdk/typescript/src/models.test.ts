/** Models, with the managed agents header and without it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { client, ids } from './setup.js';

const betas = ['managed-agents-2026-04-01'];

test('the playbook is offered with the header', async () => {
  assert((await ids(client.beta.models.list({ betas }))).includes('playbook'));
  const model = await client.beta.models.retrieve('playbook', { betas });
  assert.deepEqual([model.id, model.type, model.lifecycle], ['playbook', 'model', 'active']);
});

test('the playbook is offered without the header', async () => {
  for (const models of [client.models, client.beta.models]) {
    assert((await ids(models.list())).includes('playbook'));
    assert.equal((await models.retrieve('playbook')).id, 'playbook');
  }
});

test('pages of models hold what one page holds', async () => {
  assert.deepEqual(await ids(client.models.list({ limit: 1 })), await ids(client.models.list({ limit: 1000 })));
});

test('an unknown model is not found', async () => {
  await assert.rejects(client.models.retrieve('no-such-model'), Anthropic.NotFoundError);
});
