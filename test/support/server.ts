import type pg from "pg";
import { createPool } from "../../src/database/connect.ts";

export const serverUrl = process.env.TEST_DATABASE_URL;

export async function asAdministrator(work: (pool: pg.Pool) => Promise<unknown>): Promise<void> {
  const pool = createPool({ connectionString: serverUrl! }, { max: 1 });
  try {
    await work(pool);
  } finally {
    await pool.end();
  }
}
