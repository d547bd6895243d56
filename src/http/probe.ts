// Connections for probes and scrapes only, which must work while all others are in use.
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
    // Detects a server that vanished silently.
    query_timeout: 2 * PATIENCE_MS,
    idleTimeoutMillis: 60_000,
  });
