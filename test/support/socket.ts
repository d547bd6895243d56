// Sockets of graphql-transport-ws: by the library, or by hand where a test is about the messages themselves.
import { once } from "node:events";
import { createClient, type Client } from "graphql-ws";
import { WebSocket } from "ws";

const addressOf = (origin: string): string => `${origin.replace("http", "ws")}/graphql`;

export const connect = (origin: string, connectionParams?: Record<string, string>): Client =>
  createClient({ url: addressOf(origin), webSocketImpl: WebSocket, connectionParams, retryAttempts: 0 });

export async function openSocket(origin: string, headers: Record<string, string> = {}) {
  const opening = socketOf(origin, headers);
  await once(opening.socket, "open");
  return opening;
}

/** Opened or not. */
export function socketOf(origin: string, headers: Record<string, string> = {}) {
  const socket = new WebSocket(addressOf(origin), "graphql-transport-ws", { headers });
  const messages: any[] = [];
  socket.on("message", (data: Buffer) => messages.push(JSON.parse(data.toString())));
  const closed = once(socket, "close").then(([code, reason]) => ({
    code: Number(code),
    reason: String(reason),
  }));
  const send = (message: unknown) => socket.send(JSON.stringify(message));
  /** The first message of this type, as soon as it is there. */
  const next = async (type: string) => {
    const isIt = (message: any) => message.type === type;
    while (!messages.some(isIt))
      await Promise.race([
        once(socket, "message"),
        closed.then((end) => Promise.reject(new Error(`closed with ${end.code} ${end.reason}`))),
      ]);
    return messages.find(isIt);
  };
  return { socket, closed, send, next };
}

export async function initialise(origin: string, payload: unknown, headers?: Record<string, string>) {
  const connection = await openSocket(origin, headers);
  connection.send({ type: "connection_init", payload });
  return connection;
}

/** The first message that answers an operation, as it was sent. */
export async function answerOnSocket(origin: string, payload: unknown, operation: object): Promise<string> {
  const { socket, send, next } = await initialise(origin, payload);
  await next("connection_ack");
  send({ type: "subscribe", id: "1", payload: operation });
  const [message] = (await once(socket, "message")) as [Buffer];
  socket.close();
  return String(message);
}
