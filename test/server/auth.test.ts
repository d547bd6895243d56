// Who are you: tokens by secret and by key set, and what is not accepted as one.
import { generateKeyPairSync } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, SignJWT, UnsecuredJWT, type JWK } from "jose";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { createAuthenticator, type Claims } from "../../src/http/auth.ts";
import { createToken } from "../../src/http/token.ts";

const SECRET = "0123456789abcdefghijklmnopqrstuvwxyz";
const database = { DATABASE_URL: "postgres://localhost/none" };
const configured = (environment: Record<string, string>) =>
  createAuthenticator(loadConfig({ ...database, ...environment }));
const encoded = (text: string) => new TextEncoder().encode(text);
const inOneHour = () => Math.floor(Date.now() / 1000) + 3600;
const code = (promise: Promise<unknown>): Promise<{ code: string; message: string }> =>
  promise.then(
    () => ({ code: "accepted", message: "" }),
    (error: Error & { extensions: { code: string } }) => ({
      code: error.extensions.code,
      message: error.message,
    }),
  );

afterEach(() => void vi.useRealTimers());

describe("with a secret", () => {
  const authenticator = configured({
    JWT_SECRET: SECRET,
    JWT_AUDIENCE: "strata",
    JWT_ISSUER: "https://id.example",
  });
  const sign = (claims: Record<string, unknown>, secret = SECRET, alg = "HS256") =>
    new SignJWT({
      role: "reader",
      sub: "ann",
      aud: "strata",
      iss: "https://id.example",
      exp: inOneHour(),
      ...claims,
    })
      .setProtectedHeader({ alg })
      .sign(encoded(secret));
  const check = async (token: string | Promise<string>) =>
    authenticator.authenticate(`Bearer ${await token}`);

  test("a token is a role and a subject, under either name of the role", async () => {
    expect(await check(sign({}))).toMatchObject({
      role: "strata_reader",
      subject: "ann",
      isAnonymous: false,
    });
    expect(await check(sign({ role: "strata_operator" }))).toMatchObject({ role: "strata_operator" });
  });

  test.each([
    ["signed with another secret", () => sign({}, `${SECRET}!`), "signature"],
    ["expired", () => sign({ exp: 1_000_000_000 }), "expired"],
    ["not valid yet", () => sign({ nbf: inOneHour() }), '"nbf"'],
    ["for ever", () => sign({ exp: undefined }), '"exp"'],
    ["for somebody else", () => sign({ aud: "other" }), '"aud"'],
    ["by somebody else", () => sign({ iss: "https://evil.example" }), '"iss"'],
    ["without a role", () => sign({ role: undefined }), '"role"'],
    ["with a role of the database", () => sign({ role: "postgres" }), '"role"'],
    ["without a subject", () => sign({ sub: undefined }), '"sub"'],
    ["with an empty subject", () => sign({ sub: " " }), '"sub"'],
    ["with a number for a subject", () => sign({ sub: 7 }), '"sub"'],
    ["with an object for a subject", () => sign({ sub: { name: "ann" } }), '"sub"'],
    ["with several roles", () => sign({ role: ["reader", "operator"] }), '"role"'],
    [
      "signed with another algorithm",
      () => sign({}, SECRET, "HS512").catch(() => sign({}, SECRET.repeat(2), "HS512")),
      "algorithm",
    ],
    [
      "not signed",
      () => new UnsecuredJWT({ role: "operator", sub: "ann", exp: inOneHour() }).encode(),
      "form",
    ],
    ["no token at all", () => "x.y.z", "malformed"],
  ])("refuses a token %s", async (_name, token, reason) => {
    expect(await code(check(token()))).toEqual({
      code: "UNAUTHENTICATED",
      message: expect.stringContaining(reason),
    });
  });

  test.each(["Basic YTpi", "Bearer", "Bearer a b", "Bearer a.b.c, Bearer a.b.c", "a.b.c"])(
    "refuses the header %j",
    async (header) => {
      expect(await code(authenticator.authenticate(header))).toMatchObject({ code: "UNAUTHENTICATED" });
    },
  );

  test("a token that was accepted is refused from its end on", async () => {
    const token = await sign({});
    await check(token);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 3_601_000 });
    expect(await code(check(token))).toMatchObject({
      code: "UNAUTHENTICATED",
      message: expect.stringMatching(/^The token has expired\. `strata token --role reader` prints one/),
    });
  });

  test("`strata token` makes tokens that pass", async () => {
    const config = loadConfig({
      ...database,
      JWT_SECRET: SECRET,
      JWT_AUDIENCE: "strata",
      JWT_ISSUER: "https://id.example",
    });
    expect(await check(createToken(config, { role: "strata_ingestor" }))).toMatchObject({
      role: "strata_ingestor",
    });
  });
});

describe("with a key set", () => {
  const makeKey = (kid: string, alg: "RS256" | "ES256" = "RS256") => ({
    kid,
    alg,
    ...(alg === "RS256"
      ? generateKeyPairSync("rsa", { modulusLength: 2048 })
      : generateKeyPairSync("ec", { namedCurve: "P-256" })),
  });
  type Key = ReturnType<typeof makeKey>;
  const first = makeKey("first");
  const second = makeKey("second", "ES256");
  let published: JWK[] = [];
  let fetched = 0;
  let server: Server;
  let url: string;

  const publish = async (...keys: Key[]) => {
    published = await Promise.all(
      keys.map(async ({ publicKey, kid, alg }) => ({
        ...(await exportJWK(publicKey)),
        kid,
        alg,
        use: "sig",
      })),
    );
  };
  const sign = ({ privateKey, alg, kid }: Key) =>
    new SignJWT({ role: "reader", sub: "ann", exp: inOneHour() })
      .setProtectedHeader({ alg, kid })
      .sign(privateKey);
  const check = async (authenticator: ReturnType<typeof configured>, token: Promise<string>) =>
    code(authenticator.authenticate(`Bearer ${await token}`));

  beforeAll(async () => {
    server = createServer((_request, response) => {
      fetched += 1;
      response.setHeader("content-type", "application/json").end(JSON.stringify({ keys: published }));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`;
  });
  afterAll(() => server.close());

  test("fetches the keys once, accepts RS256 and ES256", async () => {
    await publish(first, second);
    fetched = 0;
    const authenticator = configured({ JWKS_URL: url });
    for (const key of [first, second, first])
      expect(await check(authenticator, sign(key))).toMatchObject({ code: "accepted" });
    expect(fetched).toBe(1);
  });

  test("follows a rotation: a new key is fetched, one that was withdrawn is refused", async () => {
    await publish(first);
    const authenticator = configured({ JWKS_URL: url });
    expect(await check(authenticator, sign(first))).toMatchObject({ code: "accepted" });
    await publish(second);
    // Unknown keys ask for a fetch at most every 30 seconds, whoever sends them.
    fetched = 0;
    for (let i = 0; i < 5; i++)
      expect(await check(authenticator, sign(second))).toMatchObject({ code: "UNAUTHENTICATED" });
    expect(fetched).toBe(0);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 31_000 });
    expect(await check(authenticator, sign(second))).toMatchObject({ code: "accepted" });
    expect(await check(authenticator, sign(first))).toMatchObject({ code: "UNAUTHENTICATED" });
  });

  test("does not take the public key for a secret, nor a key of another kind", async () => {
    await publish(first);
    const authenticator = configured({ JWKS_URL: url });
    const publicPem = first.publicKey.export({ type: "spki", format: "pem" }).toString();
    const forged = new SignJWT({ role: "operator", sub: "ann", exp: inOneHour() })
      .setProtectedHeader({ alg: "HS256", kid: "first" })
      .sign(encoded(publicPem));
    expect(await check(authenticator, forged)).toMatchObject({ code: "UNAUTHENTICATED" });
    const swapped = sign({ ...second, kid: "first" });
    expect(await check(authenticator, swapped)).toMatchObject({ code: "UNAUTHENTICATED" });
  });

  test("says 503, not 401, when the key set does not answer", async () => {
    const authenticator = configured({ JWKS_URL: "http://127.0.0.1:9/keys" });
    expect(await check(authenticator, sign(first))).toMatchObject({ code: "SERVICE_UNAVAILABLE" });
  });

  test("a key set that does not answer is worth one line in the log, not one a token", async () => {
    const authenticator = configured({ JWKS_URL: "http://127.0.0.1:9/keys" });
    const faults = [];
    for (let i = 0; i < 3; i++)
      faults.push(
        await authenticator.authenticate(`Bearer ${await sign(first)}`).catch((error: unknown) => error),
      );
    expect(faults).toMatchObject([{ isRepeated: false }, { isRepeated: true }, { isRepeated: true }]);
  });
});

test("who has no token reads how to get one", () => {
  const demand = (environment: Record<string, string>) => {
    const { requireRole } = configured(environment);
    return () => requireRole({ role: undefined } as Claims);
  };
  expect(demand({ JWT_SECRET: SECRET })).toThrow(/Bearer <token>\. `strata token --role reader` prints one/);
  expect(demand({ JWKS_URL: "https://id.example/keys", JWT_ISSUER: "https://id.example" })).toThrow(
    /Bearer <token>\. The identity provider \(https:\/\/id\.example\) issues tokens$/,
  );
});

describe("configuration", () => {
  test.each([
    [{}, "Neither JWT_SECRET nor JWKS_URL is set"],
    [{ JWT_SECRET: "short" }, "JWT_SECRET: expected at least 32 characters"],
    [{ JWT_SECRET: "a".repeat(64) }, "JWT_SECRET: expected a random value"],
    [{ JWT_SECRET: SECRET, JWKS_URL: "https://id.example/keys" }, "both set"],
    [{ JWKS_URL: "ftp://id.example" }, "JWKS_URL: expected a URL"],
    [{ JWT_SECRET: SECRET, ANONYMOUS_ROLE: "postgres" }, "ANONYMOUS_ROLE: expected reader"],
  ])("%j is refused with a sentence", (environment, sentence) => {
    let message = "";
    try {
      configured(environment);
    } catch (error) {
      ({ message } = error as Error);
    }
    expect(message).toContain(sentence);
    expect(message).not.toContain("short,");
    expect(message).not.toContain("aaaa");
  });

  test("without a token there is the anonymous role, or none", async () => {
    const anonymous = { subject: "anonymous", isAnonymous: true, expiresAt: undefined };
    const ask = (environment: Record<string, string>) =>
      configured({ JWT_SECRET: SECRET, ...environment }).authenticate(undefined);
    expect(await ask({})).toMatchObject({ ...anonymous, role: undefined });
    expect(await ask({ ANONYMOUS_ROLE: "" })).toMatchObject({ ...anonymous, role: undefined });
    expect(await ask({ ANONYMOUS_ROLE: "reader" })).toMatchObject({ ...anonymous, role: "strata_reader" });
  });
});
