// Connections for probes and scrapes alone: an instance that is busy to its last connection is busy, not broken.
import type pg from "pg";
import { CONNECTIONS } from "../database/connections.ts";
import { createPool, type Database } from "../database/connect.ts";

const PATIENCE_MS = 3_000;

export const createProbePool = ({ connection }: Database): pg.Pool =>
  createPool(connection, {
    max: CONNECTIONS.probes,
    application_name: "strata probe",
    connectionTimeoutMillis: PATIENCE_MS,
    statement_timeout: PATIENCE_MS,
    // Hears of a server that has gone without a word.
    query_timeout: 2 * PATIENCE_MS,
    idleTimeoutMillis: 60_000,
  });
