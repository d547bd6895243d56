import pg from "pg";

/** Members of pg's Client and Connection that their published types leave out. */
interface ClientInternals {
  host: string;
  port: number;
  ssl: unknown;
  processID: number | null;
  secretKey: number | null;
}
interface CancelConnection extends pg.Connection {
  connect(portOrPath: number | string, host?: string): void;
  requestSsl(): void;
  cancel(processId: number, secretKey: number): void;
}

const CANCEL_TIMEOUT_MS = 5000;

/**
 * Cancels the statement that the client's connection is running. The request takes a connection of its own, which
 * does not count against max_connections; PostgreSQL closes it once the signal is sent.
 */
export function cancel(client: pg.ClientBase): Promise<void> {
  const { host, port, ssl, processID, secretKey } = client as unknown as ClientInternals;
  if (!processID || secretKey === null) return Promise.resolve();
  return new Promise((resolve) => {
    const connection = new pg.Connection({ ssl } as pg.ConnectionConfig) as CancelConnection;
    const send = () => connection.cancel(processID, secretKey);
    const timer = setTimeout(() => connection.stream.destroy(), CANCEL_TIMEOUT_MS);
    connection.once("connect", () => (ssl ? connection.requestSsl() : send()));
    connection.once("sslconnect", send);
    connection.once("error", () => connection.stream.destroy());
    connection.once("end", () => (clearTimeout(timer), resolve()));
    if (host.startsWith("/")) connection.connect(`${host}/.s.PGSQL.${port}`);
    else connection.connect(port, host);
  });
}
