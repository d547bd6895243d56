// The primary dies, a replica is promoted, the address leads to it: Strata goes on by itself, and what was acknowledged
// is there.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createPool } from "../../src/database/connect.ts";
import type { Replica } from "../support/cluster.ts";
import { until } from "../support/process.ts";
import { createProxy, type Proxy } from "../support/proxy.ts";
import { canReplicate, createSetup, type Setup } from "./setup.ts";

const portOf = (url: string): number => Number(new URL(url).port);
const withPort = (url: string, port: number): string =>
  Object.assign(new URL(url), { port: String(port) }).href;

describe.runIf(canReplicate)("a failover", { tags: ["long"] }, () => {
  let setup: Setup;
  let heir: Replica;
  let address: Proxy;
  let instance: { url: string };

  beforeAll(async () => {
    setup = await createSetup(1);
    heir = await setup.primary.createReplica("-c cluster_name=heir");
    // A commit is acknowledged when the heir has it.
    await setup.pool.query("alter system set synchronous_standby_names = 'heir'");
    await setup.pool.query("select pg_reload_conf()");
    await until(async () => {
      const { rows } = await setup.pool.query<{ sync_state: string }>(
        "select sync_state from pg_stat_replication where application_name = 'heir'",
      );
      return rows[0]?.sync_state === "sync";
    });
    address = await createProxy({ port: portOf(setup.primary.url("shop")) });
    instance = await setup.startInstance({
      DATABASE_URL: withPort(setup.primary.url("shop"), address.port),
      READ_DATABASE_URLS: [setup.replicas[0]!.url("shop"), heir.url("shop")].join(","),
    });
  }, 240_000);
  afterAll(async () => {
    address?.close();
    await setup?.close();
    heir?.remove();
  });

  const write = (name: string, headers = {}) =>
    setup.ask(
      `mutation { createUser(input: { user: { username: "${name}", email: "${name}@example.org" } }) { user { userId } } }`,
      headers,
      instance.url,
    );
  const statusOf = async (node: string): Promise<string> => {
    const { checks } = (await (await fetch(`${instance.url}/readyz`)).json()) as {
      checks: Record<string, { detail: string }>;
    };
    return checks[node]!.detail;
  };

  test("needs no restart and loses no acknowledged write; replicas that stayed behind get no reads", async () => {
    for (const node of ["replica-1", "replica-2"])
      await until(async () => (await statusOf(node)).startsWith("takes reads"));
    const events = setup.connect(instance.url).iterate<any>({
      query: `subscription { pipelineRunUpdated { run { step status } } }`,
    });
    const succeeded = (async () => {
      for await (const { data } of events) {
        const run = data?.pipelineRunUpdated.run;
        if (run?.step === "pipeline" && run.status === "succeeded") return run;
      }
    })();
    const acknowledged: string[] = [];
    const loaded: number[] = [];
    const answers: { status: number; code: unknown }[] = [];
    let isDone = false;
    let lastPosition: string | undefined;
    const writing = [1, 2, 3].map(async (writer) => {
      for (let i = 0; !isDone; i++) {
        const name = `w${writer}-${i}`;
        const { status, errors, position } = await write(name);
        answers.push({ status, code: errors?.[0]?.extensions.code });
        if (status !== 200 || errors) continue;
        acknowledged.push(name);
        lastPosition = position;
      }
    });
    const loading = (async () => {
      for (let i = 1_000_000; !isDone; i++) {
        const response = await fetch(`${instance.url}/ingest/users`, {
          method: "POST",
          headers: { authorization: `Bearer ${setup.token}`, "content-type": "application/x-ndjson" },
          body: JSON.stringify({ user_id: i, username: `loaded-${i}`, email: `loaded-${i}@example.org` }),
        });
        const body: any = await response.json();
        answers.push({ status: response.status, code: body.errors?.[0]?.extensions.code });
        if (response.status === 200) loaded.push(i);
      }
    })();
    const reading = (async () => {
      while (!isDone) {
        const { status, errors } = await setup.ask("{ users { totalCount } }", {}, instance.url);
        answers.push({ status, code: errors?.[0]?.extensions.code });
      }
    })();
    try {
      await until(() => Promise.resolve(acknowledged.length > 30 && loaded.length > 3));
      setup.primary.stop("immediate");
      address.leadTo(undefined);
      const failed = () => answers.filter(({ status }) => status === 503).length;
      await until(() => Promise.resolve(failed() > 5));
      heir.promote();
      address.leadTo({ port: portOf(heir.url("shop")) });
      const before = acknowledged.length;
      const loadedBefore = loaded.length;
      await until(() =>
        Promise.resolve(acknowledged.length > before + 30 && loaded.length > loadedBefore + 3),
      );
    } finally {
      isDone = true;
      await Promise.all([...writing, loading, reading]);
    }
    // In between the answer was "not now", and nothing else.
    const kinds = new Set(answers.map(({ status, code }) => [status, code].join(" ").trim()));
    expect(kinds.difference(new Set(["200", "503", "503 SERVICE_UNAVAILABLE"]))).toEqual(new Set());

    const pool = createPool({ connectionString: heir.url("shop") }, { max: 1 });
    try {
      const { rows } = await pool.query<{ name: string }>("select username as name from production.users");
      const there = new Set(rows.map(({ name }) => name));
      expect(acknowledged.filter((name) => !there.has(name))).toEqual([]);
      const { rows: raw } = await pool.query<{ id: string }>("select user_id as id from staging.raw_users");
      const staged = new Set(raw.map(({ id }) => Number(id)));
      expect(loaded.filter((id) => !staged.has(id))).toEqual([]);
    } finally {
      await pool.end();
    }

    // What is promoted takes writes, what stayed behind is on a branch that has ended.
    await until(async () => (await statusOf("replica-2")).startsWith("takes no reads: takes writes"));
    await until(async () =>
      /^takes no reads: on timeline 0*1, the primary on 0*2$/.test(await statusOf("replica-1")),
    );
    const found = await setup.ask(
      `{ users(filter: { username: { equalTo: "${acknowledged.at(-1)!}" } }) { totalCount } }`,
      { "strata-position": lastPosition! },
      instance.url,
    );
    expect(found).toMatchObject({ status: 200, node: "primary", data: { users: { totalCount: 1 } } });
    // The pipeline goes on, too: what was loaded before and after the failover becomes users.
    const run = await setup.ask("mutation { runPipeline { run { status } } }", {}, instance.url);
    expect(run.data).toEqual({ runPipeline: { run: { status: "succeeded" } } });
    // Whoever subscribed before hears of it.
    expect(await succeeded).toEqual({ step: "pipeline", status: "succeeded" });
    const count = await setup.ask(
      `{ users(filter: { username: { startsWith: "loaded-" } }) { totalCount } }`,
      {},
      instance.url,
    );
    expect(count.data.users.totalCount).toBeGreaterThanOrEqual(loaded.length);
  }, 240_000);
});
