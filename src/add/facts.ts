// Formats a proposal as data for programs (--json).
import type { NewDataset } from "./dataset.ts";

export function facts({ rows, proposal, sql, ingest }: NewDataset) {
  const { dataset, columns, key, keyWhy, constraints, parents, day, remarks } = proposal;
  return {
    dataset,
    rows,
    key,
    keyWhy,
    columns: columns.map(({ header, name, type, notNull, why, misfits }) => ({
      header,
      name,
      type,
      notNull,
      why,
      misfits,
    })),
    constraints: constraints.map(({ name, sql: definition, doubt }) => ({
      name,
      definition,
      active: doubt === undefined,
      doubt: doubt ?? null,
    })),
    parents: parents.map(({ parent, columns: own }) => ({
      columns: own,
      table: parent.table,
      key: parent.columns,
    })),
    day: day?.name ?? null,
    remarks,
    sql,
    ingest,
  };
}
