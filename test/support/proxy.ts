// A TCP proxy whose target may change: an address that a service moves between servers, or a wire that is cut.
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

interface Target {
  host?: string;
  port: number;
}

export interface Proxy {
  port: number;
  /** Ends all connections; new ones lead to the target, or end at once if there is none. */
  leadTo(target: Target | undefined): void;
  /** Ends all connections, and takes new ones. */
  endAll(): void;
  close(): void;
}

/** How data passes instead of unchanged. */
interface Passing {
  toServer?: (data: Buffer, server: Socket, client: Socket) => void;
  toClient?: (data: Buffer, client: Socket) => void;
}

export async function createProxy(first: Target | undefined, passing: Passing = {}): Promise<Proxy> {
  let target = first;
  const open = new Set<Socket>();
  const endAll = (): void => open.forEach((socket) => socket.destroy());
  const proxy = createServer((client) => {
    if (!target) return void client.destroy();
    const server = connect({ host: "127.0.0.1", ...target });
    for (const socket of [client, server]) {
      open.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        open.delete(socket);
        client.destroy();
        server.destroy();
      });
    }
    const { toServer, toClient } = passing;
    if (toServer) client.on("data", (data: Buffer) => toServer(data, server, client));
    else client.pipe(server);
    if (toClient) server.on("data", (data: Buffer) => toClient(data, client));
    else server.pipe(client);
  }).listen(0, "127.0.0.1");
  await once(proxy, "listening");
  return {
    port: (proxy.address() as AddressInfo).port,
    endAll,
    leadTo(next) {
      target = next;
      endAll();
    },
    close() {
      endAll();
      proxy.close();
    },
  };
}
