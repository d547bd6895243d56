// Who is asking: a bearer token becomes a role and a subject, nothing else is trusted.
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRemoteJWKSet, errors, jwtVerify, SignJWT, type JWTPayload, type JWTVerifyGetKey } from "jose";
import { isRole, toRole, type Config, type Role } from "../config.ts";

export interface Claims {
  role: Role | undefined;
  subject: string | undefined;
  /** Seconds since 1970; undefined for anonymous requests. */
  expiresAt: number | undefined;
}

export class AuthenticationError extends Error {
  readonly statusCode = 401;
  readonly code = "UNAUTHENTICATED";
}

export interface Authenticator {
  /** Takes the Authorization header's value; throws AuthenticationError. */
  authenticate(authorization: string | undefined): Promise<Claims>;
}

const encode = (secret: string): Uint8Array => new TextEncoder().encode(secret);

/** JWT_SECRET, or on the embedded default one made on first use and kept in the data folder. */
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
  return token.sign(encode(secret));
}

export function createAuthenticator(config: Config): Authenticator {
  const secret = signingSecret(config);
  if (!secret && !config.JWKS_URL)
    throw new Error("Neither JWT_SECRET nor JWKS_URL is set; set one, tokens cannot be checked without it");
  const expectations = { audience: config.JWT_AUDIENCE, issuer: config.JWT_ISSUER };
  const remote: JWTVerifyGetKey | undefined = config.JWKS_URL
    ? createRemoteJWKSet(new URL(config.JWKS_URL))
    : undefined;

  // The key decides the algorithm, never the token: no HS256 with a public key, no "none".
  const verify = async (token: string): Promise<JWTPayload> =>
    remote
      ? (await jwtVerify(token, remote, { ...expectations, algorithms: ["RS256", "ES256"] })).payload
      : (await jwtVerify(token, encode(secret!), { ...expectations, algorithms: ["HS256"] })).payload;

  return {
    async authenticate(authorization) {
      if (authorization === undefined || authorization === "") {
        const role = config.ANONYMOUS_ROLE === "none" ? undefined : config.ANONYMOUS_ROLE;
        return { role, subject: undefined, expiresAt: undefined };
      }
      const token = /^Bearer ([\w-]+\.[\w-]+\.[\w-]+)$/i.exec(authorization)?.[1];
      if (!token)
        throw new AuthenticationError("The Authorization header is not of the form: Bearer <JSON Web Token>");
      let payload: JWTPayload;
      try {
        payload = await verify(token);
      } catch (error) {
        throw new AuthenticationError(describe(error), { cause: error });
      }
      const role = typeof payload.role === "string" ? toRole(payload.role) : payload.role;
      if (!isRole(role))
        throw new AuthenticationError('The token\'s claim "role" must be reader, ingestor or operator');
      return { role, subject: payload.sub, expiresAt: payload.exp };
    },
  };
}

function describe(error: unknown): string {
  if (error instanceof errors.JWTExpired) return "The token has expired";
  if (error instanceof errors.JWTClaimValidationFailed)
    return `The token's claim "${error.claim}" is missing or not what is expected here`;
  if (error instanceof errors.JOSEAlgNotAllowed)
    return "The token is signed with an algorithm not accepted here";
  if (error instanceof errors.JWKSTimeout) return "The token cannot be checked: the key set does not answer";
  return "The token is malformed or its signature does not match";
}
