// Sends incidents as webhooks: JSON as the Standard Webhooks specification recommends, or a message for Slack.
import { randomUUID } from "node:crypto";
import { Webhook } from "standardwebhooks";
import type { Config } from "../config.ts";
import type { Message } from "./deliver.ts";
import { postJson, type Posted } from "./post.ts";

interface Alert {
  type: string;
  timestamp: string;
  data: { detail: string; database: string };
}

export async function sendAlert(
  config: Config,
  { publicId, body }: Pick<Message, "publicId" | "body">,
  signal?: AbortSignal,
): Promise<Posted> {
  const url = config.ALERT_WEBHOOK_URL;
  if (url === undefined) throw new Error("ALERT_WEBHOOK_URL is not set for this worker");
  const text = JSON.stringify(formatOf(config) === "slack" ? slackMessage(body as Alert) : body);
  return postJson(url, text, sign(config, publicId, text), signal);
}

/** Sends a test alert at once, not by the queue, since the user waits for the result. */
export const sendTestAlert = (config: Config): Promise<Posted> =>
  sendAlert(config, {
    publicId: randomUUID(),
    body: {
      type: "test",
      timestamp: new Date().toISOString(),
      data: { detail: "This is a test of ALERT_WEBHOOK_URL; nothing is wrong." },
    },
  });

const formatOf = ({ ALERT_WEBHOOK_FORMAT, ALERT_WEBHOOK_URL }: Config): "json" | "slack" =>
  ALERT_WEBHOOK_FORMAT ?? (new URL(ALERT_WEBHOOK_URL!).hostname === "hooks.slack.com" ? "slack" : "json");

/** Signs the body with the time of the attempt, so that receivers can reject replayed messages. */
function sign({ ALERT_WEBHOOK_SECRET: secret }: Config, publicId: string, body: string) {
  const id = `msg_${publicId}`;
  const now = new Date();
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(now.getTime() / 1000)),
    ...(secret !== undefined && { "webhook-signature": new Webhook(secret).sign(id, now, body) }),
  };
}

const WORDS: Record<string, string> = {
  "incident.opened": ":red_circle: ",
  "incident.resolved": ":large_green_circle: Over: ",
};

function slackMessage({ type, data: { detail, database } }: Alert): { text: string } {
  const escaped = detail.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  return { text: `${WORDS[type] ?? ""}${escaped}${database ? ` (Strata on ${database})` : ""}` };
}
