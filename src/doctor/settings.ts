// Checks combinations of settings that are valid one by one and wrong together.
import type { Config } from "../config.ts";

const JWKS_TIMEOUT_MS = 5_000;
const isLocal = (host: string): boolean => ["127.0.0.1", "::1", "localhost"].includes(host);

export async function findTokenFailures(config: Config): Promise<string[]> {
  if (config.DATABASE_URL && !config.JWT_SECRET && !config.JWKS_URL)
    return ["Neither JWT_SECRET nor JWKS_URL is set: `strata serve` will refuse to start"];
  if (!config.JWKS_URL) return [];
  try {
    const response = await fetch(config.JWKS_URL, { signal: AbortSignal.timeout(JWKS_TIMEOUT_MS) });
    const { keys } = (await response.json()) as { keys?: unknown };
    return Array.isArray(keys) && keys.length > 0
      ? []
      : [`JWKS_URL answers ${response.status}, without keys`];
  } catch (error) {
    return [`JWKS_URL cannot be read: ${(error as Error).message}`];
  }
}

export function findTokenWarnings(config: Config): string[] {
  const warnings: string[] = [];
  if (config.ANONYMOUS_ROLE === "strata_operator")
    warnings.push("ANONYMOUS_ROLE is operator: everybody who reaches the port may change everything");
  if (config.ANONYMOUS_ROLE === "strata_ingestor")
    warnings.push("ANONYMOUS_ROLE is ingestor: everybody who reaches the port may send rows");
  if (config.JWKS_URL && !(config.JWT_AUDIENCE && config.JWT_ISSUER))
    warnings.push(
      "JWKS_URL without JWT_AUDIENCE and JWT_ISSUER: tokens made for other services are accepted",
    );
  if (config.JWKS_URL?.startsWith("http:") && !isLocal(new URL(config.JWKS_URL).hostname))
    warnings.push("JWKS_URL is not https: whoever sits in between can choose the keys");
  if (!config.DATABASE_URL && !isLocal(config.HOST))
    warnings.push(`HOST is ${config.HOST}, and the embedded database is meant for one machine`);
  return warnings;
}
