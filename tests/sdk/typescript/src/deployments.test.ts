/** Deployments: all of their operations, and the record of their runs. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { check } from './contract.js';
import {
  bash,
  client,
  follow,
  ids,
  instant,
  makeAgent,
  makeDeployment,
  makeEnvironment,
  message,
  outputs,
  unique,
  type Run,
} from './setup.js';

const NIGHTLY = { type: 'cron' as const, expression: '0 3 * * *', timezone: 'Europe/Oslo' };

test('the documented run fits the contract', () => {
  const example = new URL('../../fixtures/deployment_run.json', import.meta.url);
  check('POST', '/v1/deployments/any/run', JSON.parse(readFileSync(example, 'utf8')));
});

test('a deployment comes back as it was created', async () => {
  const agent = await makeAgent();
  const environment = await makeEnvironment();
  const name = unique('deployment');
  const deployment = await client.beta.deployments.create({
    name,
    agent: agent.id,
    environment_id: environment.id,
    initial_events: [message('Good morning.')],
    description: 'every night',
    schedule: NIGHTLY,
    metadata: { team: 'night' },
  });
  assert.match(deployment.id, /^depl_/);
  assert.deepEqual([deployment.name, deployment.description], [name, 'every night']);
  assert.deepEqual(deployment.agent, { type: 'agent', id: agent.id, version: 1 });
  assert.equal(deployment.environment_id, environment.id);
  assert.deepEqual(deployment.initial_events, [message('Good morning.')]);
  assert.deepEqual(deployment.metadata, { team: 'night' });
  assert.deepEqual([deployment.resources, deployment.vault_ids], [[], []]);
  assert.deepEqual([deployment.status, deployment.paused_reason, deployment.archived_at], ['active', null, null]);
  assert.equal(deployment.schedule?.upcoming_runs_at?.length, 5);
  assert.equal(deployment.schedule?.last_run_at, null);
  assert.deepEqual(await client.beta.deployments.retrieve(deployment.id), deployment);
});

test('a deployment pins the latest version or the one it names', async () => {
  const { id } = await makeAgent();
  await client.beta.agents.update(id, { system: 'two' });
  const latest = await makeDeployment({ agent: id });
  const named = await makeDeployment({ agent: { type: 'agent', id, version: 1 } });
  await client.beta.agents.update(id, { system: 'three' });
  assert.equal((await client.beta.deployments.retrieve(latest.id)).agent.version, 2);
  assert.equal((await client.beta.deployments.retrieve(named.id)).agent.version, 1);
});

test('an update changes what it names', async () => {
  const deployment = await makeDeployment({
    schedule: NIGHTLY,
    description: 'old',
    metadata: { kept: 'yes', dropped: 'yes' },
  });
  const updated = await client.beta.deployments.update(deployment.id, {
    description: null,
    schedule: null,
    metadata: { dropped: null },
  });
  assert.deepEqual([updated.name, updated.description, updated.schedule], [deployment.name, null, null]);
  assert.deepEqual(updated.metadata, { kept: 'yes' });
  assert.deepEqual(updated.initial_events, deployment.initial_events);
});

test('a paused deployment runs by hand until it goes on', async () => {
  const { id } = await makeDeployment({ schedule: NIGHTLY });
  const paused = await client.beta.deployments.pause(id);
  assert.deepEqual([paused.status, paused.paused_reason], ['paused', { type: 'manual' }]);
  assert.equal(paused.schedule?.upcoming_runs_at?.length, 5);
  assert.deepEqual(await client.beta.deployments.pause(id), paused);
  assert.notEqual((await client.beta.deployments.run(id)).session_id, null);
  assert.deepEqual(await client.beta.deployments.retrieve(id), paused);
  const active = await client.beta.deployments.unpause(id);
  assert.deepEqual([active.status, active.paused_reason], ['active', null]);
});

test('an archived deployment is read and not changed', async () => {
  const { id } = await makeDeployment({ schedule: NIGHTLY });
  const archived = await client.beta.deployments.archive(id);
  assert.notEqual(archived.archived_at, null);
  assert.deepEqual([archived.status, archived.schedule?.upcoming_runs_at], ['active', []]);
  const changes = [
    () => client.beta.deployments.update(id, { name: 'renamed' }),
    () => client.beta.deployments.pause(id),
    () => client.beta.deployments.unpause(id),
    () => client.beta.deployments.run(id),
  ];
  for (const change of changes) {
    await assert.rejects(change(), (failure) => {
      assert(failure instanceof Anthropic.BadRequestError);
      assert.match(failure.message, /Cannot modify archived deployment/);
      return true;
    });
  }
  assert.deepEqual(await ids(client.beta.deploymentRuns.list({ deployment_id: id })), []);
});

test('deployments come newest first over pages and are filtered', async () => {
  const agent = (await makeAgent()).id;
  const active = await makeDeployment({ agent });
  const paused = await makeDeployment({ agent });
  const archived = await makeDeployment({ agent });
  await client.beta.deployments.pause(paused.id);
  await client.beta.deployments.archive(archived.id);
  const listed = (filters: object) => ids(client.beta.deployments.list({ agent_id: agent, ...filters }));
  assert.deepEqual(await listed({ limit: 1 }), [paused.id, active.id]);
  assert.deepEqual(await listed({ status: 'active' }), [active.id]);
  assert.deepEqual(await listed({ status: 'paused' }), [paused.id]);
  assert.deepEqual(await listed({ include_archived: true, limit: 2 }), [archived.id, paused.id, active.id]);
  const since = [archived, paused, active].filter((d) => instant(d.created_at) >= instant(paused.created_at));
  assert.deepEqual(
    await listed({ include_archived: true, 'created_at[gte]': paused.created_at }),
    since.map((deployment) => deployment.id),
  );
});

test('a run starts a session that works and rests', async () => {
  const deployment = await makeDeployment({ initial_events: [message(bash('echo run number $((40 + 2))'))] });
  const run = await client.beta.deployments.run(deployment.id);
  assert.match(run.id, /^drun_/);
  assert.deepEqual([run.deployment_id, run.error, run.trigger_context], [deployment.id, null, { type: 'manual' }]);
  assert.deepEqual(run.agent, deployment.agent);
  assert.match(outputs(await follow(run.session_id!))[0]!, /run number 42/);
  const session = await client.beta.sessions.retrieve(run.session_id!);
  assert.deepEqual([session.status, session.title, session.deployment_id], ['idle', deployment.name, deployment.id]);
  assert.deepEqual(await client.beta.deploymentRuns.retrieve(run.id), run);
  assert.deepEqual(await ids(client.beta.sessions.list({ deployment_id: deployment.id })), [run.session_id]);
});

test('one idempotency key makes one run', async () => {
  const { id } = await makeDeployment();
  const options = { headers: { 'Idempotency-Key': unique('key') } };
  const first = await client.beta.deployments.run(id, {}, options);
  assert.deepEqual(await client.beta.deployments.run(id, {}, options), first);
  assert.equal((await ids(client.beta.deploymentRuns.list({ deployment_id: id }))).length, 1);
});

test('runs come newest first over pages', async () => {
  const { id } = await makeDeployment();
  const made: string[] = [];
  for (let count = 0; count < 5; count += 1) made.push((await client.beta.deployments.run(id)).id);
  const page = await client.beta.deploymentRuns.list({ deployment_id: id, limit: 2 });
  assert.equal(page.data.length, 2);
  assert.deepEqual(await ids(page), made.reverse());
});

test('a run without its environment is recorded as failed, and runs are filtered', async () => {
  const environment = await makeEnvironment();
  const { id } = await makeDeployment({ environment_id: environment.id });
  const good = await client.beta.deployments.run(id);
  await client.beta.environments.archive(environment.id);
  const { data: failed, response } = await client.beta.deployments.run(id).withResponse();
  assert.equal(response.status, 200);
  assert.deepEqual([failed.session_id, failed.error?.type], [null, 'environment_archived_error']);
  assert(failed.error?.message);
  assert.deepEqual(await client.beta.deploymentRuns.retrieve(failed.id), failed);
  const listed = (filters: object) => ids(client.beta.deploymentRuns.list({ deployment_id: id, ...filters }));
  assert.deepEqual(await listed({ has_error: true }), [failed.id]);
  assert.deepEqual(await listed({ has_error: false }), [good.id]);
  assert.deepEqual(await listed({ trigger_type: 'manual' }), [failed.id, good.id]);
  assert.deepEqual(await listed({ trigger_type: 'schedule' }), []);
  const after = (run: Run) => instant(run.created_at) > instant(good.created_at);
  assert.deepEqual(
    await listed({ 'created_at[gt]': good.created_at }),
    [failed, good].filter(after).map((run) => run.id),
  );
});
