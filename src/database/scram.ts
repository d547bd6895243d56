// Makes the verifier that PostgreSQL stores for a password (SCRAM-SHA-256, RFC 5803), so that the password is never
// sent to the server, whose log may hold statements.
import { createHash, createHmac, pbkdf2Sync, randomBytes, timingSafeEqual } from "node:crypto";

const ITERATIONS = 4096;
const SALT_BYTES = 16;
const KEY_BYTES = 32;

const hmac = (key: Buffer, text: string): Buffer => createHmac("sha256", key).update(text).digest();

interface Keys {
  stored: Buffer;
  server: Buffer;
}

/** Passwords must be printable ASCII, which SASLprep does not change. */
export function keysOf(password: string, salt: Buffer, iterations: number): Keys {
  const salted = pbkdf2Sync(password, salt, iterations, KEY_BYTES, "sha256");
  const stored = createHash("sha256").update(hmac(salted, "Client Key")).digest();
  return { stored, server: hmac(salted, "Server Key") };
}

export function verifierOf(password: string): string {
  const salt = randomBytes(SALT_BYTES);
  const { stored, server } = keysOf(password, salt, ITERATIONS);
  return `SCRAM-SHA-256$${ITERATIONS}:${salt.toString("base64")}$${stored.toString("base64")}:${server.toString("base64")}`;
}

export function isPasswordOf(password: string, verifier: string): boolean {
  const [, iterations, salt, stored] = /^SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):/.exec(verifier) ?? [];
  if (iterations === undefined || salt === undefined || stored === undefined) return false;
  const expected = Buffer.from(stored, "base64");
  const given = keysOf(password, Buffer.from(salt, "base64"), Number(iterations)).stored;
  return given.length === expected.length && timingSafeEqual(given, expected);
}
