// The names in double braces that a start fills.

import type { InitialEvent } from "./types";

const NAME = /\{\{ ?([A-Za-z_][A-Za-z0-9_]{0,63}) ?\}\}/g;

function texts(event: InitialEvent): string[] {
  const found = (event.content ?? []).filter((block) => block.type === "text").map((block) => block.text ?? "");
  if (event.description) found.push(event.description);
  if (event.rubric?.type === "text" && event.rubric.content) found.push(event.rubric.content);
  return found;
}

/** The names in the order in which they stand. */
export function inputNames(events: InitialEvent[]): string[] {
  const names = events.flatMap(texts).flatMap((text) => [...text.matchAll(NAME)].map((match) => match[1]!));
  return [...new Set(names)];
}
