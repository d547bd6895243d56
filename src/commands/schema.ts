import { writeFileSync } from "node:fs";
import { createGraphql } from "../server/graphql.ts";
import { withDatabase } from "./with-database.ts";

const file = new URL("../../schema.graphql", import.meta.url);

export async function schema(options: { write?: boolean }): Promise<void> {
  const sdl = await withDatabase(async (database, config) => {
    const authenticator = { authenticate: () => Promise.reject(new Error("no requests here")) };
    const graphql = createGraphql({ config, database, authenticator });
    try {
      return await graphql.printSdl();
    } finally {
      await graphql.instance.release();
    }
  });
  if (options.write) writeFileSync(file, sdl);
  else process.stdout.write(sdl);
}
