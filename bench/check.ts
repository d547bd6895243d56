// A comparison of answers is a comparison of speed only if they are equal.
import assert from "node:assert/strict";
import type { Contender } from "./contenders.ts";
import type { Work } from "./work.ts";

/** Numbers and times have several spellings in JSON; an answer's meaning is what counts. */
function normalize(value: unknown, unordered = false): unknown {
  if (Array.isArray(value)) {
    const items = value.map((item) => normalize(item, unordered));
    return unordered ? items.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)) : items;
  }
  if (value && typeof value === "object")
    return Object.fromEntries(
      Object.keys(value)
        .sort()
        .map((key) => [key, normalize((value as Record<string, unknown>)[key], unordered)]),
    );
  if (typeof value !== "string") return value;
  if (/^-?\d+(\.\d+)?$/.test(value)) return Number(value);
  return value.replace(/^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.0+)?Z?$/, "$1");
}

export async function answer(contender: Contender, name: string, work: Work, n: number): Promise<unknown> {
  const response = await fetch(contender.url + contender.path(name), {
    method: "POST",
    headers: contender.headers,
    body: contender.body(work, n),
  });
  return normalize(await response.json(), work.unordered);
}

export async function check(contenders: readonly Contender[], name: string, work: Work): Promise<void> {
  for (const n of [0, 7, 123]) {
    const [first, ...others] = await Promise.all(
      contenders.map((contender) => answer(contender, name, work, n)),
    );
    others.forEach((other, i) => {
      assert.deepEqual(other, first, `${contenders[i + 1]!.name} answers "${name}" differently`);
    });
  }
}
