// Authentication: turns a bearer token into a role and a subject, and trusts nothing else.
import { createSecretKey } from "node:crypto";
import { createRemoteJWKSet, errors, jwtVerify, type JWTPayload } from "jose";
import { createBoundedMap } from "../bounded-map.ts";
import { isRole, toRole, type Config, type Role } from "../config.ts";
import { apiError } from "../graphql/errors.ts";
import { signingSecret } from "./token.ts";

export interface Claims {
  /** Decides limits and pages; `databaseRole` decides rights in the database. */
  role: Role | undefined;
  /** The same role, or a database role of the user's own that is a member of it. */
  databaseRole: string | undefined;
  /** All claims of the token, for policies: `current_setting('request.jwt.claims', true)::jsonb`. */
  json: string;
  /** Recorded as the actor of runs; "anonymous" without a token, so that it is never the database's login. */
  subject: string;
  /** True for a request without a token. */
  isAnonymous: boolean;
  /** Seconds since 1970; undefined for anonymous requests. */
  expiresAt: number | undefined;
}

const unauthenticated = (message: string, extensions?: Record<string, unknown>, cause?: unknown): Error =>
  Object.assign(apiError("UNAUTHENTICATED", message, extensions), { cause });

/** Tells a caller without an accepted token where to get one. */
const howToGetOne = ({ JWKS_URL, JWT_ISSUER }: Config): string =>
  JWKS_URL
    ? `The identity provider${JWT_ISSUER === undefined ? "" : ` (${JWT_ISSUER})`} issues tokens`
    : "`strata token --role reader` prints one, where the server is installed";

export interface Authenticator {
  /** Takes the Authorization header's value; throws UNAUTHENTICATED, or SERVICE_UNAVAILABLE without the keys. */
  authenticate(authorization: string | undefined): Promise<Claims>;
  /** Cached claims of a header that was checked before; undefined if it was not. */
  recall(authorization: string | undefined): Claims | undefined;
  /** Rejects a caller without a role: one without a token while ANONYMOUS_ROLE is empty. */
  requireRole(this: void, claims: Claims): Claims;
}

/** Finds the role of Strata that a database role is a member of, if requests may use that role. */
export type FindRole = (name: string) => Promise<Role | undefined>;

export function createAuthenticator(config: Config, findRole?: FindRole): Authenticator {
  const verify = createVerifier(config);
  const known = createBoundedMap<string, { claims: Claims; until: number }>(MAX_KNOWN);
  const role = config.ANONYMOUS_ROLE === "none" ? undefined : config.ANONYMOUS_ROLE;
  const anonymous: Claims = {
    role,
    databaseRole: role,
    json: JSON.stringify({ role }),
    subject: "anonymous",
    isAnonymous: true,
    expiresAt: undefined,
  };

  let loggedAt = -Infinity;
  const isRepeated = (): boolean => {
    const isRecent = performance.now() - loggedAt < KEY_SET_LOG_MS;
    if (!isRecent) loggedAt = performance.now();
    return isRecent;
  };

  const recall: Authenticator["recall"] = (authorization) => {
    if (!authorization) return anonymous;
    const cached = known.get(authorization);
    return cached && cached.until > Date.now() ? cached.claims : undefined;
  };

  async function check(authorization: string): Promise<Claims> {
    const token = /^Bearer ([\w-]+\.[\w-]+\.[\w-]+)$/i.exec(authorization)?.[1];
    if (!token) throw unauthenticated("The Authorization header is not of the form: Bearer <JSON Web Token>");
    const payload = await verify(token).catch((error: unknown) => explain(error, isRepeated));
    return toClaims(payload, findRole);
  }

  const how = howToGetOne(config);
  const withHint = (error: unknown): unknown => {
    const { message, extensions, cause } = error as Error & { extensions?: Record<string, unknown> };
    return extensions?.code === "UNAUTHENTICATED"
      ? unauthenticated(`${message}. ${how}`, extensions, cause)
      : error;
  };

  return {
    recall,
    requireRole(claims) {
      if (claims.role !== undefined) return claims;
      const demand = "This server answers only requests with a token: Authorization: Bearer <token>";
      throw withHint(unauthenticated(demand));
    },
    async authenticate(authorization) {
      const cached = recall(authorization);
      if (cached || !authorization) return cached ?? anonymous;
      try {
        const claims = await check(authorization);
        const until = Math.min(claims.expiresAt! * 1000, Date.now() + KNOWN_MS);
        known.set(authorization, { claims, until });
        return claims;
      } catch (error) {
        throw withHint(error);
      }
    },
  };
}

/** Time in ms for which a checked token is cached. A revoked key is noticed after it at the latest. */
const KNOWN_MS = 60_000;
const MAX_KNOWN = 1_000;

/** The key decides the algorithm, never the token: no HS256 with a public key, no "none". */
function createVerifier(config: Config): (token: string) => Promise<JWTPayload> {
  const expectations = {
    audience: config.JWT_AUDIENCE,
    issuer: config.JWT_ISSUER,
    requiredClaims: ["exp"],
  };
  if (config.JWKS_URL) {
    const keys = createRemoteJWKSet(new URL(config.JWKS_URL));
    const options = { ...expectations, algorithms: ["RS256", "ES256"] };
    return async (token) => (await jwtVerify(token, keys, options)).payload;
  }
  const secret = signingSecret(config);
  if (!secret)
    throw new Error("Neither JWT_SECRET nor JWKS_URL is set; set one, tokens cannot be checked without it");
  const key = createSecretKey(secret, "utf8");
  const options = { ...expectations, algorithms: ["HS256"] };
  return async (token) => (await jwtVerify(token, key, options)).payload;
}

async function toClaims(payload: JWTPayload, findRole?: FindRole): Promise<Claims> {
  const { role: given, sub, exp } = payload;
  const known = typeof given === "string" ? toRole(given) : given;
  const role = isRole(known) ? known : typeof given === "string" ? await findRole?.(given) : undefined;
  if (role === undefined)
    throw unauthenticated(
      'The token\'s claim "role" must be reader, ingestor or operator, or a database role that is a member of one of them',
    );
  if (typeof sub !== "string" || sub.trim() === "")
    throw unauthenticated('The token\'s claim "sub" must say who it is for, in a string that is not empty');
  return {
    role,
    databaseRole: isRole(known) ? known : (given as string),
    json: JSON.stringify(payload),
    subject: sub,
    isAnonymous: false,
    expiresAt: exp,
  };
}

/** Milliseconds between two log lines about a key set that does not answer, however many tokens come meanwhile. */
const KEY_SET_LOG_MS = 30_000;

function explain(error: unknown, isRepeated: () => boolean): never {
  if (error instanceof errors.JWTExpired)
    throw unauthenticated("The token has expired", { reason: "expired" }, error);
  if (error instanceof errors.JWTClaimValidationFailed)
    throw unauthenticated(`The token's claim "${error.claim}" is missing or not what is expected here`);
  if (error instanceof errors.JOSEAlgNotAllowed)
    throw unauthenticated("The token is signed with an algorithm not accepted here");
  if (error instanceof errors.JOSEError && FAULTS_OF_TOKEN.test(error.code))
    throw unauthenticated("The token is malformed or its signature does not match", undefined, error);
  throw Object.assign(
    apiError("SERVICE_UNAVAILABLE", "The token cannot be checked: the key set (JWKS_URL) does not answer"),
    { cause: error, isRepeated: isRepeated() },
  );
}

/** Error codes that are the token's fault; others are the key set's. */
const FAULTS_OF_TOKEN =
  /^ERR_(JWT_|JWS_|JWKS_NO_MATCHING_KEY|JWKS_MULTIPLE_MATCHING_KEYS|JOSE_NOT_SUPPORTED)/;
