// The GraphiQL page: who may open it, and the policy that lets its scripts run and no others.
import { randomBytes } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import type { FastifyInstance } from "fastify";
import type {} from "grafserv/fastify/v5";
import type { Config } from "../config.ts";
import { createToken } from "../http/token.ts";
import { apiError } from "./errors.ts";
import { tabsScript } from "./graphiql-tabs.ts";
import { tokenScript } from "./graphiql-token.ts";

export const GRAPHQL_PATH = "/graphql";
export const GRAPHIQL_PATH = "/graphiql";
const ASSETS = "/ruru-static/";

// Monaco needs inline styles; its workers and chunks are served from here.
const policy = (scripts: string): string =>
  [
    "default-src 'none'",
    `script-src ${scripts}`,
    "style-src 'self' 'unsafe-inline'",
    "font-src 'self' data:",
    "img-src 'self' data:",
    "worker-src 'self' blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join(";");

/** Compares the route, since the same path can be written in several ways. */
export const isPage = (route: string | undefined): boolean =>
  route === GRAPHIQL_PATH || route === `${ASSETS}*`;

export function addPageRules(app: FastifyInstance, { GRAPHIQL_ROLES }: Config): void {
  app.addHook("preHandler", ({ routeOptions, claims }, reply, done) => {
    if (!isPage(routeOptions.url)) return done();
    if (!GRAPHIQL_ROLES.includes(claims.isAnonymous ? "anonymous" : claims.role!))
      return done(apiError("FORBIDDEN", "Your role may not open GraphiQL"));
    void reply.header("content-security-policy", policy("'self'"));
    done();
  });
}

/** True for names that pages of other machines cannot have: a site that rebinds its own name to this address gets no token. */
const isLocal = (host: string | undefined): boolean =>
  /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/.test(host ?? "");

/** True for a page that a person opened, or a client without a browser; false for requests by other sites' pages. */
const isOwn = ({ origin, "sec-fetch-site": site = "none" }: IncomingHttpHeaders): boolean =>
  origin === undefined && (site === "none" || site === "same-origin");

/** On the embedded database, users of this machine get the page with an operator's token. */
async function tokenFor(config: Config, headers: IncomingHttpHeaders): Promise<string | undefined> {
  const isEmbeddedDefault = !config.DATABASE_URL && isLocal(config.HOST);
  if (!isEmbeddedDefault || !isLocal(headers.host) || !isOwn(headers)) return undefined;
  return createToken(config, { role: "strata_operator", subject: "graphiql", ttl: "12h" });
}

/** The same picture as studio/icon.svg. */
const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path fill="#7c9cff" d="M16 3 3 9.5 16 16l13-6.500z"/><path fill="#4f74f5" d="m3 14.500 13 6.500 13-6.500v3L16 24 3 17.500z" opacity=".85"/><path fill="#2e4fd0" d="m3 20.500 13 6.500 13-6.500v3L16 30 3 23.500z" opacity=".8"/></svg>`;
const ICON_URL = `data:image/svg+xml;base64,${Buffer.from(ICON).toString("base64")}`;

// The page has a name and an icon of its own, and no buttons for plans and SQL, which this server shows nobody.
const HEAD = `<title>GraphiQL – Strata</title>
<link rel="icon" type="image/svg+xml" href="${ICON_URL}" />
<style>
  .graphiql-logo a { font-size: 0; pointer-events: none; }
  .graphiql-logo a::after { content: "Strata"; font-size: 18px; }
  .graphiql-logo a::before { content: url("${ICON_URL}"); display: inline-block; width: 20px; margin-right: 6px; vertical-align: middle; }
  [aria-label="Show Explain"], [aria-label="Hide Explain"],
  [title="View the SQL statements that this query invokes"], [title="Don't hide explain from results"] { display: none !important; }
</style>`;

export const createGraphiqlPlugin = (config: Config): GraphileConfig.Plugin => ({
  name: "GraphiqlPlugin",
  version: "1.0.0",
  grafserv: {
    middleware: {
      async ruruHTML(next, { request, htmlParts }) {
        const nonce = randomBytes(16).toString("base64");
        const { reply, request: page } = (request.requestContext as Grafast.RequestContext).fastifyv5;
        void reply.header("content-security-policy", policy(`'self' 'nonce-${nonce}'`));
        const token = await tokenFor(config, page.headers);
        if (token) void reply.header("cache-control", "no-store");
        htmlParts.titleTag = HEAD;
        htmlParts.headerScripts += tabsScript(token !== undefined) + tokenScript(token, GRAPHQL_PATH);
        return (await next()).replaceAll("<script", `<script nonce="${nonce}"`);
      },
    },
  },
});
