// Makes bearer tokens. Checking them is in ./auth.ts, so that `strata token` loads no GraphQL library.
import { createSecretKey, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SignJWT } from "jose/jwt/sign";
import type { Config, Role } from "../config.ts";

/** JWT_SECRET, or on the embedded database a secret that is made on first use and stored in the data folder. */
export function signingSecret(config: Config): string | undefined {
  if (config.JWT_SECRET) return config.JWT_SECRET;
  if (config.DATABASE_URL) return undefined;
  const path = join(config.DATA_DIR, "jwt-secret");
  try {
    return readFileSync(path, "utf8");
  } catch {
    mkdirSync(config.DATA_DIR, { recursive: true, mode: 0o700 });
    writeFileSync(path, randomBytes(32).toString("base64url"), { mode: 0o600, flag: "wx" });
    return readFileSync(path, "utf8");
  }
}

export async function createToken(
  config: Config,
  options: { role: Role; subject?: string; ttl?: string },
): Promise<string> {
  const secret = signingSecret(config);
  if (!secret) throw new Error("JWT_SECRET is not set; tokens are signed with it (at least 32 characters)");
  const token = new SignJWT({ role: options.role })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setSubject(options.subject ?? "strata-cli")
    .setIssuedAt()
    .setExpirationTime(options.ttl ?? "1h");
  if (config.JWT_AUDIENCE) token.setAudience(config.JWT_AUDIENCE);
  if (config.JWT_ISSUER) token.setIssuer(config.JWT_ISSUER);
  return token.sign(createSecretKey(secret, "utf8"));
}
