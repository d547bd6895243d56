import { InvalidArgumentError, type Command } from "commander";
import { isRole, loadConfig, toRole, type Role } from "../config.ts";
import { createToken } from "../http/token.ts";
import { parseName, parseTtl } from "./options.ts";

export async function token(options: {
  role: Role;
  sub?: string;
  ttl: string;
  json?: boolean;
}): Promise<void> {
  const made = await createToken(loadConfig(), {
    role: options.role,
    subject: options.sub,
    ttl: options.ttl,
  });
  console.log(options.json ? JSON.stringify({ token: made }) : made);
}

export const tokenCommand = (command: Command): Command =>
  command
    .requiredOption("--role <role>", "reader, ingestor or operator", parseRole)
    .option("--sub <name>", "subject of the token, shown as the actor of runs", parseName)
    .option("--ttl <duration>", "validity, such as 90s, 15m, 1h, 30d", parseTtl, "1h")
    .action(token);

function parseRole(value: string): Role {
  const role = toRole(value);
  if (isRole(role)) return role;
  throw new InvalidArgumentError("Allowed: reader, ingestor, operator.");
}
