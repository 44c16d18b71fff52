// The API as a client sees it. A browser that is signed in sends its cookie by itself; the header says that a page of the
// console asks, without which the cookie does not count.

import { connection } from "./connection.svelte";

const BETA = "managed-agents-2026-04-01";
export const CONSOLE_HEADERS = { "x-rota-console": "1" };

export type Query = Record<string, string | number | boolean | string[] | null | undefined>;

/** What the server, or the way to it, refused. */
export class ApiError extends Error {
  constructor(
    /** 0 where there was no answer. */
    readonly status: number,
    readonly type: string,
    message: string,
    readonly requestId: string | null,
    /** What of several refusals of one type it is, where the server says so. */
    readonly code: string | null = null,
  ) {
    super(message);
  }
  get isGone() {
    return this.status === 404;
  }
}

/** A request, as it is sent and as it is shown to be repeated elsewhere. */
export interface ApiRequest {
  method: "GET" | "POST" | "DELETE";
  path: string;
  query?: Query;
  body?: unknown;
  /** Beside those of every request. */
  headers?: Record<string, string>;
}

export function search(query: Query | undefined): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (Array.isArray(value)) value.forEach((one) => params.append(`${name}[]`, one));
    else if (value !== undefined && value !== null && value !== "") params.set(name, String(value));
  }
  const text = params.toString();
  return text ? `?${text}` : "";
}

export function headersFor(path: string): Record<string, string> {
  const headers: Record<string, string> = { ...CONSOLE_HEADERS };
  if (path.startsWith("/v1/") && !path.startsWith("/v1/organizations")) headers["anthropic-beta"] = BETA;
  if (connection.workspace && !path.startsWith("/v1/organizations")) {
    headers["anthropic-workspace-id"] = connection.workspace;
  }
  return headers;
}

/** Sends a request and returns the answer whatever its status, or throws where there is none. */
async function fetched(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...init });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    connection.lost();
    throw new ApiError(0, "no_connection", "The server does not answer.", null);
  }
  connection.found();
  return response;
}

export async function failure(response: Response): Promise<ApiError> {
  let type = "error";
  let message = `The server answered ${response.status}.`;
  let code: string | null = null;
  try {
    const body = await response.json();
    type = body.error?.type ?? type;
    message = body.error?.message ?? message;
    code = body.error?.details?.error_code ?? null;
  } catch {
    // What is no envelope has its status alone.
  }
  if (response.status === 401) connection.signedOut(message);
  return new ApiError(response.status, type, message, response.headers.get("request-id"), code);
}

export async function open(request: ApiRequest, signal?: AbortSignal): Promise<Response> {
  const init: RequestInit = { method: request.method, headers: { ...headersFor(request.path), ...request.headers }, signal: signal ?? null };
  if (request.body instanceof FormData) init.body = request.body;
  else if (request.body !== undefined) {
    init.body = JSON.stringify(request.body);
    (init.headers as Record<string, string>)["content-type"] = "application/json";
  }
  const response = await fetched(request.path + search(request.query), init);
  if (!response.ok) throw await failure(response);
  return response;
}

export async function call<T>(request: ApiRequest, signal?: AbortSignal): Promise<T> {
  const response = await open(request, signal);
  return (await response.json()) as T;
}

export const get = <T>(path: string, query?: Query, signal?: AbortSignal) => call<T>({ method: "GET", path, query }, signal);
export const post = <T>(path: string, body?: unknown) => call<T>({ method: "POST", path, body });
export const remove = <T>(path: string) => call<T>({ method: "DELETE", path });

export interface Page<T> {
  data: T[];
  next_page?: string | null;
}

/** All rows of a list, at most `most`; `isCut` when there are more. */
export async function all<T>(path: string, query: Query = {}, most = 1000, signal?: AbortSignal) {
  const rows: T[] = [];
  let page: string | null | undefined;
  do {
    const next: Page<T> = await get(path, { limit: 100, ...query, page }, signal);
    rows.push(...next.data);
    page = next.next_page;
  } while (page && rows.length < most);
  return { rows, isCut: !!page };
}

/** Saves what an answer holds as a file. */
export async function download(path: string, name: string): Promise<void> {
  const response = await open({ method: "GET", path });
  save(await response.blob(), name);
}

export function save(blob: Blob, name: string) {
  const link = document.createElement("a");
  // Never shown as a page: whatever it holds would be one of this server.
  link.href = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export interface Who {
  key_id: string;
  workspace_id: string | null;
  is_administrator: boolean;
  organization_id: string | null;
  until: string | null;
}

const SIGN_IN = "/console/sign-in";

export async function who(): Promise<Who> {
  const response = await fetched(SIGN_IN, { headers: headersFor(SIGN_IN) });
  if (!response.ok) throw await failure(response);
  return (await response.json()) as Who;
}

/** Signs in with a key, or with the word of an address that the server printed. */
export async function signIn(by: { key: string } | { word: string }): Promise<void> {
  const headers = { ...CONSOLE_HEADERS, ...("key" in by ? { "x-api-key": by.key } : { "x-rota-sign-in": by.word }) };
  const response = await fetched(SIGN_IN, { method: "POST", headers });
  if (!response.ok) throw await failure(response);
}

export async function signOut(): Promise<void> {
  const response = await fetched(SIGN_IN, { method: "DELETE", headers: CONSOLE_HEADERS });
  if (!response.ok) throw await failure(response);
}
