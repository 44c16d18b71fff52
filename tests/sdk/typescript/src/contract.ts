/**
 * Checks each response against the wire contract. The SDK has types for the compiler only and validates nothing when it
 * runs, so a client that is to be strict brings its own `fetch`.
 */
import { readFileSync } from 'node:fs';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';

const CONTRACTS = new URL('../../../../contract/', import.meta.url);

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

interface Operation {
  method: string;
  path: RegExp;
  schema: string;
}

/** What of the responses so far did not fit; `setup.ts` empties it after each test. */
export const violations: string[] = [];

class Contract {
  readonly #ajv = new Ajv2020({ strict: false, allErrors: true, validateFormats: true });
  readonly #operations: Operation[] = [];

  constructor(readonly name: string) {
    addFormats.default(this.#ajv);
    const document = JSON.parse(readFileSync(new URL(name, CONTRACTS), 'utf8'));
    this.#ajv.addSchema(closed(recorded(document)) as object, name);
    for (const [path, methods] of Object.entries<Record<string, any>>(document.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        for (const media of Object.keys(operation.responses['200'].content ?? {})) {
          const pointer = ['paths', path, method, 'responses', '200', 'content', media, 'schema'];
          this.#operations.push({
            method: method.toUpperCase(),
            path: new RegExp(`^${path.replaceAll(/\{[^}]+\}/g, '[^/]+')}$`),
            schema: `${name}#/${pointer.map(escaped).join('/')}`,
          });
        }
      }
    }
  }

  /** Says what does not fit in the body of a successful response. */
  check(method: string, path: string, body: unknown): void {
    const operation = this.#operations.find((known) => known.method === method && known.path.test(path));
    if (operation === undefined) {
      violations.push(`${this.name} has no ${method} ${path}`);
      return;
    }
    const validate = this.#ajv.getSchema(operation.schema) as ValidateFunction;
    if (!validate(body)) {
      violations.push(`${method} ${path}: ${this.#ajv.errorsText(validate.errors)} in ${JSON.stringify(body)}`);
    }
  }
}

/**
 * The SDK's models keep fields that they do not know, which the contract writes as `additionalProperties: true` beside
 * `properties`. The server sends none, so here that means false.
 */
function closed(value: Json): Json {
  if (Array.isArray(value)) return value.map(closed);
  if (value === null || typeof value !== 'object') return value;
  const copy = Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, closed(inner)]));
  if (copy.additionalProperties === true && 'properties' in copy) copy.additionalProperties = false;
  return copy;
}

/** What the hosted service was recorded to send and the SDK's types do not say. */
function recorded(document: any): Json {
  const answer = (path: string) => document.paths[path]?.get.responses['200'].content['application/json'];
  const poll = answer('/v1/environments/{environment_id}/work/poll');
  if (poll) poll.schema = { anyOf: [poll.schema, { type: 'null' }] };
  const memories = answer('/v1/memory_stores/{memory_store_id}/memories');
  if (memories) memories.schema.properties.prefixes = { type: 'array', maxItems: 0 };
  return withActor(document);
}

function withActor(value: any): Json {
  if (Array.isArray(value)) return value.map(withActor);
  if (value === null || typeof value !== 'object') return value;
  const copy = Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, withActor(inner)])) as any;
  if (copy.properties?.acknowledged_at) copy.properties.actor = { type: 'null' };
  return copy;
}

function escaped(token: string): string {
  return encodeURIComponent(token.replaceAll('~', '~0').replaceAll('/', '~1'));
}

const managedAgents = new Contract('openapi.json');
const general = new Contract('general.json');
const administration = new Contract('administration.json');

/** A `fetch` that notes what does not fit in each JSON response; `checkEvent` does that for the events of a stream. */
export const checkedFetch: typeof fetch = async (input, init) => {
  const response = await fetch(input, init);
  const request = new Request(input, { method: init?.method, headers: init?.headers });
  // Before its first upload the SDK asks for `data:,`, to see what a `fetch` can do.
  if (!request.url.startsWith('http')) return response;
  const where = `${request.method} ${new URL(request.url).pathname}`;
  const media = response.headers.get('content-type') ?? '';
  if (media.startsWith('application/json')) {
    const body = await response.clone().json();
    if (response.ok) {
      contractOf(request).check(request.method, new URL(request.url).pathname, body);
    } else {
      checkError(where, body, response);
    }
  } else if (!media.startsWith('text/event-stream') && !where.endsWith('/content')) {
    violations.push(`${where}: content-type ${media}`);
  }
  if (!response.headers.get('request-id')?.startsWith('req_')) violations.push(`${where}: no request-id`);
  return response;
};

function contractOf(request: Request): Contract {
  if (new URL(request.url).pathname.startsWith('/v1/organizations/')) return administration;
  return isBeta(request) ? managedAgents : general;
}

/** Whether a request asks for the beta shape of an endpoint that has two. */
function isBeta(request: Request): boolean {
  return request.headers.has('anthropic-beta') || new URL(request.url).searchParams.get('beta') === 'true';
}

/** Notes what does not fit in an event of a session's stream. */
export function checkEvent(event: object): void {
  managedAgents.check('GET', '/v1/sessions/any/events/stream', event);
}

/** Says what does not fit in a body that the operation might answer with. */
export function check(method: string, path: string, body: unknown): void {
  managedAgents.check(method, path, body);
}

function checkError(where: string, body: any, response: Response): void {
  const fits =
    body?.type === 'error' &&
    typeof body.error?.type === 'string' &&
    typeof body.error?.message === 'string' &&
    body.request_id === response.headers.get('request-id') &&
    Object.keys(body).length === 3;
  if (!fits) violations.push(`${where}: not an error envelope: ${JSON.stringify(body)}`);
}
