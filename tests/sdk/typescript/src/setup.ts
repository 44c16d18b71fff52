/** The clients, the objects that most tests start from, and ways to watch a session until it rests. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { afterEach } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { checkEvent, checkedFetch, violations } from './contract.js';

import Beta = Anthropic.Beta;
export type Agent = Beta.BetaManagedAgentsAgent;
export type Environment = Beta.BetaEnvironment;
export type Session = Beta.BetaManagedAgentsSession;
export type Deployment = Beta.BetaManagedAgentsDeployment;
export type Run = Beta.BetaManagedAgentsDeploymentRun;
export type Event = Beta.Sessions.BetaManagedAgentsStreamSessionEvents;
type Sent = Beta.Sessions.BetaManagedAgentsEventParams;
type UserMessage = Beta.Sessions.BetaManagedAgentsUserMessageEventParams;
type EventOf<Type extends Event['type']> = Extract<Event, { type: Type }>;

export const KEY = variable('ROTA_KEY');

export const client = connect({ apiKey: KEY });
/** A client of another workspace. */
export const stranger = connect({ apiKey: variable('ROTA_OTHER_KEY') });

/** A client whose key a test may switch off, if it switches it on again. */
export const spare = connect({ apiKey: variable('ROTA_SPARE_KEY') });
export const administrator = connect({ apiKey: variable('ROTA_ADMIN_KEY') });

afterEach(() => assert.deepEqual(violations.splice(0), []));

export function connect(options: { apiKey?: string; authToken?: string; baseURL?: string }): Anthropic {
  return new Anthropic({
    apiKey: null,
    baseURL: variable('ROTA_BASE_URL'),
    ...options,
    fetch: checkedFetch,
    maxRetries: 0,
    timeout: 30_000,
  });
}

export function variable(name: string): string {
  const value = process.env[name];
  assert(value, `${name} is not set`);
  return value;
}

export function unique(kind: string): string {
  return `${kind} ${randomUUID()}`;
}

export function makeAgent(fields: Partial<Beta.AgentCreateParams> = {}): Promise<Agent> {
  return client.beta.agents.create({
    name: unique('agent'),
    model: 'playbook',
    tools: [{ type: 'agent_toolset_20260401' }],
    ...fields,
  });
}

export function makeEnvironment(fields: Partial<Beta.EnvironmentCreateParams> = {}): Promise<Environment> {
  return client.beta.environments.create({ name: unique('environment'), ...fields });
}

export async function makeSession(fields: Partial<Beta.SessionCreateParams> = {}): Promise<Session> {
  return client.beta.sessions.create({
    agent: fields.agent ?? (await makeAgent()).id,
    environment_id: fields.environment_id ?? (await makeEnvironment()).id,
    ...fields,
  });
}

export async function makeDeployment(fields: Partial<Beta.DeploymentCreateParams> = {}): Promise<Deployment> {
  return client.beta.deployments.create({
    name: unique('deployment'),
    agent: fields.agent ?? (await makeAgent()).id,
    environment_id: fields.environment_id ?? (await makeEnvironment()).id,
    initial_events: [message(bash('echo hello'))],
    ...fields,
  });
}

export function bash(script: string): string {
  return call('bash', script);
}

/** A block that the playbook model turns into a call of this tool. */
export function call(tool: string, body: string): string {
  return `\`\`\`${tool}\n${body}\n\`\`\`\n`;
}

export function message(...blocks: string[]): UserMessage {
  return { type: 'user.message', content: [{ type: 'text', text: blocks.join('\n') }] };
}

function rests(event: Event): boolean {
  return event.type === 'session.status_idle' || event.type === 'session.status_terminated';
}

/**
 * The events of a session that was started elsewhere, up to its rest. The stream holds what comes after it was opened,
 * the history what came before; an event that is in both has one id.
 */
export async function follow(sessionID: string): Promise<Event[]> {
  const stream = await client.beta.sessions.events.stream(sessionID);
  const events = new Map<string, Event>();
  for await (const event of client.beta.sessions.events.list(sessionID)) events.set(event.id, event);
  if ([...events.values()].some(rests)) {
    stream.controller.abort();
  } else {
    for await (const event of untilRest(stream)) events.set('id' in event ? event.id : randomUUID(), event);
  }
  return [...events.values()];
}

/** Sends events to a resting session and returns what it streams until it rests again. */
export async function turn(sessionID: string, ...sent: Sent[]): Promise<Event[]> {
  const stream = await client.beta.sessions.events.stream(sessionID);
  await client.beta.sessions.events.send(sessionID, { events: sent });
  return collect(untilRest(stream));
}

export async function* untilRest(stream: AsyncIterable<Event>): AsyncGenerator<Event> {
  for await (const event of stream) {
    checkEvent(event);
    yield event;
    if (rests(event)) return;
  }
  assert.fail('the stream ended before the session came to rest');
}

export function ofType<Type extends Event['type']>(events: Event[], type: Type): EventOf<Type>[] {
  return events.filter((event): event is EventOf<Type> => event.type === type);
}

export function only<Type extends Event['type']>(events: Event[], type: Type): EventOf<Type> {
  const [found, ...others] = ofType(events, type);
  assert(found && others.length === 0, `not one ${type} in ${events.map((event) => event.type).join(', ')}`);
  return found;
}

/** The text of a message or of a tool's result. */
export function text(event: { content?: object[] | null }): string {
  return (event.content ?? []).map((block) => ('text' in block ? block.text : '')).join('\n');
}

/** What the tools answered, in order. */
export function outputs(events: Event[]): string[] {
  return ofType(events, 'agent.tool_result').map(text);
}

/** Why the session came to rest. */
export function stopReason(events: Event[]): EventOf<'session.status_idle'>['stop_reason'] {
  const last = events.at(-1);
  assert(last?.type === 'session.status_idle');
  return last.stop_reason;
}

export async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const collected: Item[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

/** The ids of all items, over all pages. */
export async function ids(items: AsyncIterable<{ id: string }>): Promise<string[]> {
  return (await collect(items)).map((item) => item.id);
}

/** Microseconds since the epoch; a `Date` would lose three digits. */
export function instant(time: string): bigint {
  const fraction = /\.(\d+)/.exec(time)?.[1] ?? '';
  const seconds = BigInt(Date.parse(time.replace(/\.\d+/, ''))) / 1000n;
  return seconds * 1_000_000n + BigInt(fraction.padEnd(6, '0').slice(0, 6));
}
