/** The calls of the SDK's own example programs in their order: send, then open the stream, and read until the session rests. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bash, client, collect, makeAgent, makeEnvironment, message, ofType, stopReason, text, untilRest } from './setup.js';

const TIMES = 10;

for (const model of ['playbook', 'claude-haiku-4-5']) {
  test(`the first program reads the answer of ${model} and ends`, { timeout: 120_000 }, async () => {
    const agent = await makeAgent({ model });
    for (let time = 0; time < TIMES; time += 1) {
      const environment = await makeEnvironment();
      const session = await client.beta.sessions.create({
        environment_id: environment.id,
        agent: { type: 'agent', id: agent.id, version: agent.version },
      });
      await client.beta.sessions.events.send(session.id, { events: [message(bash('echo hello'))] });
      const seen = await collect(untilRest(await client.beta.sessions.events.stream(session.id)));
      assert.equal(stopReason(seen).type, 'end_turn');
      assert(ofType(seen, 'agent.message').some((said) => text(said) !== ''), 'no answer');
    }
  });
}
