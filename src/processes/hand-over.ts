// Node's cluster passes each connection to one process and waits for its reply. If the process ends before it
// replies, the connection is lost and its client waits in vain. This module passes it to another process.
import cluster, { type Worker } from "node:cluster";
import type { ChildProcess } from "node:child_process";

/** Fields of an internal message of Node's cluster; another version of Node may not have them. */
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
      // The other process's reply settles the pending message, since the cluster matches replies by number only.
      if (other) other.process.send(...message);
      else (message[1] as { close(): void }).close();
  });
}
