// What of a body is against the contract, while somebody writes it. The server has the last word.

import schemas from "./schemas.json";

interface Schema {
  type?: string;
  ref?: string;
  const?: unknown;
  enum?: unknown[];
  any?: Schema[];
  fields?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  /** What fields without a name of their own are. */
  others?: Schema;
}

export type SchemaName = keyof typeof schemas.bodies;

export interface Fault {
  /** Where it is: `tools[0].configs[1].name`. */
  path: string;
  message: string;
}

/** More are not listed. */
const MOST = 8;
const BODIES = schemas.bodies as Record<SchemaName, Schema>;
const TYPES = schemas.types as Record<string, Schema>;

export function faultsOf(name: SchemaName, body: unknown): Fault[] {
  const faults: Fault[] = [];
  look(BODIES[name], body, "", faults);
  return faults.slice(0, MOST);
}

const resolved = (schema: Schema): Schema => (schema.ref ? TYPES[schema.ref]! : schema);
/** The kinds of value that a schema takes, each by itself. */
const kindsOf = (schema: Schema): Schema[] => {
  const one = resolved(schema);
  return one.any ? one.any.flatMap(kindsOf) : [one];
};

function typeOf(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return typeof value;
}

const KINDS: Record<string, string> = { array: "a list", object: "an object", string: "a text", number: "a number", integer: "a whole number", boolean: "true or false", null: "null" };
const shown = (values: unknown[]) => [...new Set(values)].map((value) => JSON.stringify(value)).join(", ");
const valuesOf = (kind: Schema): unknown[] => ("const" in kind ? [kind.const] : (kind.enum ?? []));

function hasType(kind: Schema, value: unknown): boolean {
  if ("const" in kind || kind.enum) return valuesOf(kind).some((one) => typeOf(one) === typeOf(value));
  if (kind.type === "integer" || kind.type === "number") return typeof value === "number";
  return kind.type === undefined || kind.type === typeOf(value);
}

function look(schema: Schema, value: unknown, path: string, faults: Fault[]) {
  if (faults.length >= MOST || value === undefined) return;
  const say = (message: string, at = path) => void faults.push({ path: at, message });
  const kinds = kindsOf(schema);
  const fit = kinds.filter((kind) => hasType(kind, value));
  if (!fit.length) {
    const named = [...new Set(kinds.map((kind) => KINDS[kind.type ?? typeOf(valuesOf(kind)[0])] ?? "something else"))];
    return say(`is ${KINDS[typeOf(value)]}, and should be ${named.join(" or ")}`);
  }
  const free = fit.find((kind) => !("const" in kind) && !kind.enum);
  if (!free) {
    const allowed = fit.flatMap(valuesOf);
    if (!allowed.includes(value)) say(`is ${JSON.stringify(value)}, and should be one of ${shown(allowed)}`);
    return;
  }
  if (free.type === "integer" && !Number.isInteger(value)) return say("is not a whole number");
  if (Array.isArray(value)) {
    if (free.items) value.forEach((one, at) => look(free.items!, one, `${path}[${at}]`, faults));
    return;
  }
  if (typeof value === "object" && value !== null) lookAtFields(fit, value as Record<string, unknown>, path, faults);
}

/** The field whose fixed values tell several kinds of object apart. */
const MARKS = ["type", "name"];

function lookAtFields(kinds: Schema[], value: Record<string, unknown>, path: string, faults: Fault[]) {
  const within = (name: string) => (path ? `${path}.${name}` : name);
  let left = kinds;
  for (const mark of MARKS) {
    if (left.length < 2) break;
    const isMark = (kind: Schema) => value[mark] !== undefined || !!kind.required?.includes(mark);
    const marked = left.filter((kind) => kind.fields?.[mark] && valuesOf(resolved(kind.fields[mark])).length && isMark(kind));
    if (!marked.length) continue;
    const chosen = marked.filter((kind) => valuesOf(resolved(kind.fields![mark]!)).includes(value[mark]));
    // Kinds without a fixed value take all others.
    left = chosen.length ? chosen : left.filter((kind) => !marked.includes(kind));
    if (left.length) continue;
    const allowed = shown(marked.flatMap((kind) => valuesOf(resolved(kind.fields![mark]!))));
    faults.push({ path: within(mark), message: value[mark] === undefined ? `is missing: one of ${allowed}` : `is ${JSON.stringify(value[mark])}, and should be one of ${allowed}` });
    return;
  }
  const kind = left[0]!;
  for (const name of kind.required ?? []) {
    if (value[name] === undefined) faults.push({ path: within(name), message: "is missing" });
  }
  for (const [name, one] of Object.entries(value)) {
    const field = kind.fields && Object.hasOwn(kind.fields, name) ? kind.fields[name]! : kind.others;
    if (field) look(field, one, within(name), faults);
    else if (one !== undefined) faults.push({ path: within(name), message: `is no field here; those are ${Object.keys(kind.fields ?? {}).join(", ")}` });
  }
}
