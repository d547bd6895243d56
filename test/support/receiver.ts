// Somebody outside who is told by HTTP: up, down, slow, or answering what a test wants.
import { once } from "node:events";
import { createServer, type IncomingHttpHeaders, type Server } from "node:http";
import { freePort } from "./process.ts";

export interface Received {
  path: string;
  headers: IncomingHttpHeaders;
  text: string;
  body: any;
}

export interface Receiver {
  url: string;
  /** What it has taken, in the order of arrival. */
  received: Received[];
  /** How often it was asked, taken or not. */
  asked: number;
  /** Status and headers of the next answers; a function decides by request. */
  answer: (received: Received) => { status: number; headers?: Record<string, string> };
  /** As long as it is set, answers wait for it. */
  patience: Promise<void> | undefined;
  up(): Promise<void>;
  down(): Promise<void>;
}

export async function createReceiver(): Promise<Receiver> {
  const port = await freePort();
  let server: Server | undefined;
  const receiver: Receiver = {
    url: `http://127.0.0.1:${port}`,
    received: [],
    asked: 0,
    answer: () => ({ status: 204 }),
    patience: undefined,
    async up() {
      server = createServer((request, response) => {
        const chunks: Buffer[] = [];
        request.on("data", (chunk: Buffer) => chunks.push(chunk));
        request.on("end", () => {
          const text = String(Buffer.concat(chunks));
          const got = {
            path: request.url!,
            headers: request.headers,
            text,
            body: JSON.parse(text) as unknown,
          };
          receiver.asked++;
          const { status, headers } = receiver.answer(got);
          void (receiver.patience ?? Promise.resolve()).then(() => {
            if (status < 300) receiver.received.push(got);
            response.writeHead(status, headers).end();
          });
        });
      }).listen(port, "127.0.0.1");
      await once(server, "listening");
    },
    async down() {
      server?.closeAllConnections();
      server?.close();
      if (server?.listening) await once(server, "close");
      server = undefined;
    },
  };
  await receiver.up();
  return receiver;
}
