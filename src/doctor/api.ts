// Can the API be built from the catalogue as it is now? Running servers go on with an older one if not.
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
