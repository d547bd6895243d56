import { asAdministrator, serverUrl } from "../support/server.ts";

/** Roles that pages create: they are the cluster's, and outlive the database of a test. */
const ROLES = ["support", "dbt", "bi"];
const STILL_NEEDED = "2BP01";

/** A database of another test that runs at the same time may need them; that test drops them. */
export async function dropRoles(): Promise<void> {
  if (serverUrl === undefined) return;
  await asAdministrator(async (pool) => {
    for (const role of ROLES)
      await pool.query(`drop role if exists ${role}`).catch((error: { code?: string }) => {
        if (error.code !== STILL_NEEDED) throw error;
      });
  });
}
