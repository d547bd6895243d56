// Shows the columns of a list with their descriptions and lineage.
import { title } from "./format.ts";
import { entityOf } from "./pipeline.ts";
import { useQuery } from "./query.ts";
import { hrefOf } from "./router.ts";
import { features, pick, type Column, type Detail } from "./schema.ts";
import { Icon } from "./ui.tsx";

interface Edge {
  sourceSchema: string;
  sourceRelation: string;
  sourceColumn: string | null;
  targetRelation: string;
  targetColumn: string | null;
}

const camel = (name: string): string =>
  name.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

/** Finds the list's name in the database: the one that leads to it. */
function useLineage({ entity }: Detail): Edge[] {
  const list = features.value?.byNode.get("Lineage");
  const fields = pick("lineage", "sourceSchema sourceRelation sourceColumn targetRelation targetColumn");
  const { data } = useQuery<Record<string, { nodes: Edge[] } | null>>(
    list && fields.includes("targetColumn")
      ? `query StudioLineage { ${list.field}(first: 1000) { nodes { ${fields} } } }`
      : undefined,
  );
  const edges = (list && data?.[list.field]?.nodes) ?? [];
  return edges.filter(({ targetRelation }) => entityOf(targetRelation) === entity);
}

const Source = ({ edge: { sourceSchema, sourceRelation, sourceColumn } }: { edge: Edge }) => {
  const entity = sourceSchema === "staging" ? undefined : entityOf(sourceRelation);
  const name = `${sourceRelation}${sourceColumn ? `.${sourceColumn}` : ""}`;
  return entity ? (
    <a href={hrefOf("explore", entity.field, { view: "columns" })}>{name}</a>
  ) : (
    <span>{sourceSchema === "staging" ? `staging.${name}` : name}</span>
  );
};

const Sources = ({ edges }: { edges: Edge[] }) => {
  const unique = [
    ...new Map(edges.map((edge) => [`${edge.sourceRelation} ${edge.sourceColumn}`, edge])).values(),
  ];
  return (
    <span class="made-of">
      {unique.map((edge) => (
        <code key={`${edge.sourceRelation} ${edge.sourceColumn}`}>
          <Source edge={edge} />
        </code>
      ))}
    </span>
  );
};

const KINDS: Partial<Record<Column["kind"], string>> = { time: "time (UTC)", json: "JSON" };

export const ColumnList = ({ detail, readable }: { detail: Detail; readable: Set<string> }) => {
  const edges = useLineage(detail);
  const deciding = edges.filter(({ targetColumn }) => targetColumn === null);
  return (
    <section class="panel flush" aria-label="Columns">
      <div class="table-scroll" role="group" aria-label="Columns" tabIndex={0}>
        <table class="column-list">
          <caption class="hidden">Columns of {title(detail.entity.field)}</caption>
          <thead>
            <tr>
              <th scope="col">Column</th>
              <th scope="col">Type</th>
              <th scope="col">What it is</th>
              {edges.length > 0 && <th scope="col">Made of</th>}
            </tr>
          </thead>
          <tbody>
            {detail.columns.map((column) => (
              <tr key={column.name}>
                <th scope="row">
                  {title(column.name)}
                  {detail.entity.key.includes(column.name) && <span class="badge">key</span>}
                  {!readable.has(column.name) && (
                    <span class="quiet">
                      <Icon name="lock" />
                      <span class="hidden">not for your role</span>
                    </span>
                  )}
                </th>
                <td>{KINDS[column.kind] ?? column.kind}</td>
                <td>{column.description}</td>
                {edges.length > 0 && (
                  <td>
                    <Sources
                      edges={edges.filter(
                        ({ targetColumn }) => targetColumn !== null && camel(targetColumn) === column.name,
                      )}
                    />
                  </td>
                )}
              </tr>
            ))}
            {deciding.length > 0 && (
              <tr>
                <th scope="row">Which rows there are</th>
                <td />
                <td />
                <td>
                  <Sources edges={deciding} />
                </td>
              </tr>
            )}
          </tbody>
        </table>
      </div>
    </section>
  );
};
