// The only reader of process.env. Every fault is collected, so that one start shows them all.
import { isIP } from "node:net";
import * as z from "zod";

const ROLES = ["strata_reader", "strata_ingestor", "strata_operator"] as const;
export type Role = (typeof ROLES)[number];
export const isRole = (value: unknown): value is Role => ROLES.includes(value as Role);

/** "reader" and "strata_reader" name the same role. */
export const toRole = (value: string): string => (value.startsWith("strata_") ? value : `strata_${value}`);

export type Caller = Role | "anonymous";
const words = (value: string): string[] => value.split(/[\s,]+/).filter(Boolean);

const integer = (min: number, max: number, fallback: number) =>
  z.coerce.number().int().min(min).max(max).default(fallback);
// The worker's own parser would take longer to load than most commands run; config.test.ts checks that both accept
// the same.
const CRON_FIELDS: [name: string, min: number, max: number][] = [
  ["minute", 0, 59],
  ["hour", 0, 23],
  ["day of the month", 1, 31],
  ["month", 1, 12],
  ["day of the week", 0, 7],
];

function findCronFault(value: string): string | undefined {
  const fields = value.split(/\s+/);
  if (fields.length !== CRON_FIELDS.length) return `it has ${fields.length}`;
  for (const [i, [name, min, max]] of CRON_FIELDS.entries())
    for (const part of fields[i]!.split(",")) {
      const match = /^(?:(\d+)(?:-(\d+))?|\*(?:\/(\d+))?)$/.exec(part);
      const [, first, last, step = 1] = match ?? [];
      const isRange = last === undefined || Number(first) < Number(last);
      const isWithin = [first, last].every(
        (number) => number === undefined || (+number >= min && +number <= max),
      );
      if (!match || !isRange || !isWithin || Number(step) < 1)
        return `the ${name} "${part}" is none of *, */n, n, n-m with numbers from ${min} to ${max}`;
    }
  return undefined;
}

const cron = (fallback: string) =>
  z
    .string()
    .check(({ value, issues }) => {
      const problem = findCronFault(value);
      const message = `expected five cron fields, such as '0 * * * *' (UTC): ${problem}`;
      if (problem) issues.push({ code: "custom", input: value, message });
    })
    .default(fallback);
/** A list of callers that may do something; "anonymous" means requests without a token, "none" nobody. */
const callers = z
  .string()
  .default("anonymous,reader,ingestor,operator")
  .transform((value) =>
    words(value).flatMap((name) => (name === "none" ? [] : name === "anonymous" ? name : toRole(name))),
  )
  .refine((names): names is Caller[] => names.every((name) => name === "anonymous" || isRole(name)), {
    error: "expected a list of anonymous, reader, ingestor, operator, or none",
  });
/**
 * One number for all callers, or one for each ("reader=5000 operator=60000"); callers that are not named keep the
 * default.
 */
const perCaller = <T extends Caller>(defaults: Record<T, number>, max: number) =>
  z
    .string()
    .default("")
    .transform((value, context): Record<T, number> => {
      const known = Object.keys(defaults) as T[];
      const limits = { ...defaults };
      for (const word of words(value)) {
        const [, name, number] = /^(?:(\w+)=)?(\d{1,12})$/.exec(word) ?? [];
        const named =
          name === undefined ? known : known.filter((caller) => caller === name || caller === toRole(name));
        if (named.length === 0 || number === undefined || Number(number) > max)
          context.addIssue({
            code: "custom",
            message: `expected a number from 0 to ${max}, for all or as ${known.map((caller) => `${caller.replace("strata_", "")}=…`).join(" ")}`,
          });
        for (const caller of named) limits[caller] = Number(number);
      }
      return limits;
    });
const forRoles = (number: number): Record<Role, number> => ({
  strata_reader: number,
  strata_ingestor: number,
  strata_operator: number,
});
function isProxy(name: string): boolean {
  if (["loopback", "linklocal", "uniquelocal"].includes(name)) return true;
  const [, address = "", bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(name) ?? [];
  const version = isIP(address);
  const length = Number(bits ?? 1);
  return version !== 0 && length >= 1 && length <= (version === 4 ? 32 : 128);
}
const isWithin = (value: number, min: number, max: number): boolean => value >= min && value <= max;
const url = z
  .string()
  .refine((value) => URL.canParse(value) && /^https?:/.test(value), { error: "expected a URL" })
  .optional();
const databaseUrl = z
  .string()
  .regex(/^postgres(ql)?:\/\//, "expected postgres://user:password@host:port/database")
  .optional();

const schema = z.object({
  DATABASE_URL: databaseUrl,
  // A pooler such as PgBouncer in transaction mode, used for GraphQL operations; everything else needs real sessions.
  POOLED_DATABASE_URL: databaseUrl,
  // Streaming replicas of DATABASE_URL that answer queries, one server per URL.
  READ_DATABASE_URLS: z
    .string()
    .default("")
    .transform(words)
    .refine((urls) => urls.every((value) => /^postgres(ql)?:\/\//.test(value) && URL.canParse(value)), {
      error: "expected postgres://user:password@host:port/database, several separated by commas or spaces",
    }),
  // Number of processes that serve together; auto: as many as cores and connections allow.
  PROCESSES: z
    .union([z.literal("auto"), integer(1, 64, 1)], { error: "expected a number from 1 to 64, or auto" })
    .default(1),
  DATA_DIR: z.string().default(".data"),
  // Port of the embedded database on 127.0.0.1, for logins that `strata login create` has made.
  EMBEDDED_PORT: z.coerce.number().int().min(1).max(65535).optional(),
  DATASETS_DIR: z.string().default("datasets"),
  HOST: z.string().default("127.0.0.1"),
  PORT: integer(0, 65535, 4000),
  JWT_SECRET: z
    .string()
    .min(32, "expected at least 32 characters")
    .refine(
      (value) => new Set(value).size >= 10,
      "expected a random value, such as `openssl rand -base64 32` prints",
    )
    .optional(),
  JWKS_URL: url,
  JWT_AUDIENCE: z.string().optional(),
  JWT_ISSUER: z.string().optional(),
  // Role of requests without a token. Empty: none, they get 401. Unset: reader on the embedded database, else none.
  ANONYMOUS_ROLE: z
    .string()
    .transform((value) => (value === "" ? "none" : toRole(value)))
    .refine((value): value is Role | "none" => value === "none" || isRole(value), {
      error: "expected reader, ingestor, operator or nothing",
    })
    .optional(),
  CORS_ORIGINS: z
    .string()
    .default("")
    .transform(words)
    .refine(
      (origins) => origins.every((origin) => URL.canParse(origin) && new URL(origin).origin === origin),
      {
        error: "expected origins such as https://app.example.com, without a path",
      },
    ),
  DEFAULT_PAGE_SIZE: integer(1, 1_000_000, 100),
  MAX_PAGE_SIZE: integer(1, 1_000_000, 1000),
  MAX_QUERY_DEPTH: integer(1, 1000, 12),
  MAX_QUERY_COST: integer(1, 1_000_000_000, 25_000),
  // At most 256, since a JavaScript string holds 512 MB.
  MAX_RESPONSE_MB: integer(1, 256, 32),
  STATEMENT_TIMEOUT_MS: perCaller(forRoles(10_000), 86_400_000),
  // Concurrent exports. Each holds a connection for as long as its client takes to read it.
  MAX_EXPORTS: integer(0, 1000, 2),
  EXPORT_TIMEOUT_MS: perCaller(forRoles(600_000), 86_400_000),
  TRANSFORM_CRON: cron("0 * * * *"),
  REFRESH_CRON: cron("15 2 * * *"),
  CLEANUP_CRON: cron("45 3 * * *"),
  RETENTION_DAYS: integer(0, 36_500, 30),
  RUN_RETENTION_DAYS: integer(1, 36_500, 90),
  QUARANTINE_RETENTION_DAYS: integer(1, 36_500, 365),
  // Receiver of incidents; in Slack's format by default if the host is hooks.slack.com, else as JSON.
  ALERT_WEBHOOK_URL: url,
  ALERT_WEBHOOK_FORMAT: z.enum(["json", "slack"]).optional(),
  ALERT_WEBHOOK_SECRET: z
    .string()
    .regex(/^whsec_[A-Za-z0-9+/]+={0,2}$/, "expected whsec_ and 24 to 64 bytes in base64")
    .refine((value) => isWithin(Buffer.from(value.slice(6), "base64").length, 24, 64), {
      error: "expected whsec_ and 24 to 64 bytes in base64, as `openssl rand -base64 32` prints",
    })
    .optional(),
  // Rejected rows of a dataset within a day that raise an incident; 0: none does.
  ALERT_QUARANTINE_ROWS: integer(0, 1_000_000_000, 1_000),
  // The standard variables of OpenLineage's clients.
  OPENLINEAGE_URL: url,
  OPENLINEAGE_ENDPOINT: z.string().default("api/v1/lineage"),
  OPENLINEAGE_API_KEY: z.string().optional(),
  OPENLINEAGE_NAMESPACE: z.string().default("default"),
  OPENLINEAGE_DISABLED: z.stringbool().default(false),
  SLOW_OPERATION_MS: integer(1, 86_400_000, 1_000),
  METRICS_TOKEN: z.string().min(16, "expected at least 16 characters").optional(),
  SHUTDOWN_TIMEOUT_MS: integer(100, 3_600_000, 25_000),
  SHUTDOWN_DELAY_MS: integer(0, 600_000, 0),
  // Concurrent operations of all callers; further ones wait briefly, then get 503.
  MAX_CONCURRENT_OPERATIONS: integer(1, 100_000, 24),
  // Memory for cached responses that only a refresh changes; 0 turns the cache off.
  RESPONSE_CACHE_MB: integer(0, 100_000, 64),
  // Memory for cached documents, compiled reads and plans of operations.
  OPERATION_CACHE_MB: integer(1, 100_000, 100),
  RATE_LIMIT_COST: perCaller({ anonymous: 5_000_000, ...forRoles(200_000_000) }, 100_000_000_000),
  INTROSPECTION_ROLES: callers,
  GRAPHIQL_ROLES: callers,
  PERSISTED_OPERATIONS_DIR: z.string().optional(),
  PERSISTED_OPERATIONS_ONLY: z.stringbool().default(false),
  TRUSTED_PROXIES: z
    .string()
    .default("")
    .transform(words)
    .refine((names) => names.every(isProxy), {
      error: "expected addresses, networks such as 10.0.0.0/8, loopback, linklocal or uniquelocal",
    }),
  OTEL_EXPORTER_OTLP_ENDPOINT: url,
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: url,
  OTEL_SERVICE_NAME: z.string().default("strata"),
  OTEL_TRACES_SAMPLER_ARG: z.coerce.number().min(0).max(1).default(1),
  OTEL_SDK_DISABLED: z.stringbool().default(false),
  LOG_LEVEL: z.enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"]).default("info"),
});

export const VARIABLES = Object.keys(schema.shape);

export type Config = Readonly<z.output<typeof schema> & { ANONYMOUS_ROLE: Role | "none" }>;

const CONTRADICTIONS: [applies: (config: z.output<typeof schema>) => boolean, message: string][] = [
  [
    (config) => config.DEFAULT_PAGE_SIZE > config.MAX_PAGE_SIZE,
    "DEFAULT_PAGE_SIZE must not exceed MAX_PAGE_SIZE",
  ],
  [
    ({ RATE_LIMIT_COST: limits, MAX_QUERY_COST }) =>
      Object.values(limits).some((limit) => limit > 0 && limit < MAX_QUERY_COST),
    "RATE_LIMIT_COST is for a minute and must not be less than MAX_QUERY_COST, which is for one operation",
  ],
  [
    ({ JWT_SECRET, JWKS_URL }) => JWT_SECRET !== undefined && JWKS_URL !== undefined,
    "JWT_SECRET and JWKS_URL are both set; keep the one that tokens are to be checked with",
  ],
  [
    (config) => config.READ_DATABASE_URLS.length > 0 && config.DATABASE_URL === undefined,
    "READ_DATABASE_URLS needs DATABASE_URL, the primary of these replicas",
  ],
  [
    ({ PROCESSES, DATABASE_URL }) => PROCESSES !== "auto" && PROCESSES > 1 && DATABASE_URL === undefined,
    "PROCESSES needs DATABASE_URL: the embedded database is served by one process",
  ],
  [
    ({ EMBEDDED_PORT, DATABASE_URL }) => EMBEDDED_PORT !== undefined && DATABASE_URL !== undefined,
    "EMBEDDED_PORT is a port of the embedded database; with DATABASE_URL, clients log in to that server",
  ],
  [
    (config) => config.PERSISTED_OPERATIONS_ONLY && config.PERSISTED_OPERATIONS_DIR === undefined,
    "PERSISTED_OPERATIONS_ONLY needs PERSISTED_OPERATIONS_DIR, the folder of the permitted operations",
  ],
];

/** Reads `.env` and the environment (which wins); throws one error that lists every fault. */
export function loadConfig(environment: NodeJS.ProcessEnv = process.env): Config {
  if (environment === process.env) {
    try {
      process.loadEnvFile();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  const given = Object.fromEntries(
    Object.keys(schema.shape)
      .filter((name) => environment[name] || (name === "ANONYMOUS_ROLE" && environment[name] === ""))
      .map((name) => [name, environment[name]]),
  );
  const result = schema.safeParse(given);
  if (!result.success) {
    const faults = result.error.issues.map((issue) => {
      const name = String(issue.path[0]);
      // Do not print the values of secrets.
      const value = /SECRET|TOKEN|URL|KEY/.test(name) ? "" : `, given "${given[name]}"`;
      return `  ${name}: ${issue.message}${value}`;
    });
    throw new Error(
      `The configuration has ${faults.length === 1 ? "a fault" : "faults"}:\n${faults.join("\n")}`,
    );
  }
  const contradiction = CONTRADICTIONS.find(([applies]) => applies(result.data));
  if (contradiction) throw new Error(contradiction[1]);
  const { ANONYMOUS_ROLE: anonymous = result.data.DATABASE_URL ? "none" : "strata_reader" } = result.data;
  return { ...result.data, ANONYMOUS_ROLE: anonymous };
}
