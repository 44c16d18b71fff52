// AG-UI's integration of managed agents for TypeScript: a thread of a user interface is a session, and a run is a turn of it.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';

import { ManagedAgentsAgent } from '@ag-ui/claude-managed-agents';
import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.env.ROTA_BASE_URL, apiKey: process.env.ROTA_KEY });
const parameters = { type: 'object', properties: { place: { type: 'string' } }, required: ['place'] };

test('tools of the agent, of the interface and of its server', async () => {
  const toolset = { type: 'agent_toolset_20260401' };
  const agent = await client.beta.agents.create({ name: `agent ${randomUUID()}`, model: 'playbook', tools: [toolset] });
  const environment = await client.beta.environments.create({ name: `environment ${randomUUID()}` });
  const handler = async ({ place }) => `sunny in ${place}`;
  const agUi = new ManagedAgentsAgent({
    managedAgentId: agent.id,
    environmentId: environment.id,
    client,
    backendTools: [{ name: 'weather', description: 'Tells the weather.', parameters, handler }],
  });
  const threadId = randomUUID();
  const messages = [];
  const run = (message, tools) => {
    messages.push({ id: randomUUID(), ...message });
    const input = { threadId, runId: randomUUID(), messages, tools, state: {}, context: [], forwardedProps: {} };
    return new Promise((resolve, reject) => {
      const seen = [];
      agUi.run(input).subscribe({ next: (event) => seen.push(event), complete: () => resolve(seen), error: reject });
    });
  };
  const results = (events) => events.filter(({ type }) => type === 'TOOL_CALL_RESULT').map(({ content }) => content);

  const first = await run({ role: 'user', content: '```bash\necho hello\n```\n```weather\n{"place": "Oslo"}\n```\n' }, []);
  assert.equal(first.at(-1).type, 'RUN_FINISHED');
  assert.deepEqual(results(first).map((text) => text.trim()), ['hello', 'sunny in Oslo']);

  const tools = [{ name: 'ask', description: 'Asks a person.', parameters }];
  const asked = await run({ role: 'user', content: '```ask\n{"place": "Oslo"}\n```\n' }, tools);
  assert.equal(asked.at(-1).type, 'RUN_FINISHED');
  const { toolCallId } = asked.find(({ type }) => type === 'TOOL_CALL_START');
  const answered = await run({ role: 'tool', content: 'go there', toolCallId }, tools);
  assert.equal(answered.at(-1).type, 'RUN_FINISHED');
  const said = answered.filter(({ type }) => type === 'TEXT_MESSAGE_CONTENT').map(({ delta }) => delta);
  assert.match(said.join(''), /go there/);
});
