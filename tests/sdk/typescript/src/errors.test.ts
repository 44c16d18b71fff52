/** Each class of error, with its type and wording, and what a caller may not see. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic, { type APIError } from '@anthropic-ai/sdk';
import {
  KEY,
  client,
  connect,
  follow,
  ids,
  makeAgent,
  makeDeployment,
  makeEnvironment,
  message,
  stranger,
  unique,
  variable,
} from './setup.js';

const BODY_LIMIT_BYTES = 32 * 1024 * 1024;
const MANAGED_AGENTS = { 'anthropic-beta': 'managed-agents-2026-04-01' };

type Failure = APIError<number, Headers>;

/** Expects an error of the SDK's class for the status, and returns it. */
async function failure(
  call: Promise<unknown>,
  expected: abstract new (...parts: any[]) => Failure,
  type: string,
): Promise<Failure> {
  try {
    await call;
  } catch (error) {
    assert(error instanceof expected, `${error}`);
    assert.equal(error.type, type);
    assert(error.apiMessage);
    assert.match(error.requestID!, /^req_/);
    assert(error.headers.get('anthropic-organization-id'));
    return error;
  }
  assert.fail(`no ${type}`);
}

test('a wrong key is 401', async () => {
  await failure(
    connect({ apiKey: 'nonsense' }).beta.agents.list(),
    Anthropic.AuthenticationError,
    'authentication_error',
  );
});

test('a key may come as a bearer token', async () => {
  await connect({ authToken: KEY }).beta.agents.list();
  await failure(
    connect({ authToken: 'nonsense' }).beta.agents.list(),
    Anthropic.AuthenticationError,
    'authentication_error',
  );
});

test('a body that does not fit is 400 and names the place', async () => {
  const good = {
    name: unique('deployment'),
    agent: (await makeAgent()).id,
    environment_id: (await makeEnvironment()).id,
    initial_events: [message('Good morning.')],
  };
  const cron = { type: 'cron', expression: '0 3 * * *', timezone: 'UTC' };
  const cases: Array<[object, string]> = [
    [{ colour: 'red' }, 'Failed to parse request body: unknown field "colour"'],
    [{ schedule: { ...cron, every: 5 } }, 'Failed to parse request body: unknown field "every"'],
    [{ schedule: { type: 'interval' } }, 'schedule.type: "interval" is not a valid value'],
    [{ schedule: { ...cron, expression: '@daily' } }, 'predefined shortcuts'],
    [{ schedule: { ...cron, timezone: 'Mars/Phobos' } }, '"Mars/Phobos" is not a valid IANA timezone'],
    [{ initial_events: [{ type: 'user.interrupt' }] }, 'initial_events[0].type: "user.interrupt" is not a valid value'],
    [{ initial_events: [] }, 'value must contain at least 1 item'],
    [{ initial_events: undefined }, 'initial_events: Field required'],
    [{ name: 7 }, 'name'],
  ];
  for (const [change, wording] of cases) {
    const call = client.post('/v1/deployments', { body: { ...good, ...change }, headers: MANAGED_AGENTS });
    const { apiMessage } = await failure(call, Anthropic.BadRequestError, 'invalid_request_error');
    assert(apiMessage!.includes(wording), `${apiMessage} has no ${wording}`);
  }
});

test('a cursor that was never given out is 400', async () => {
  const { agents, environments, sessions, deployments, deploymentRuns } = client.beta;
  for (const resource of [agents, environments, sessions, deployments, deploymentRuns]) {
    await failure(resource.list({ page: 'page_nonsense' }), Anthropic.BadRequestError, 'invalid_request_error');
  }
});

test('a request without the beta header is 404', async () => {
  await failure(client.get('/v1/agents'), Anthropic.NotFoundError, 'not_found_error');
});

test('a beta that is no name is 400 and named', async () => {
  const call = client.beta.agents.list({ betas: ['nonsense'] });
  const { apiMessage } = await failure(call, Anthropic.BadRequestError, 'invalid_request_error');
  assert.match(apiMessage!, /Unexpected value\(s\).*`nonsense`/);
});

test('a stale version is 409', async () => {
  const { id } = await makeAgent();
  await client.beta.agents.update(id, { version: 1, system: 'two' });
  const call = client.beta.agents.update(id, { version: 1, system: 'three' });
  const { apiMessage } = await failure(call, Anthropic.ConflictError, 'invalid_request_error');
  assert.equal(apiMessage, 'Concurrent modification detected. Please fetch the latest version and retry.');
});

test('a workspace that is not the key\'s is 404, and one that is no id 400', async () => {
  const missing = client.beta.agents.list({ workspace_id: 'wrkspc_' + '1'.repeat(22) });
  await failure(missing, Anthropic.NotFoundError, 'not_found_error');
  const malformed = client.beta.agents.list({ workspace_id: 'default' });
  await failure(malformed, Anthropic.BadRequestError, 'invalid_request_error');
});

test('a session over the rate is 429 and a run is recorded as failed', async () => {
  const { beta } = connect({ apiKey: variable('ROTA_LIMITED_KEY'), baseURL: variable('ROTA_LIMITED_BASE_URL') });
  const agent = (await beta.agents.create({ name: unique('agent'), model: 'playbook' })).id;
  const environment_id = (await beta.environments.create({ name: unique('environment') })).id;
  const deployment = await beta.deployments.create({
    name: unique('deployment'),
    agent,
    environment_id,
    initial_events: [message('Good morning.')],
  });
  assert((await beta.deployments.run(deployment.id)).session_id);
  const call = beta.sessions.create({ agent, environment_id });
  const { headers } = await failure(call, Anthropic.RateLimitError, 'rate_limit_error');
  assert(Number(headers.get('retry-after')) > 0);
  const run = await beta.deployments.run(deployment.id);
  assert.deepEqual([run.session_id, run.error?.type], [null, 'session_rate_limited_error']);
});

test('a body over the limit is 413', async () => {
  const call = makeAgent({ system: 'x'.repeat(BODY_LIMIT_BYTES) });
  await failure(call, Anthropic.ContentTooLargeError, 'request_too_large');
});

test('another workspace sees nothing', async () => {
  const agent = await makeAgent();
  const environment = await makeEnvironment();
  const deployment = await makeDeployment({ agent: agent.id, environment_id: environment.id });
  const run = await client.beta.deployments.run(deployment.id);
  const session = run.session_id!;
  await follow(session);
  const { agents, environments, sessions, deployments, deploymentRuns } = stranger.beta;
  const calls = [
    () => agents.retrieve(agent.id),
    () => agents.update(agent.id, { name: 'theirs' }),
    () => agents.versions.list(agent.id),
    () => agents.archive(agent.id),
    () => environments.retrieve(environment.id),
    () => environments.update(environment.id, { name: 'theirs' }),
    () => environments.archive(environment.id),
    () => environments.delete(environment.id),
    () => sessions.retrieve(session),
    () => sessions.update(session, { title: 'theirs' }),
    () => sessions.archive(session),
    () => sessions.delete(session),
    () => sessions.events.list(session),
    () => sessions.events.send(session, { events: [message('theirs')] }),
    () => sessions.events.stream(session),
    () => deployments.retrieve(deployment.id),
    () => deployments.update(deployment.id, { name: 'theirs' }),
    () => deployments.pause(deployment.id),
    () => deployments.unpause(deployment.id),
    () => deployments.run(deployment.id),
    () => deployments.archive(deployment.id),
    () => deploymentRuns.retrieve(run.id),
  ];
  for (const call of calls) await failure(call(), Anthropic.NotFoundError, 'not_found_error');
  for (const resource of [agents, environments, sessions, deployments, deploymentRuns]) {
    const seen = await ids(resource.list() as AsyncIterable<{ id: string }>);
    for (const id of [agent.id, environment.id, session, deployment.id, run.id]) assert(!seen.includes(id));
  }
  assert.deepEqual(await client.beta.deployments.retrieve(deployment.id), deployment);
});
