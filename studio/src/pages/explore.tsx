// Shows every list that the role may read as a table, as a chart over time, or on a map.
import type { FunctionComponent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { parseCondition, printCondition, toFilter, type Condition } from "../conditions.ts";
import { Conditions } from "../conditions-form.tsx";
import { title } from "../format.ts";
import { ColumnList } from "../column-list.tsx";
import { Grid } from "../grid.tsx";
import { useQuery } from "../query.ts";
import { go, hrefOf, hrefWith, route } from "../router.ts";
import {
  detailOf,
  features,
  featuresError,
  loadFeatures,
  readableColumns,
  type Column,
  type Detail,
  type Entity,
} from "../schema.ts";
import { token } from "../session.ts";
import { Button, Choice, Empty, Fault, Icon, Notice, Skeleton } from "../ui.tsx";
import type { ApiError } from "../api.ts";

export interface ViewProps {
  detail: Detail;
  /** The columns that the role may read. */
  columns: Column[];
  conditions: Condition[];
  filter: Record<string, unknown>;
}

/** Charts and maps are separate scripts, loaded on first use. */
const lazy = (load: () => Promise<FunctionComponent<ViewProps>>): FunctionComponent<ViewProps> => {
  let loaded: FunctionComponent<ViewProps> | undefined;
  return (props) => {
    const [, setDone] = useState(loaded !== undefined);
    const [error, setError] = useState<string>();
    useEffect(() => {
      if (!loaded)
        load().then(
          (view) => ((loaded = view), setDone(true)),
          (fault: unknown) => setError((fault as Error).message),
        );
    }, []);
    if (error)
      return <Notice kind="error">This part of the page did not load: {error}. Load the page again.</Notice>;
    return loaded ? (
      (() => {
        const View = loaded;
        return <View {...props} />;
      })()
    ) : (
      <Skeleton lines={5} label="Loading" />
    );
  };
};
const Chart = lazy(() => import("../chart.tsx").then((module) => module.Chart));
const WorldMap = lazy(() => import("../map.tsx").then((module) => module.WorldMap));

interface Loaded {
  entity: Entity;
  detail: Detail;
  readable: Set<string>;
}

function useEntity(entity: Entity | undefined) {
  const [loaded, setLoaded] = useState<Loaded>();
  const [error, setError] = useState<ApiError>();
  const [tries, setTries] = useState(0);
  useEffect(() => {
    let isCurrent = true;
    setError(undefined);
    if (!entity) return;
    (async () => {
      const detail = await detailOf(entity);
      const readable = await readableColumns(detail);
      if (isCurrent) setLoaded({ entity, detail, readable });
    })().catch((fault: unknown) => {
      if (!isCurrent) return;
      setError(fault as ApiError);
      setTimeout(() => isCurrent && setTries((count) => count + 1), 5_000);
    });
    return () => {
      isCurrent = false;
    };
  }, [entity, token.value, tries]);
  return { loaded: loaded?.entity === entity ? loaded : undefined, error };
}

const matches = ({ field, description }: Entity, text: string): boolean =>
  `${title(field)} ${description}`.toLowerCase().includes(text.toLowerCase());

const Lists = ({ current }: { current: string | undefined }) => {
  const [text, setText] = useState("");
  const all = (features.value?.entities ?? []).filter((entity) => !entity.isLive && matches(entity, text));
  const groups: [title: string, entities: Entity[]][] = [
    ["Tables and views", all.filter(({ isPipeline }) => !isPipeline)],
    ["Pipeline", all.filter(({ isPipeline }) => isPipeline)],
  ];
  return (
    <section class="panel lists" aria-labelledby="lists">
      <h2 id="lists" class="hidden">
        Lists
      </h2>
      <label class="field">
        <span class="hidden">Find a list</span>
        <input
          type="search"
          placeholder="Find"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      {groups.map(([name, entities]) =>
        entities.length === 0 ? null : (
          <div key={name} class="group">
            <h3>{name}</h3>
            <ul>
              {entities.map((entity) => (
                <li key={entity.field}>
                  <a
                    href={hrefOf("explore", entity.field)}
                    aria-current={
                      entity.field === current || entity.live?.field === (current ?? "") ? "page" : undefined
                    }
                    title={entity.description}
                  >
                    {title(entity.field)}
                  </a>
                </li>
              ))}
            </ul>
          </div>
        ),
      )}
      {all.length === 0 && <p class="quiet">No list is called like that</p>}
    </section>
  );
};

const Versions = ({ entity }: { entity: Entity }) => {
  const refreshed = entity.isLive
    ? features.value!.entities.find((other) => other.live === entity)
    : entity.live && entity;
  const freshness = useQuery<{ freshness: { nodes: { dataset: string; rowsBehind: string }[] } }>(
    refreshed ? "query StudioFreshness { freshness { nodes { dataset rowsBehind } } }" : undefined,
    {},
    ["data"],
  ).data?.freshness?.nodes.find(
    ({ dataset }) => title(dataset).replace(/s$/, "") === title(refreshed!.field).replace(/s$/, ""),
  );
  if (!refreshed) return null;
  const behind = Number(freshness?.rowsBehind ?? 0);
  const { query } = route.value;
  const parameters = Object.fromEntries([...new Set(query.keys())].map((name) => [name, query.getAll(name)]));
  return (
    <>
      <Choice
        label="Version"
        value={entity.isLive ? "live" : "refreshed"}
        options={[
          ["refreshed", "As of the last refresh"],
          ["live", "Live"],
        ]}
        onChange={(value) =>
          go(
            hrefOf("explore", value === "live" ? refreshed.live!.field : refreshed.field, {
              ...parameters,
              after: undefined,
              before: undefined,
            }),
          )
        }
      />
      {!entity.isLive && behind > 0 && <span class="badge late">{behind} rows not in it yet</span>}
    </>
  );
};

const View = ({ entity }: { entity: Entity }) => {
  const { loaded, error } = useEntity(entity);
  const { query } = route.value;
  if (error) return <Fault error={error} subject={title(entity.field)} />;
  if (!loaded) return <Skeleton lines={10} label={`Loading ${title(entity.field)}`} />;
  const { detail, readable } = loaded;
  const columns = detail.columns.filter(({ name }) => readable.has(name));
  const denied = detail.columns.filter(({ name }) => !readable.has(name));
  if (columns.length === 0)
    return (
      <Empty icon="lock" title={`Your role may not read ${title(entity.field).toLowerCase()}`}>
        <a href="#/who">Use a token of another role</a>
      </Empty>
    );
  const conditions = query
    .getAll("where")
    .map(parseCondition)
    .filter((condition) => condition !== undefined);
  const hasChart = detail.axes.some(({ column }) => readable.has(column));
  const hasMap = columns.some(({ kind, filterType }) => kind === "position" && filterType !== undefined);
  const asked = query.get("view") ?? "table";
  const view = (asked === "chart" && !hasChart) || (asked === "map" && !hasMap) ? "table" : asked;
  const props: ViewProps = { detail, columns, conditions, filter: toFilter(conditions, detail) };
  const setConditions = (next: Condition[]) =>
    go(hrefWith({ where: next.map(printCondition), after: undefined, before: undefined }));
  const views: [string, string, "table" | "chart" | "map" | "columns"][] = [["table", "Table", "table"]];
  if (hasChart) views.push(["chart", "Chart", "chart"]);
  if (hasMap) views.push(["map", "Map", "map"]);
  views.push(["columns", "Columns", "columns"]);
  return (
    <>
      <p class="description">{entity.description}</p>
      <div class="toolbar">
        {views.length > 1 && (
          <Choice
            label="View"
            value={view}
            options={views}
            onChange={(value) => go(hrefWith({ view: value === "table" ? undefined : value }))}
          />
        )}
        <Versions entity={entity} />
      </div>
      {view !== "columns" && (
        <Conditions detail={detail} columns={columns} conditions={conditions} onChange={setConditions} />
      )}
      {denied.length > 0 && (
        <p class="quiet denied">
          <Icon name="lock" />
          Not for your role: {denied.map(({ name }) => title(name)).join(", ")}
        </p>
      )}
      {view === "columns" ? (
        <ColumnList detail={detail} readable={readable} />
      ) : view === "chart" ? (
        <Chart {...props} />
      ) : view === "map" ? (
        <WorldMap {...props} />
      ) : (
        <Grid {...props} />
      )}
    </>
  );
};

export const Explore = () => {
  const { part } = route.value;
  const found = features.value;
  if (featuresError.value && !found)
    return (
      <>
        <h1>Explore</h1>
        <Notice kind="error">
          {featuresError.value} <Button onClick={() => void loadFeatures(true)}>Try again</Button>
        </Notice>
      </>
    );
  if (!found)
    return (
      <>
        <h1>Explore</h1>
        <Skeleton lines={8} label="Reading the schema" />
      </>
    );
  if (found.isClosed)
    return (
      <>
        <h1>Explore</h1>
        <Empty icon="lock" title="Your role may not read the schema">
          Explore learns from it (introspection) which lists there are. This server has switched that off for
          your role.
        </Empty>
      </>
    );
  const entity = found.entities.find(({ field }) => field === part);
  const shown = entity?.isLive ? found.entities.find(({ live }) => live === entity) : entity;
  return (
    <>
      <div class="page-head">
        <div>
          {entity && (
            <a class="back small-only" href="#/explore">
              <Icon name="previous" />
              All lists
            </a>
          )}
          <h1>{shown ? title(shown.field) : "Explore"}</h1>
        </div>
      </div>
      <div class={`with-side ${entity ? "has-choice" : ""}`}>
        <Lists current={part} />
        <div class="explore">
          {entity ? (
            <View key={entity.field} entity={entity} />
          ) : part ? (
            <Empty icon="explore" title={`There is no list “${part}”`}>
              Choose one of those that there are.
            </Empty>
          ) : (
            <ul class="cards" aria-label="All lists">
              {found.entities
                .filter(({ isLive, isPipeline }) => !isLive && !isPipeline)
                .map(({ field, description }) => (
                  <li key={field}>
                    <a class="card" href={hrefOf("explore", field)}>
                      <strong>{title(field)}</strong>
                      <span>{description}</span>
                    </a>
                  </li>
                ))}
            </ul>
          )}
        </div>
      </div>
    </>
  );
};
