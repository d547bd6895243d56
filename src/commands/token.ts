import { loadConfig, type Role } from "../config.ts";
import { createToken } from "../http/auth.ts";

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
