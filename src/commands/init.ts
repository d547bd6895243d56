// A folder to work in: what is there already stays as it is.
import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Command } from "commander";

const EXAMPLE = `-- A dataset is a table in production: its constraints are the rules, their comments the words of a rejection.
-- This one is an example and not active. \`strata add products.csv --write\` writes one from a file.
--
-- create table if not exists production.products (
--   sku varchar(40) not null,
--   name text not null,
--   price numeric(10, 2) not null,
--   constraint products_pkey primary key (sku),
--   constraint positive_price check (price > 0)
-- );
-- comment on table production.products is 'Something we sell; one row per product.';
-- comment on column production.products.price is 'Price of one piece in euros.';
-- comment on constraint positive_price on production.products is 'The price must be positive.';
-- select strata.add_dataset('products');
--
-- A metric is a query; its result is a table that a refresh brings up to date where something changed.
--
-- select strata.add_metric('products_by_price', query => $$
--   select price, count(*) as products from production.products group by price
-- $$);
`;

const ENVIRONMENT = `# All settings, with what they are when they are not set: .env.example of Strata.

# Your own PostgreSQL (15 or newer, with PostGIS and uuid-ossp); without it, one is embedded, with its data in .data.
#DATABASE_URL=postgres://user:password@localhost:5432/database
# With DATABASE_URL: the secret that tokens are signed with; \`openssl rand -base64 48\` prints one.
#JWT_SECRET=
#PORT=4000
`;

const README = `# Data by Strata

Tables and metrics are in \`datasets/\`, applied in the order of the files' names.

    npx strata-graphql serve                            # GraphQL and GraphiQL; applies changed files of datasets/ by itself
    npx strata-graphql add products.csv --write         # proposes a dataset from a file
    npx strata-graphql migrate                          # applies datasets/ by hand, as on a server of your own (.env)
    npx strata-graphql ingest products products.csv     # rows in
    npx strata-graphql run                              # rows into their tables, then metrics
    npx strata-graphql datasets                         # what there is, what waits, how fresh it is
`;

const FILES: Record<string, string> = {
  [join("datasets", "example.sql")]: EXAMPLE,
  ".env": ENVIRONMENT,
  ".gitignore": ".data/\n.env\n",
  "README.md": README,
};

export function init(folder: string, options: { json?: boolean }): void {
  if (statSync(folder, { throwIfNoEntry: false })?.isFile())
    throw new Error(`"${folder}" is a file; give the name of a folder, new or not`);
  const created: string[] = [];
  const kept: string[] = [];
  for (const [name, content] of Object.entries(FILES)) {
    const path = join(folder, name);
    mkdirSync(dirname(path), { recursive: true });
    (writeIfNew(path, content) ? created : kept).push(path);
  }
  if (options.json) return console.log(JSON.stringify({ created, kept }));
  for (const path of created) console.log(`Made ${path}`);
  for (const path of kept) console.log(`Kept ${path}, which was there`);
  console.log(`Next: ${folder === "." ? "" : `cd ${folder} && `}npx strata-graphql serve`);
}

function writeIfNew(path: string, content: string): boolean {
  try {
    writeFileSync(path, content, { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

export const initCommand = (command: Command): Command =>
  command.argument("[folder]", "folder to create", ".").action(init);
