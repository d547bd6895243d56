// Answers on the port until the database is available: /healthz with 200, everything else with 503.
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Config } from "../config.ts";
import { RETRY_AFTER_S } from "./health.ts";

export interface StartingServer {
  port: number;
  close(): Promise<void>;
}

const alive = JSON.stringify({ status: "ok" });
const notReady = JSON.stringify({
  status: "not ready",
  checks: { database: { ok: false, detail: "waiting for it to answer" } },
});
const unavailable = JSON.stringify({
  errors: [{ message: "The server is starting", extensions: { code: "SERVICE_UNAVAILABLE" } }],
});

export async function listenWhileStarting({ HOST, PORT }: Config): Promise<StartingServer> {
  const server = createServer((request, response) => {
    const path = request.url?.split("?")[0];
    response.setHeader("content-type", "application/json; charset=utf-8");
    response.setHeader("connection", "close");
    if (path === "/healthz") return response.end(alive);
    response.writeHead(503, { "retry-after": String(RETRY_AFTER_S) });
    response.end(path === "/readyz" ? notReady : unavailable);
  });
  server.listen(PORT, HOST);
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
