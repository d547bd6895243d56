// Node's cluster hands each connection to one process and waits for its reply. If the process ends before it replies,
// nobody has the connection: its client waits until it gives up. Here it goes to another process.
import cluster, { type Worker } from "node:cluster";
import type { ChildProcess } from "node:child_process";

/** The part that counts here of a message of Node's own; with another Node, none may be found. */
interface OwnMessage {
  cmd?: string;
  act?: string;
  /** Number of a message that expects a reply. */
  seq?: number;
  /** Number of the message that this one replies to. */
  ack?: number;
}

export function keepConnectionsOf(worker: Worker): void {
  const { process } = worker;
  const handed = new Map<number, Parameters<ChildProcess["send"]>>();
  const send = process.send.bind(process) as (...args: Parameters<ChildProcess["send"]>) => boolean;
  process.send = ((...args: Parameters<ChildProcess["send"]>) => {
    const { cmd, act, seq } = args[0] as OwnMessage;
    if (cmd === "NODE_CLUSTER" && act === "newconn" && seq !== undefined) handed.set(seq, args);
    return send(...args);
  }) as ChildProcess["send"];
  process.on("internalMessage", ({ ack }: OwnMessage) => ack !== undefined && handed.delete(ack));
  worker.once("exit", () => {
    const other = Object.values(cluster.workers ?? {}).find((one) => one?.isConnected() && one !== worker);
    for (const message of handed.values())
      // The reply ends what the first process left undone: the cluster knows messages by their numbers alone.
      if (other) other.process.send(...message);
      else (message[1] as { close(): void }).close();
  });
}
