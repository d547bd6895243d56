/** @module-tag long */
// Seeded sequences of loads that write, delete and replace, of two sources and two datasets that refer to each other,
// beside a model of what the documentation says about them: production and quarantine are the same after every transform.
import { Readable } from "node:stream";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { ingest, type Operation } from "../../src/ingest/ingest.ts";
import { chance } from "../support/random.ts";
import { usePipeline } from "./fixture.ts";

const SEEDS = Array.from(
  { length: Number(process.env.LOAD_SEEDS ?? 8) },
  (_, i) => i + Number(process.env.LOAD_SEED ?? 1),
);
const { pool, sql, run, retry } = usePipeline();

/** How often each thing happened: a sequence without them would prove nothing. */
const seen = {
  outdated: 0,
  "waits for a snapshot": 0,
  "given back too early": 0,
  "goes after all": 0,
  "stays after all": 0,
  "snapshot not whole": 0,
};

const DATASETS = ["things", "parts"] as const;
type Dataset = (typeof DATASETS)[number];

interface Row {
  id: number;
  value: number;
  /** Of a part. */
  thing?: number;
}
type Arrived =
  | ({ type: "write"; source: string; seq: number } & Row)
  | { type: "delete"; source: string; seq: number; id: number }
  | { type: "end"; source: string; first: number; seq: number };
type Entry = Exclude<Arrived, { type: "end" }> & {
  waits: boolean;
  /** Left waiting by a snapshot. */
  isOfSnapshot?: boolean;
};
interface State {
  rows: Map<number, Row & { source: string; seq: number }>;
  /** In the order of arrival. */
  arrived: Arrived[];
  entries: Set<Entry>;
  /** Entries of snapshots that were given back. */
  givenBack: Entry[];
  deletions: Map<number, number>;
  snapshots: Map<string, number>;
  seq: number;
}

function createModel() {
  const create = (): State => ({
    rows: new Map(),
    arrived: [],
    entries: new Set(),
    givenBack: [],
    deletions: new Map(),
    snapshots: new Map(),
    seq: 0,
  });
  const states: Record<Dataset, State> = { things: create(), parts: create() };
  let problem = false;

  const isReferredTo = (dataset: Dataset, id: number) =>
    dataset === "things" && [...states.parts.rows.values()].some(({ thing }) => thing === id);
  const remove = ({ rows, deletions }: State, id: number, seq: number) => {
    rows.delete(id);
    deletions.set(id, Math.max(seq, deletions.get(id) ?? 0));
  };

  function write(dataset: Dataset, record: Arrived & { type: "write" }): void {
    const state = states[dataset];
    const { id, value, thing, source, seq } = record;
    if ((state.deletions.get(id) ?? 0) > seq || (state.snapshots.get(source) ?? 0) > seq) {
      seen.outdated += 1;
      return;
    }
    const hasParent = dataset === "things" || states.things.rows.has(thing!);
    if (value <= 0 || !hasParent) {
      state.entries.add({ ...record, waits: value > 0 });
      return;
    }
    if ((state.rows.get(id)?.seq ?? -1) < seq) state.rows.set(id, { id, value, thing, source, seq });
  }

  function takeDeletion(dataset: Dataset, record: Arrived & { type: "delete" }): void {
    const state = states[dataset];
    const row = state.rows.get(record.id);
    const isOlder = row !== undefined && row.seq < record.seq;
    if (isOlder && isReferredTo(dataset, record.id)) state.entries.add({ ...record, waits: true });
    else if (isOlder) remove(state, record.id, record.seq);
    else state.deletions.set(record.id, Math.max(record.seq, state.deletions.get(record.id) ?? 0));
  }

  function end(dataset: Dataset, { source, first, seq }: Arrived & { type: "end" }): void {
    const state = states[dataset];
    if ([...state.entries].some((entry) => entry.source === source && entry.seq > first && entry.seq < seq)) {
      problem = true;
      seen["snapshot not whole"] += 1;
      return;
    }
    for (const entry of state.entries)
      if (entry.isOfSnapshot && entry.source === source) state.entries.delete(entry);
    for (const row of [...state.rows.values()]) {
      if (row.source !== source || row.seq >= first) continue;
      if (isReferredTo(dataset, row.id)) {
        seen["waits for a snapshot"] += 1;
        state.entries.add({
          type: "delete",
          source,
          seq: first,
          id: row.id,
          waits: true,
          isOfSnapshot: true,
        });
      } else remove(state, row.id, first);
    }
    state.snapshots.set(source, first);
  }

  function giveBack(state: State, entry: Entry): void {
    state.entries.delete(entry);
    if (entry.isOfSnapshot) state.givenBack.push(entry);
    else state.arrived.push(entry);
  }

  function take(dataset: Dataset): void {
    const state = states[dataset];
    for (const entry of state.givenBack.splice(0)) {
      const row = state.rows.get(entry.id);
      if (row?.source !== entry.source || row.seq >= entry.seq) {
        seen["stays after all"] += 1;
      } else if (isReferredTo(dataset, entry.id)) {
        seen["given back too early"] += 1;
        state.entries.add(entry);
      } else {
        seen["goes after all"] += 1;
        remove(state, entry.id, entry.seq);
      }
    }
    for (const record of state.arrived.splice(0)) {
      if (record.type === "write") write(dataset, record);
      else if (record.type === "delete") takeDeletion(dataset, record);
      else end(dataset, record);
    }
  }

  return {
    states,
    load(dataset: Dataset, source: string, rows: Row[], operation?: Operation): void {
      const state = states[dataset];
      const first = (state.seq += 1);
      for (const row of rows) {
        const seq = (state.seq += 1);
        if (operation === "delete") state.arrived.push({ type: "delete", source, seq, id: row.id });
        else state.arrived.push({ type: "write", source, seq, ...row });
      }
      if (operation === "replace" && rows.length > 0)
        state.arrived.push({ type: "end", source, first, seq: (state.seq += 1) });
    },
    retry(value: number): void {
      for (const dataset of DATASETS)
        for (const entry of [...states[dataset].entries]) {
          giveBack(states[dataset], entry.type === "write" ? Object.assign(entry, { value }) : entry);
        }
    },
    /** Whether a snapshot deleted nothing. */
    transform(): boolean {
      problem = false;
      for (let pass = 1, found = 1; found > 0 || pass === 2; pass++) {
        found = 0;
        for (const dataset of DATASETS) {
          const ready = [...states[dataset].entries].filter(
            (entry) =>
              entry.waits &&
              (entry.type === "delete"
                ? !isReferredTo(dataset, entry.id)
                : dataset === "things" || states.things.rows.has(entry.thing!)),
          );
          for (const entry of ready) giveBack(states[dataset], entry);
          found += ready.length;
          if (pass === 1 || ready.length > 0) take(dataset);
        }
      }
      return problem;
    },
  };
}

beforeAll(async () => {
  await sql(`
    create table production.things (id integer primary key, value integer not null constraint positive_thing check (value > 0));
    create table production.parts (id integer primary key, value integer not null constraint positive_part check (value > 0),
      thing integer not null constraint fk_thing references production.things (id) on delete cascade);
    select strata.add_dataset('things'), strata.add_dataset('parts')`);
});
afterAll(() =>
  sql(`select strata.remove_dataset('parts'), strata.remove_dataset('things');
       drop table production.parts, production.things, staging.raw_parts, staging.raw_things`),
);
beforeEach(() =>
  sql(`truncate production.things cascade; truncate staging.raw_things, staging.raw_parts;
       truncate strata.deletions, strata.snapshots`),
);

test.each(SEEDS)("production is what the model says, seed %i", async (seed) => {
  const next = chance(seed);
  const model = createModel();
  const history: string[] = [];
  const id = () => 1 + next.below(6);

  async function send(dataset: Dataset, source: string, rows: Row[], operation?: Operation): Promise<void> {
    history.push(`${operation ?? "write"} ${dataset} ${source} ${JSON.stringify(rows)}`);
    const { status } = await ingest(
      pool(),
      dataset,
      Readable.from(rows.map((row) => `${JSON.stringify(row)}\n`)),
      { format: "ndjson", sourceSystem: source, operation, trigger: "cli" },
    );
    expect(status).toBe("succeeded");
    model.load(dataset, source, rows, operation);
  }

  async function load(): Promise<void> {
    const dataset = next.pick(DATASETS);
    const source = next.is(0.7) ? "a" : "b";
    const operation = next.is(dataset === "parts" ? 0.7 : 0.3)
      ? undefined
      : next.pick(["delete", "replace"] as const);
    // Most parts are of things that there are.
    const things = [...model.states.things.rows.keys()];
    const rows: Row[] = Array.from({ length: 1 + next.below(4) }, () => ({
      id: id(),
      value: next.is(0.03) ? 0 : 1 + next.below(9),
      ...(dataset === "parts" && { thing: next.is(0.2) ? id() : (next.pick(things) ?? id()) }),
    }));
    await send(dataset, source, rows, operation);
  }

  async function compare(): Promise<void> {
    for (const dataset of DATASETS) {
      const { rows, entries } = model.states[dataset];
      const found = await sql<{ row: string }>(
        `select concat_ws(' ', id, value, strata_source ${dataset === "parts" ? ", thing" : ""}) as row
         from production.${dataset} order by id`,
      );
      expect(
        found.map(({ row }) => row),
        `${dataset} after\n${history.join("\n")}`,
      ).toEqual(
        [...rows.values()]
          .sort((one, other) => one.id - other.id)
          .map(({ id, value, source, thing }) =>
            [id, value, source, thing].filter((v) => v !== undefined).join(" "),
          ),
      );
      const waiting = await sql<{ row: string }>(
        `select concat_ws(' ', coalesce(operation, 'write'), row_key, source_system) as row
         from staging.quarantine where dataset = $1 order by 1`,
        [dataset],
      );
      expect(
        waiting.map(({ row }) => row),
        `quarantine of ${dataset} after\n${history.join("\n")}`,
      ).toEqual([...entries].map(({ type, id, source }) => `${type} ${id} ${source}`).sort());
    }
  }

  const ids = [1, 2, 3, 4, 5, 6];
  await send(
    "things",
    "a",
    ids.map((id) => ({ id, value: id })),
  );
  await send(
    "parts",
    "a",
    ids.map((id) => ({ id, value: id, thing: 1 + (id % 3) })),
  );
  for (let step = 0; step < 30; step++) {
    if (next.is(0.6)) await load();
    else if (next.is(0.3)) {
      history.push("retry");
      model.retry(7);
      await retry({ everything: true }, { value: 7 });
    } else {
      history.push("transform");
      const isWhole = !model.transform();
      const { status, error } = await run("transform");
      expect([status, error], history.join("\n")).toEqual([
        isWhole ? "succeeded" : "failed",
        isWhole ? null : expect.stringMatching(/The full snapshot of the source . .* deleted nothing/),
      ]);
      await compare();
    }
  }
});

test("all of it has happened", ({ skip }) => {
  // Not by `skipIf`, which would run it without TEST_LONG. Other seeds may lack some of it.
  skip(process.env.LOAD_SEEDS !== undefined);
  for (const [what, times] of Object.entries(seen)) expect(times, what).toBeGreaterThan(0);
});
