// Shows a list's rows, ordered, filtered and paged by the API; an opened row has links to related rows.
import { useState } from "preact/hooks";
import { request } from "./api.ts";
import { count, decimal, plural, textOf, title, utc } from "./format.ts";
import { openInGraphiql } from "./graphiql.ts";
import { PAGE_ARGUMENTS, PAGE_INFO, PAGE_VARIABLES, pageArguments, Pager, type PageInfo } from "./pager.tsx";
import type { ViewProps } from "./pages/explore.tsx";
import { useAction, useQuery } from "./query.ts";
import { go, hrefOf, hrefWith, route } from "./router.ts";
import {
  constant,
  detailOf,
  features,
  selectionOf,
  typeName,
  type Column,
  type Detail,
  type Relation,
} from "./schema.ts";
import { Button, csvLine, Dialog, Empty, Fault, Icon, Notice, save, Skeleton } from "./ui.tsx";

type Row = Record<string, any>;
const PAGE_SIZE = 50;
const CSV_PAGE = 1_000;
const MAX_CSV_ROWS = 100_000;

const cellText = (value: unknown, { kind }: Column): string => {
  if (value == null) return "";
  if (kind === "number") return typeof value === "string" ? decimal(value) : count(value as number);
  if (kind === "time") return utc(value as string);
  if (kind === "boolean") return value ? "yes" : "no";
  if (kind === "position") {
    const { latitude, longitude } = value as { latitude: number; longitude: number };
    return `${latitude.toFixed(4)}, ${longitude.toFixed(4)}`;
  }
  return textOf(value);
};
/** Whether numbers identify something: these are shown without separators. */
const isName = ({ name, kind }: Column, { entity }: Detail): boolean =>
  kind === "number" && (entity.key.includes(name) || /(Id|year|Year)$/.test(name));

const Cell = ({ value, column, detail }: { value: unknown; column: Column; detail: Detail }) =>
  value == null ? (
    <span class="null">
      <span aria-hidden="true">∅</span>
      <span class="hidden">empty</span>
    </span>
  ) : column.kind === "json" ? (
    <code class="ellipsis">{JSON.stringify(value)}</code>
  ) : isName(column, detail) ? (
    <>{textOf(value)}</>
  ) : (
    <span class={column.kind === "text" ? "ellipsis" : ""}>{cellText(value, column)}</span>
  );

/** Reads the order from the address, in which `-name` is descending. */
function currentOrder({ orders }: Detail): {
  name: string;
  isDescending: boolean;
  value: string | undefined;
} {
  const text = route.value.query.get("order") ?? "";
  const name = text.replace(/^-/, "");
  const isDescending = text.startsWith("-");
  const value = `${constant(name)}_${isDescending ? "DESC" : "ASC"}`;
  return { name, isDescending, value: orders.has(value) ? value : undefined };
}

const Head = ({ column, detail }: { column: Column; detail: Detail }) => {
  const order = currentOrder(detail);
  const isOrdered = order.name === column.name && order.value !== undefined;
  const next = isOrdered && !order.isDescending ? `-${column.name}` : isOrdered ? undefined : column.name;
  return (
    <th
      scope="col"
      class={column.kind === "number" && !isName(column, detail) ? "number" : ""}
      aria-sort={isOrdered ? (order.isDescending ? "descending" : "ascending") : undefined}
      title={column.description}
    >
      {column.isOrderable ? (
        <button
          type="button"
          class="order"
          onClick={() => go(hrefWith({ order: next, after: undefined, before: undefined }))}
        >
          {title(column.name)}
          <span class="arrow" aria-hidden="true">
            {isOrdered ? (order.isDescending ? "↓" : "↑") : "↕"}
          </span>
        </button>
      ) : (
        title(column.name)
      )}
    </th>
  );
};

function queryOf(detail: Detail, columns: Column[], relations: Relation[]): string {
  const { entity } = detail;
  const filter = entity.filterType ? `$filter: ${entity.filterType}, ` : "";
  const order = entity.orderType ? `$orderBy: [${entity.orderType}!], ` : "";
  const keys = relations
    .filter(({ isMany }) => !isMany)
    .map(({ field, node }) => {
      const key = features.value!.byNode.get(node)?.key ?? [];
      return key.length > 0 ? `${field} { ${key.join(" ")} }` : "";
    });
  return `query Rows(${filter}${order}${PAGE_VARIABLES}) {
  ${entity.field}(${filter && "filter: $filter, "}${order && "orderBy: $orderBy, "}${PAGE_ARGUMENTS}) {
    nodes {
      ${[...columns.map(selectionOf), ...keys.filter(Boolean)].join("\n      ")}
    }
    ${detail.hasTotal ? "totalCount" : ""}
    ${PAGE_INFO}
  }
}`;
}

export const Grid = ({ detail, columns, filter }: ViewProps) => {
  const { entity } = detail;
  const order = currentOrder(detail);
  const variables = {
    ...(entity.filterType && { filter }),
    ...(order.value && { orderBy: [order.value] }),
  };
  const query = queryOf(detail, columns, []);
  const { data, error, isLoading, isStale } = useQuery<
    Record<string, { nodes: Row[]; totalCount?: number; pageInfo: PageInfo }>
  >(query, { ...variables, ...pageArguments(PAGE_SIZE) }, ["data"]);
  const [opened, setOpened] = useState<Row>();
  const [exported, setExported] = useState<number>();
  const saving = useAction();
  const list = data?.[entity.field];
  const download = () =>
    saving.run(async () => {
      const lines = [csvLine(columns.map(({ name }) => name))];
      for (let after: string | undefined = undefined, rows = 0; ;) {
        const page: Record<string, { nodes: Row[]; pageInfo: PageInfo }> = await request(query, {
          ...variables,
          first: CSV_PAGE,
          after,
        });
        const { nodes, pageInfo } = page[entity.field]!;
        for (const row of nodes)
          lines.push(
            csvLine(
              columns.map(({ name, kind }) =>
                kind === "position" && row[name]
                  ? `POINT(${row[name].longitude} ${row[name].latitude})`
                  : row[name],
              ),
            ),
          );
        rows += nodes.length;
        setExported(rows);
        if (!pageInfo.hasNextPage || rows >= MAX_CSV_ROWS) break;
        after = pageInfo.endCursor ?? undefined;
      }
      save(`${entity.field}.csv`, "text/csv", lines);
      setExported(undefined);
    });
  const total = list?.totalCount;
  return (
    <>
      {error && <Fault error={error} subject={title(entity.field)} />}
      {saving.error && <Notice kind="error">{saving.error}</Notice>}
      {!list && isLoading && <Skeleton lines={10} label={`Loading ${title(entity.field)}`} />}
      {list && list.nodes.length === 0 && (
        <Empty
          icon="table"
          title={Object.keys(filter).length > 0 ? "No row matches the filters" : "There are no rows yet"}
        >
          {Object.keys(filter).length > 0 ? (
            <a href={hrefWith({ where: undefined, after: undefined, before: undefined })}>
              Take the filters away
            </a>
          ) : (
            <a href="#/bring">Bring data</a>
          )}
        </Empty>
      )}
      {list && list.nodes.length > 0 && (
        <section class="panel flush" aria-busy={isLoading} aria-label="Rows">
          <div
            class={`table-scroll ${isStale ? "stale" : ""}`}
            role="group"
            aria-label={title(entity.field)}
            tabIndex={0}
          >
            <table class="grid">
              <caption class="hidden">{title(entity.field)}</caption>
              <thead>
                <tr>
                  {columns.map((column) => (
                    <Head key={column.name} column={column} detail={detail} />
                  ))}
                  {detail.relations.length > 0 && (
                    <th scope="col">
                      <span class="hidden">Relations</span>
                    </th>
                  )}
                </tr>
              </thead>
              <tbody>
                {list.nodes.map((row, index) => (
                  <tr key={entity.key.length > 0 ? entity.key.map((name) => row[name]).join() : index}>
                    {columns.map((column) => (
                      <td
                        key={column.name}
                        class={column.kind === "number" && !isName(column, detail) ? "number" : ""}
                      >
                        <Cell value={row[column.name]} column={column} detail={detail} />
                      </td>
                    ))}
                    {detail.relations.length > 0 && (
                      <td class="row-actions">
                        {entity.key.length > 0 && (
                          <button
                            type="button"
                            class="icon-button"
                            aria-label={`Open row ${entity.key.map((name) => row[name]).join(" ")}`}
                            onClick={() => setOpened(row)}
                          >
                            <Icon name="link" />
                          </button>
                        )}
                      </td>
                    )}
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          <Pager
            info={list.pageInfo}
            summary={total === undefined ? `${list.nodes.length} rows` : plural(total, "row")}
          />
        </section>
      )}
      <div class="buttons">
        <Button icon="download" onClick={download} isBusy={saving.isRunning} disabled={!list?.nodes.length}>
          {saving.isRunning
            ? `${count(exported ?? 0)} rows`
            : total !== undefined && total > MAX_CSV_ROWS
              ? `CSV (the first ${count(MAX_CSV_ROWS)})`
              : "CSV"}
        </Button>
        <Button
          icon="external"
          onClick={() => openInGraphiql(title(entity.field), query, { ...variables, first: PAGE_SIZE })}
        >
          Open in GraphiQL
        </Button>
      </div>
      {opened && (
        <Opened row={opened} detail={detail} columns={columns} onClose={() => setOpened(undefined)} />
      )}
    </>
  );
};

/** Finds the filter by which the other list selects this row's relations: its only relation back. */
async function followedBy(relation: Relation, detail: Detail, row: Row): Promise<string | undefined> {
  const target = features.value!.byNode.get(relation.node);
  if (!target) return undefined;
  if (!relation.isMany) {
    const related = row[relation.field] as Row | null;
    return (
      (related ?? undefined) &&
      hrefOf("explore", target.field, {
        where: target.key.map((name) => `${name}:equalTo:${related![name]}`),
      })
    );
  }
  const other = await detailOf(target);
  const back = other.relations.filter(({ node, isMany }) => node === detail.entity.node && !isMany);
  const [only] = back;
  if (back.length !== 1 || !only || !other.filters.has(only.field)) return undefined;
  return hrefOf("explore", target.field, {
    where: detail.entity.key.map((name) => `${only.field}.${name}:equalTo:${row[name]}`),
  });
}

const Opened = ({
  row,
  detail,
  columns,
  onClose,
}: {
  row: Row;
  detail: Detail;
  columns: Column[];
  onClose: () => void;
}) => {
  const { entity, relations } = detail;
  const key = entity.key;
  const single = [...features.value!.queries.values()].find(
    (field) =>
      field.args.length === key.length &&
      field.args.every(({ name }) => key.includes(name)) &&
      typeName(field.type) === entity.node,
  );
  const selection = relations
    .map(({ field, node, isMany }) => {
      const target = features.value!.byNode.get(node);
      if (isMany) return `${field}(first: 1) { totalCount }`;
      return target && target.key.length > 0 ? `${field} { ${target.key.join(" ")} }` : "";
    })
    .filter(Boolean)
    .slice(0, 20);
  const types = single?.args.map(({ name, type }) => `$${name}: ${typeName(type)}!`);
  const { data, isLoading } = useQuery<{ row: Row | null }>(
    single && types && selection.length > 0
      ? `query Row(${types.join(", ")}) { row: ${single.name}(${key.map((name) => `${name}: $${name}`).join(", ")}) { ${selection.join(" ")} } }`
      : undefined,
    Object.fromEntries(key.map((name) => [name, row[name]])),
  );
  const [note, setNote] = useState<string>();
  const follow = (relation: Relation) => {
    void followedBy(relation, detail, { ...row, ...data?.row }).then((href) => {
      if (!href) return setNote("There is more than one way back; open it in GraphiQL");
      onClose();
      go(href);
    });
  };
  return (
    <Dialog
      title={`${title(entity.field).replace(/s$/, "")} ${key.map((name) => row[name]).join(" ")}`}
      onClose={onClose}
      isWide
    >
      <dl class="facts">
        {columns.map((column) => (
          <>
            <dt key={column.name} title={column.description}>
              {title(column.name)}
            </dt>
            <dd>
              {column.kind === "json" && row[column.name] != null ? (
                <pre>{JSON.stringify(row[column.name], null, 2)}</pre>
              ) : (
                <Cell value={row[column.name]} column={column} detail={detail} />
              )}
            </dd>
          </>
        ))}
      </dl>
      <h3>Leads to</h3>
      {isLoading && <Skeleton lines={2} label="Loading the relations" />}
      <ul class="related">
        {relations.map((relation) => {
          const value = data?.row?.[relation.field] as Row | null | undefined;
          const target = features.value!.byNode.get(relation.node);
          if (!target || value == null) return null;
          return (
            <li key={relation.field}>
              <button type="button" class="link" onClick={() => follow(relation)}>
                {title(relation.field)}
              </button>{" "}
              <span class="quiet">
                {relation.isMany
                  ? plural(value.totalCount as number, "row")
                  : target.key.map((name) => value[name]).join(" ")}
              </span>
            </li>
          );
        })}
      </ul>
      {note && <Notice kind="info">{note}</Notice>}
    </Dialog>
  );
};
