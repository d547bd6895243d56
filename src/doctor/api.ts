// Checks that the API can be built from the current catalogue. If not, running servers keep an older one.
import { makeSchema } from "graphile-build";
import { validateSchema } from "grafast/graphql";
import { makePgService } from "postgraphile/adaptors/pg";
import { createPreset } from "../../graphile.config.ts";
import type { Config } from "../config.ts";
import type { Database } from "../database/connect.ts";

export async function findApiFaults(config: Config, database: Database): Promise<string[]> {
  const pgServices = [makePgService({ pool: database.pool, schemas: ["production", "analytics"] })];
  try {
    const { schema } = await makeSchema(createPreset({ pgServices, datasetsDir: config.DATASETS_DIR }));
    return validateSchema(schema).map(({ message }) => message);
  } catch (error) {
    return [(error as Error).message];
  }
}
