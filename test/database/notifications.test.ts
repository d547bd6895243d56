import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createNotifications, type Notifications } from "../../src/database/notifications.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

async function released(notifications: Notifications): Promise<void> {
  const late = sleep(10_000, "late", { ref: false });
  expect(await Promise.race([notifications.release(), late])).toBeUndefined();
  expect(notifications.isListening()).toBe(false);
}

it("is released at any moment, connecting or not", async () => {
  const connected = createNotifications(database.connection);
  const startedAt = performance.now();
  while (!connected.isListening()) await sleep(1);
  const connectingMs = performance.now() - startedAt;
  await released(connected);

  const atOnce = createNotifications(database.connection);
  expect(atOnce.isListening()).toBe(false);
  await released(atOnce);
  // From the first packet to after the last.
  for (let moment = 0; moment < 30; moment++) {
    const notifications = createNotifications(database.connection);
    const until = performance.now() + (connectingMs * moment) / 20;
    while (performance.now() < until) await new Promise(setImmediate);
    await released(notifications);
  }
});
