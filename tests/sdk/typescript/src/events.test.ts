/** Sending, streaming and listing a session's events. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import {
  bash,
  call,
  client,
  collect,
  follow,
  ids,
  instant,
  makeAgent,
  makeSession,
  message,
  ofType,
  only,
  outputs,
  stopReason,
  text,
  turn,
  untilRest,
  type Event,
} from './setup.js';

async function askingSession(): Promise<string> {
  const agent = await makeAgent({
    tools: [
      {
        type: 'agent_toolset_20260401',
        default_config: { enabled: true, permission_policy: { type: 'always_ask' } },
      },
    ],
  });
  return (await makeSession({ agent: agent.id })).id;
}

test('a message is answered until the session rests', async () => {
  const { id } = await makeSession();
  const events = await turn(id, message(bash('echo one $((20 + 22))')));
  assert.deepEqual(
    events.map((event) => event.type),
    [
      'session.status_running',
      'session.thread_status_running',
      'user.message',
      'span.model_request_start',
      'agent.tool_use',
      'span.model_request_end',
      'agent.tool_result',
      'span.model_request_start',
      'agent.message',
      'span.model_request_end',
      'session.thread_status_idle',
      'session.usage',
      'session.status_idle',
    ],
  );
  assert.equal(stopReason(events).type, 'end_turn');
  const use = only(events, 'agent.tool_use');
  assert.deepEqual([use.name, use.evaluated_permission], ['bash', 'allow']);
  assert.equal(only(events, 'agent.tool_result').tool_use_id, use.id);
  assert.match(outputs(events)[0]!, /one 42/);
  assert.deepEqual(
    ofType(events, 'span.model_request_end').map((end) => end.model_request_start_id),
    ofType(events, 'span.model_request_start').map((start) => start.id),
  );
  assert.equal((await client.beta.sessions.retrieve(id)).status, 'idle');
});

test('files outlast a turn', async () => {
  const { id } = await makeSession();
  await turn(id, message(call('write', '{"file_path": "/workspace/note.txt", "content": "noted\\n"}')));
  assert.match(outputs(await turn(id, message(bash('cat /workspace/note.txt'))))[0]!, /noted/);
});

test('the history holds what was streamed, paged, ordered and filtered', async () => {
  const { id } = await makeSession();
  const streamed = await turn(id, message(bash('echo once')));
  const stored = await collect(client.beta.sessions.events.list(id));
  const expected = stored.map((event) => event.id);
  assert.deepEqual(expected, [...new Set(streamed.map((event) => ('id' in event ? event.id : '')))]);
  assert.deepEqual(await ids(client.beta.sessions.events.list(id, { limit: 2 })), expected);
  assert.deepEqual(
    await ids(client.beta.sessions.events.list(id, { limit: 2, order: 'desc' })),
    [...expected].reverse(),
  );
  const tools = await collect(client.beta.sessions.events.list(id, { types: ['agent.tool_use', 'agent.tool_result'] }));
  assert.deepEqual(
    tools.map((event) => event.type),
    ['agent.tool_use', 'agent.tool_result'],
  );
  const middle = stored[Math.floor(stored.length / 2)]!.processed_at!;
  const after = stored.filter((event) => instant(event.processed_at!) > instant(middle));
  assert.deepEqual(
    await ids(client.beta.sessions.events.list(id, { 'created_at[gt]': middle })),
    after.map((event) => event.id),
  );
});

test('deltas build the message that follows', async () => {
  const { id } = await makeSession();
  const stream = await client.beta.sessions.events.stream(id, { event_deltas: ['agent.message'] });
  await client.beta.sessions.events.send(id, { events: [message(bash('echo once'))] });
  const events = await collect(untilRest(stream));
  const started = ofType(events, 'event_start').map((start) => start.event.id);
  assert(started.length > 0 && new Set(started).size === started.length);
  for (const said of ofType(events, 'agent.message')) {
    const parts = ofType(events, 'event_delta').filter((delta) => delta.event_id === said.id);
    assert(text(said).startsWith(parts.map((part) => part.delta.content.text).join('')));
  }
});

test('sent events come back stored', async () => {
  const { id } = await makeSession();
  const sent = await client.beta.sessions.events.send(id, { events: [message('No block in here.')] });
  assert.deepEqual(
    sent.data?.map((event) => event.type),
    ['user.message'],
  );
  assert(!('processed_at' in sent.data![0]!));
  const events = await follow(id);
  assert(events.some((event) => 'id' in event && event.id === sent.data?.[0]?.id));
});

test("a custom tool waits for the caller's result", async () => {
  const agent = await makeAgent({
    tools: [
      {
        type: 'custom',
        name: 'weather',
        description: 'Tells the weather.',
        input_schema: { type: 'object', properties: { city: { type: 'string' } } },
      },
    ],
  });
  const { id } = await makeSession({ agent: agent.id });
  const waiting = await turn(id, message(call('weather', '{"city": "Oslo"}')));
  const use = only(waiting, 'agent.custom_tool_use');
  assert.deepEqual([use.name, use.input], ['weather', { city: 'Oslo' }]);
  assert.deepEqual(stopReason(waiting), { type: 'requires_action', event_ids: [use.id] });
  const events = await turn(id, {
    type: 'user.custom_tool_result',
    custom_tool_use_id: use.id,
    content: [{ type: 'text', text: 'seven degrees' }],
  });
  assert.match(ofType(events, 'agent.message').map(text).join(''), /seven degrees/);
  assert.equal(stopReason(events).type, 'end_turn');
});

test('an allowed tool runs', async () => {
  const id = await askingSession();
  const waiting = await turn(id, message(bash('echo allowed')));
  const use = only(waiting, 'agent.tool_use');
  assert.equal(use.evaluated_permission, 'ask');
  assert.deepEqual(stopReason(waiting), { type: 'requires_action', event_ids: [use.id] });
  const events = await turn(id, { type: 'user.tool_confirmation', tool_use_id: use.id, result: 'allow' });
  assert.match(outputs(events)[0]!, /allowed/);
  assert.equal(stopReason(events).type, 'end_turn');
});

test('a denied tool does not run', async () => {
  const id = await askingSession();
  const use = only(await turn(id, message(bash('echo $((40 + 2))'))), 'agent.tool_use');
  const events = await turn(id, {
    type: 'user.tool_confirmation',
    tool_use_id: use.id,
    result: 'deny',
    deny_message: 'not on a Sunday',
  });
  const result = only(events, 'agent.tool_result');
  assert.deepEqual([result.tool_use_id, result.is_error], [use.id, true]);
  assert.deepEqual(outputs(events), ['Permission to use bash has been rejected. Rejection message: not on a Sunday']);
  assert.equal(stopReason(events).type, 'end_turn');
});

test('a waiting session takes no message', async () => {
  const id = await askingSession();
  const use = only(await turn(id, message(bash('true'))), 'agent.tool_use');
  await assert.rejects(client.beta.sessions.events.send(id, { events: [message('and now?')] }), (failure) => {
    assert(failure instanceof Anthropic.BadRequestError);
    assert.match(failure.message, /waiting on responses to events/);
    assert.match(failure.message, new RegExp(use.id));
    return true;
  });
});

test('an interrupt ends the turn', async () => {
  const { id } = await makeSession();
  const stream = await client.beta.sessions.events.stream(id);
  await client.beta.sessions.events.send(id, { events: [message(bash('sleep 600'))] });
  const events: Event[] = [];
  for await (const event of untilRest(stream)) {
    events.push(event);
    if (event.type === 'agent.tool_use') {
      await client.beta.sessions.events.send(id, { events: [{ type: 'user.interrupt' }] });
    }
  }
  assert.equal(only(events, 'agent.tool_result').is_error, true);
  assert.deepEqual(outputs(events), ['Tool execution was interrupted before completion. Please retry.']);
  assert.deepEqual(
    events.slice(-5).map((event) => event.type),
    ['agent.tool_result', 'user.interrupt', 'session.thread_status_idle', 'session.usage', 'session.status_idle'],
  );
  assert.equal(stopReason(events).type, 'end_turn');
  assert.match(outputs(await turn(id, message(bash('echo still here'))))[0]!, /still here/);
});
