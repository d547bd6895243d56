// One database for the tests of a file.
import { afterAll, beforeAll } from "vitest";
import { createDatabase, type TestDatabase } from "./database.ts";

export function useDatabase() {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());
  return {
    /** From `beforeAll` on. */
    database: () => database,
    /** The rows of a statement. */
    sql: async <T extends object = Record<string, any>>(text: string, values?: unknown[]): Promise<T[]> =>
      (await database.pool.query<T>(text, values)).rows,
  };
}
