/** @module-tag long-server */
// Honest: what is shown is true now, or was at a time that is said. A lost socket is asked again after, not only listened to.
import { setTimeout as sleep } from "node:timers/promises";
import type { Page } from "playwright-core";
import { afterEach, expect, test } from "vitest";
import { describeInBrowser, LONG, useStudio } from "./browser.ts";

describeInBrowser("the state of the page", () => {
  const studio = useStudio();
  afterEach(() => studio.wire.restore());
  const stateOf = (page: Page) => page.getByRole("status", { name: "State of the data" });
  const insertRun = (step = "cleanup") =>
    studio.sql<{ id: string }>(
      `insert into strata.runs (step, status, trigger, actor, started_at, finished_at)
       values ($1, 'succeeded', 'sql', 'nobody told', now(), now()) returning run_id as id`,
      [step],
    );

  test("the socket is cut, the data changes, the wire is restored: the page knows, without having been told", async () => {
    const page = await studio.open("operator", "/runs");
    await stateOf(page).getByText("Live").waitFor(LONG);
    await page.getByRole("table", { name: "Runs" }).waitFor(LONG);
    studio.wire.cut();
    await stateOf(page)
      .getByText(/Reconnecting|Offline/)
      .waitFor(LONG);
    expect(await stateOf(page).textContent()).toMatch(/ · as of \d\d:\d\d:\d\d$/);
    // What was there stays readable.
    expect(await page.getByRole("table", { name: "Runs" }).getByRole("row").count()).toBeGreaterThan(3);
    const [{ id } = { id: "" }] = await insertRun();
    studio.wire.restore();
    await page.getByRole("link", { name: `${id} Cleanup` }).waitFor(LONG);
    await stateOf(page).getByText("Live").waitFor(LONG);
    expect(await stateOf(page).textContent()).toBe("Live");
  });

  test("where sockets do not get through, it polls and says so", async () => {
    studio.wire.blockSockets(true);
    try {
      const page = await studio.open("operator", "/runs");
      await stateOf(page)
        .getByText(/Polling · as of \d\d:\d\d:\d\d/)
        .waitFor(LONG);
      const [{ id } = { id: "" }] = await insertRun();
      await page.getByRole("link", { name: `${id} Cleanup` }).waitFor(LONG);
      studio.wire.blockSockets(false);
      await stateOf(page).getByText("Live").waitFor(LONG);
    } finally {
      studio.wire.blockSockets(false);
    }
  });

  test("running work is seen while it runs, and its progress moves", async () => {
    const page = await studio.open("operator");
    await stateOf(page).getByText("Live").waitFor(LONG);
    const [{ id } = { id: "" }] = await studio.sql<{ id: string }>(
      `insert into strata.runs (step, status, trigger, actor, started_at, heartbeat_at)
       values ('cleanup', 'running', 'sql', 'test', now(), now()) returning run_id as id`,
    );
    const bar = page
      .getByRole("region", { name: "At work now" })
      .getByRole("progressbar", { name: `Progress of run ${id}` });
    await bar.waitFor(LONG);
    await studio.sql("update strata.runs set progress = 0.5, heartbeat_at = now() where run_id = $1", [id]);
    await page.getByRole("region", { name: "At work now" }).getByText("50 %").waitFor(LONG);
    await studio.sql("update strata.runs set status = 'succeeded', finished_at = now() where run_id = $1", [
      id,
    ]);
    await bar.waitFor({ state: "detached", ...LONG });
  });

  test("a tab that hears of a thousand changes takes no more memory", async () => {
    const page = await studio.open("operator");
    await stateOf(page).getByText("Live").waitFor(LONG);
    const [{ id } = { id: "" }] = await studio.sql<{ id: string }>(
      `insert into strata.runs (step, status, trigger, actor, started_at, heartbeat_at)
       values ('cleanup', 'running', 'sql', 'test', now(), now()) returning run_id as id`,
    );
    const session = await page.context().newCDPSession(page);
    const heap = async (): Promise<number> => {
      await session.send("HeapProfiler.collectGarbage");
      const { usedSize } = await session.send("Runtime.getHeapUsage");
      return usedSize;
    };
    let heard = 0;
    const change = async (times: number): Promise<void> => {
      for (let time = 0; time < times; time++) {
        await studio.sql(
          "update strata.runs set progress = $2, heartbeat_at = clock_timestamp() where run_id = $1",
          [id, (++heard % 100) / 100],
        );
        if (time % 20 === 0) await sleep(20);
      }
      await page
        .getByRole("region", { name: "At work now" })
        .getByText(`${heard % 100} %`)
        .waitFor(LONG);
      await sleep(2_500);
    };
    await change(201);
    const before = await heap();
    await change(1_001);
    // An answer that is being read takes memory for a moment; what a change leaves behind stays.
    await expect
      .poll(async () => (await heap()) - before, { timeout: 60_000, interval: 2_000 })
      .toBeLessThan(1_000_000);
    await studio.sql("update strata.runs set status = 'succeeded', finished_at = now() where run_id = $1", [
      id,
    ]);
  });

  test("a dataset that is added while the page is open appears on it", async () => {
    const page = await studio.open("operator");
    await stateOf(page).getByText("Live").waitFor(LONG);
    await studio.sql(`
      create table production.studio_parts (part_id integer primary key, name text not null);
      comment on table production.studio_parts is 'Something that a thing is made of; one row per part.';
      select strata.add_dataset('studio_parts');
      select strata.reconcile();`);
    await page
      .getByRole("list", { name: "Datasets" })
      .getByRole("listitem", { name: "Studio parts" })
      .waitFor(LONG);
    await studio.visit(page, "/explore/studioParts");
    await page.getByText("There are no rows yet").waitFor(LONG);
  }, 180_000);
});
