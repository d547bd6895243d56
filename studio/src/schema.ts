// Reads lists and features from the API's schema. No table is known by name, except for the pipeline's own types.
import { signal } from "@preact/signals";
import { ApiError, mayRead, request } from "./api.ts";
import { askAgain, connection } from "./live.ts";
import { token } from "./session.ts";

interface TypeRef {
  kind: string;
  name: string | null;
  ofType?: TypeRef | null;
}
interface Argument {
  name: string;
  type: TypeRef;
}
interface Field {
  name: string;
  description: string | null;
  args: Argument[];
  type: TypeRef;
}
interface Type {
  name: string;
  description: string | null;
  fields?: Field[] | null;
  inputFields?: Argument[] | null;
  enumValues?: { name: string; description: string | null }[] | null;
}

const namedType = (type: TypeRef): TypeRef => (type.ofType ? namedType(type.ofType) : type);
const isRequired = ({ kind }: TypeRef): boolean => kind === "NON_NULL";
const isList = (type: TypeRef): boolean =>
  type.kind === "LIST" || (type.ofType != null && isList(type.ofType));
export const typeName = (type: TypeRef): string => namedType(type).name ?? "";

const REF = `kind name ofType { kind name ofType { kind name ofType { kind name } } }`;
const FIELDS = `fields { name description args { name type { ${REF} } } type { ${REF} } }`;

/** A list of rows among the fields of Query. */
export interface Entity {
  field: string;
  node: string;
  description: string;
  filterType: string | undefined;
  orderType: string | undefined;
  /** Arguments of the Query field that reads one row. */
  key: string[];
  isPipeline: boolean;
  /** The metric's live list, which is always exact. */
  live: Entity | undefined;
  isLive: boolean;
}

export interface Features {
  isClosed: boolean;
  entities: Entity[];
  byNode: Map<string, Entity>;
  queries: Map<string, Field>;
  mutations: Map<string, Field>;
  /** Fields of the pipeline's own types; empty for missing types. */
  fields: Record<keyof typeof PIPELINE_TYPES, Set<string>>;
  /** Fields of the input types of the quarantine's mutations. */
  retryInput: Set<string>;
  discardInput: Set<string>;
}

const PIPELINE_TYPES = {
  run: "PipelineRun",
  freshness: "Freshness",
  quarantined: "QuarantinedRow",
  dataset: "Dataset",
  lineage: "Lineage",
  runDataset: "RunDataset",
  incident: "PipelineIncident",
} as const;
const PIPELINE_NAMES = new Set<string>(Object.values(PIPELINE_TYPES));

// Query for the names of these types' fields.
const FEATURES = `query StudioFeatures {
  query: __type(name: "Query") { ${FIELDS} }
  mutation: __type(name: "Mutation") { ${FIELDS} }
  ${Object.entries(PIPELINE_TYPES)
    .map(([alias, name]) => `${alias}: __type(name: "${name}") { fields { name } }`)
    .join("\n  ")}
  retryInput: __type(name: "RetryQuarantinedInput") { inputFields { name } }
  discardInput: __type(name: "DiscardQuarantinedInput") { inputFields { name } }
}`;

/** Fields that every server has, for roles that may not read the schema. */
const CLOSED: Features = {
  isClosed: true,
  entities: [],
  byNode: new Map(),
  queries: new Map(),
  mutations: new Map(),
  fields: {
    run: new Set(),
    freshness: new Set(["dataset", "refreshedAt", "rowsBehind", "lagSeconds", "runId"]),
    quarantined: new Set(),
    dataset: new Set(),
    lineage: new Set(),
    runDataset: new Set(),
    incident: new Set(),
  },
  retryInput: new Set(),
  discardInput: new Set(),
};

export const features = signal<Features | undefined>(undefined);
export const featuresError = signal<string | undefined>(undefined);

const chunks = <Item>(items: Item[], size: number): Item[][] =>
  items.length === 0 ? [] : [items.slice(0, size), ...chunks(items.slice(size), size)];

/** Aliases per document; the API allows 30. */
const MAX_ALIASES = 28;

async function readTypes(selections: Map<string, string>): Promise<Map<string, Type>> {
  const answers = await Promise.all(
    chunks([...selections], MAX_ALIASES).map(async (some) => {
      const lines = some.map(
        ([name, selection], index) => `t${index}: __type(name: "${name}") { name ${selection} }`,
      );
      return Object.values(
        await request<Record<string, Type | null>>(`query StudioTypes { ${lines.join("\n")} }`),
      );
    }),
  );
  return new Map(answers.flat().flatMap((type) => (type ? [[type.name, type]] : [])));
}

async function readFeatures(): Promise<Features> {
  const answer = await request<Record<string, Type | null>>(FEATURES);
  const queries = answer.query?.fields ?? [];
  const names = (alias: string): Set<string> =>
    new Set(
      [...(answer[alias]?.fields ?? []), ...(answer[alias]?.inputFields ?? [])].map(({ name }) => name),
    );
  const argument = (field: Field, name: string): string | undefined => {
    const found = field.args.find((argument) => argument.name === name);
    return found && typeName(found.type);
  };
  // Omit functions, whose connections have no `before`.
  const lists = queries.filter(
    (field) =>
      typeName(field.type).endsWith("Connection") && field.args.some(({ name }) => name === "before"),
  );
  const nodes = lists.map((field) => typeName(field.type).replace(/Connection$/, ""));
  const types = await readTypes(new Map(nodes.map((node) => [node, "description"])));
  const known = new Set(nodes);
  const entities = lists.map((field, index): Entity => {
    const node = nodes[index]!;
    const keys = queries
      .filter(
        ({ type, args }) =>
          typeName(type) === node && args.length > 0 && args.every((arg) => isRequired(arg.type)),
      )
      .map(({ args }) => args.map(({ name }) => name))
      .sort((one, other) => one.length - other.length);
    return {
      field: field.name,
      node,
      description: types.get(node)?.description ?? field.description ?? "",
      filterType: argument(field, "filter"),
      orderType: argument(field, "orderBy"),
      key: keys[0] ?? [],
      isPipeline: PIPELINE_NAMES.has(node),
      isLive: node.endsWith("Live") && known.has(node.slice(0, -4)),
      live: undefined,
    };
  });
  const byNode = new Map(entities.map((entity) => [entity.node, entity]));
  for (const entity of entities) entity.live = byNode.get(`${entity.node}Live`);
  return {
    isClosed: false,
    entities,
    byNode,
    queries: new Map(queries.map((field) => [field.name, field])),
    mutations: new Map((answer.mutation?.fields ?? []).map((field) => [field.name, field])),
    fields: {
      run: names("run"),
      freshness: names("freshness"),
      quarantined: names("quarantined"),
      dataset: names("dataset"),
      lineage: names("lineage"),
      runDataset: names("runDataset"),
      incident: names("incident"),
    },
    retryInput: names("retryInput"),
    discardInput: names("discardInput"),
  };
}

let asked: string | undefined | null = null;
const details = new Map<string, Promise<Detail>>();

/** Loads the features once per token, since they depend on the role. */
export async function loadFeatures(isForced = false): Promise<void> {
  const forToken = token.value;
  if (!isForced && asked === forToken && features.value) return;
  asked = forToken;
  details.clear();
  try {
    const found = await readFeatures();
    if (asked === forToken) features.value = found;
    featuresError.value = undefined;
  } catch (error) {
    if (asked !== forToken) return;
    if (error instanceof ApiError && error.code === "FORBIDDEN") features.value = CLOSED;
    else {
      asked = null;
      featuresError.value = (error as Error).message;
    }
  }
}

/** The names of some fields, as far as the type has them, as a selection. */
export const pick = (type: keyof Features["fields"], names: string): string =>
  names
    .split(" ")
    .filter((name) => features.value?.fields[type].has(name))
    .join(" ");

type Kind = "number" | "text" | "date" | "time" | "boolean" | "json" | "position" | "list";

export interface Column {
  name: string;
  description: string;
  type: string;
  kind: Kind;
  isOrderable: boolean;
  filterType: string | undefined;
}

export interface Relation {
  field: string;
  description: string;
  node: string;
  isMany: boolean;
}

/** A date by which SQL can group, and the resolutions that it has. */
export interface TimeAxis {
  column: string;
  isDay: boolean;
  /** From fine to coarse, with the value of the enum. */
  steps: [step: Step, value: string][];
}
const STEPS = ["HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR"] as const;
export type Step = (typeof STEPS)[number];

export interface Detail {
  entity: Entity;
  columns: Column[];
  relations: Relation[];
  orders: Set<string>;
  filters: Map<string, string>;
  axes: TimeAxis[];
  splits: { value: string; label: string }[];
  /** Numeric columns by what can be computed of them. */
  measures: { sum: string[]; average: string[]; max: string[]; min: string[]; distinctCount: string[] };
  /** Columns with minimum and maximum in the API. */
  extents: Set<string>;
  hasTotal: boolean;
}

const NUMBERS = new Set(["Int", "Float", "BigInt", "BigFloat"]);
const KINDS: Record<string, Kind> = {
  Boolean: "boolean",
  Date: "date",
  Datetime: "time",
  JSON: "json",
  GeoPoint: "position",
};
const kindOf = (type: TypeRef): Kind =>
  isList(type) ? "list" : NUMBERS.has(typeName(type)) ? "number" : (KINDS[typeName(type)] ?? "text");

/** Converts a field's name to that of enum values: "orderDate" to ORDER_DATE. */
export const constant = (name: string): string =>
  name.replaceAll(/([a-z0-9])([A-Z])/g, "$1_$2").toUpperCase();

const AGGREGATES = ["Sum", "Average", "Max", "Min", "DistinctCount"];

async function readDetail(entity: Entity): Promise<Detail> {
  const { node } = entity;
  // Select only what is used of each type, since a document may have at most 500 fields.
  const types = await readTypes(
    new Map([
      [node, FIELDS],
      [`${node}Connection`, "fields { name }"],
      ...(entity.filterType ? [[entity.filterType, `inputFields { name type { ${REF} } }`] as const] : []),
      ...(entity.orderType ? [[entity.orderType, "enumValues { name }"] as const] : []),
      [`${node}GroupBy`, "enumValues { name description }"],
      ...AGGREGATES.map((name) => [`${node}${name}Aggregates`, "fields { name }"] as const),
    ]),
  );
  const fields = types.get(node)?.fields ?? [];
  const orders = new Set(types.get(entity.orderType ?? "")?.enumValues?.map(({ name }) => name));
  const filters = new Map(
    types.get(entity.filterType ?? "")?.inputFields?.map(({ name, type }) => [name, typeName(type)]),
  );
  const columns: Column[] = [];
  const relations: Relation[] = [];
  for (const { name, type, args, description } of fields) {
    const named = namedType(type);
    const isPosition = named.name === "GeoPoint";
    if (args.some((argument) => isRequired(argument.type)) || named.name === "ID") continue;
    if (["SCALAR", "ENUM"].includes(named.kind) || isPosition)
      columns.push({
        name,
        description: description ?? "",
        type: named.name ?? "",
        kind: kindOf(type),
        isOrderable: orders.has(`${constant(name)}_ASC`),
        filterType: filters.get(name),
      });
    else if (named.kind === "OBJECT") {
      const isMany = named.name!.endsWith("Connection");
      const target = isMany ? named.name!.replace(/Connection$/, "") : named.name!;
      relations.push({ field: name, description: description ?? "", node: target, isMany });
    }
  }
  // Key columns first, then in the schema's order.
  columns.sort(
    (one, other) => Number(entity.key.includes(other.name)) - Number(entity.key.includes(one.name)),
  );
  const groups = types.get(`${node}GroupBy`)?.enumValues ?? [];
  const groupNames = new Set(groups.map(({ name }) => name));
  const axes = columns
    .filter(({ kind }) => kind === "date" || kind === "time")
    .map(({ name, kind }): TimeAxis => {
      const isDay = kind === "date";
      const steps = STEPS.flatMap((step): [Step, string][] => {
        const value = isDay && step === "DAY" ? constant(name) : `${constant(name)}_TRUNCATED_TO_${step}`;
        return groupNames.has(value) ? [[step, value]] : [];
      });
      return { column: name, isDay, steps };
    })
    .filter(({ steps }) => steps.length > 0);
  const isTime = (name: string): boolean => axes.some(({ column }) => name.startsWith(constant(column)));
  const isNumeric = new Set(
    columns.filter(({ kind }) => kind === "number").map(({ name }) => constant(name)),
  );
  const splits = groups
    .filter(({ name }) => !isTime(name) && !isNumeric.has(name))
    .map(({ name, description }) => ({
      value: name,
      label: (description ?? title(name)).replace(/^By /, "").replaceAll("`", "").replace(/\.$/, ""),
    }));
  const measured = (name: string): string[] => {
    const numeric = new Set(columns.filter(({ kind }) => kind === "number").map((column) => column.name));
    const found = types.get(`${node}${name}Aggregates`)?.fields?.map((field) => field.name) ?? [];
    const isPlain = (field: string) => !entity.key.includes(field) && !/Id$/.test(field);
    return name === "DistinctCount" ? found : found.filter((field) => numeric.has(field) && isPlain(field));
  };
  return {
    entity,
    columns,
    relations,
    orders,
    filters,
    axes,
    splits,
    measures: {
      sum: measured("Sum"),
      average: measured("Average"),
      max: measured("Max"),
      min: measured("Min"),
      distinctCount: measured("DistinctCount"),
    },
    extents: new Set(types.get(`${node}MinAggregates`)?.fields?.map(({ name }) => name)),
    hasTotal: types.get(`${node}Connection`)?.fields?.some(({ name }) => name === "totalCount") ?? false,
  };
}

const title = (name: string): string => name.toLowerCase().replaceAll("_", " ");

/** Cached until the token or the schema changes. */
export function detailOf(entity: Entity): Promise<Detail> {
  let detail = details.get(entity.node);
  if (!detail) {
    detail = readDetail(entity);
    details.set(entity.node, detail);
    detail.catch(() => details.delete(entity.node));
  }
  return detail;
}

const operators = new Map<string, Promise<{ name: string; type: string; isList: boolean }[]>>();
export function operatorsOf(filterType: string) {
  let found = operators.get(filterType);
  if (!found) {
    found = readTypes(new Map([[filterType, `inputFields { name type { ${REF} } }`]])).then((types) =>
      (types.get(filterType)?.inputFields ?? []).map(({ name, type }) => ({
        name,
        type: typeName(type),
        isList: isList(type),
      })),
    );
    operators.set(filterType, found);
    found.catch(() => operators.delete(filterType));
  }
  return found;
}

const readable = new WeakMap<Detail, Promise<Set<string>>>();

/** Finds the columns that the role may read, by trying them together, then in parts; once per token. */
export function readableColumns(detail: Detail): Promise<Set<string>> {
  let found = readable.get(detail);
  if (!found) {
    found = tryColumns(detail);
    readable.set(detail, found);
    found.catch(() => readable.delete(detail));
  }
  return found;
}

async function tryColumns({ entity, columns }: Detail): Promise<Set<string>> {
  const isReadable = (some: Column[]): Promise<boolean> =>
    mayRead(
      `query StudioRights { ${entity.field}(first: 1) { nodes { ${some.map(selectionOf).join(" ")} } } }`,
    );
  // Tries halves, and halves of those that fail: one forbidden column of twenty takes ten queries, not twenty.
  const search = async (some: Column[]): Promise<string[]> => {
    if (some.length === 0) return [];
    if (await isReadable(some)) return some.map(({ name }) => name);
    if (some.length === 1) return [];
    const middle = some.length >> 1;
    return (await Promise.all([search(some.slice(0, middle)), search(some.slice(middle))])).flat();
  };
  return new Set(await search(columns));
}

export const selectionOf = ({ name, kind }: Column): string =>
  kind === "position" ? `${name} { longitude latitude }` : name;

const WATCH_MS = 20_000;
const NAMES = `query StudioNames { query: __type(name: "Query") { fields { name } } mutation: __type(name: "Mutation") { fields { name } } }`;

/** Compares the names of all fields, to notice datasets that were added or removed while the page is open. */
async function compareNames(): Promise<void> {
  const known = features.value;
  if (!known || known.isClosed || document.hidden || connection.value === "stopped") return;
  const { query, mutation } = await request<Record<"query" | "mutation", Type | null>>(NAMES);
  const names = (fields: Iterable<string>): string => [...fields].sort().join();
  const isSame = (type: Type | null, fields: Map<string, Field>): boolean =>
    names(type?.fields?.map(({ name }) => name) ?? []) === names(fields.keys());
  if (isSame(query, known.queries) && isSame(mutation, known.mutations)) return;
  await loadFeatures(true);
  askAgain();
}

export function watchSchema(): void {
  const compare = (): void => void compareNames().catch(() => undefined);
  setInterval(compare, WATCH_MS);
  document.addEventListener("visibilitychange", compare);
}
