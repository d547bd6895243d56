// Custom roles: a token may name a database role that is a member of one of Strata's.
import type { Pool } from "pg";
import type { Role } from "../config.ts";
import type { FindRole } from "./auth.ts";

// Excludes roles with more rights than a request should have: the server's login, owners of the machinery,
// superusers.
const FIND = `
  select base.rolname as role
  from pg_catalog.pg_roles given
  join pg_catalog.pg_roles base on pg_catalog.pg_has_role(given.oid, base.oid, 'MEMBER')
  where given.rolname = $1 and base.rolname in ('strata_operator', 'strata_reader', 'strata_ingestor')
    and not given.rolsuper and not given.rolbypassrls and given.rolname not in (current_user, session_user)
    and given.oid <> (select n.nspowner from pg_catalog.pg_namespace n where n.nspname = 'strata')
    and pg_catalog.pg_has_role(given.oid, 'MEMBER')
  order by pg_catalog.array_position(array['strata_operator', 'strata_reader', 'strata_ingestor'], base.rolname::text)
  limit 1`;

export const createFindRole =
  (pool: Pool): FindRole =>
  async (name) =>
    (await pool.query<{ role: Role }>(FIND, [name])).rows[0]?.role;
