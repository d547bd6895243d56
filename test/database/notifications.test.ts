import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createNotifications } from "../../src/database/notifications.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

it("is released at any moment, connecting or not", async () => {
  const outcomes = new Set<boolean>();
  for (let i = 0; i < 200 && (outcomes.size < 2 || i < 50); i++) {
    const notifications = createNotifications(database.connection);
    // From before the connection is made to after it listens.
    for (let turn = 0; turn < i; turn++) await new Promise(setImmediate);
    outcomes.add(notifications.isListening());
    const late = sleep(5_000, "late", { ref: false });
    expect(await Promise.race([notifications.release(), late])).toBeUndefined();
    expect(notifications.isListening()).toBe(false);
  }
  expect(outcomes).toEqual(new Set([true, false]));
});
