/** @module-tag long */
// The files in ops/ against /metrics of a server at work: every metric and label that they ask for is there.
import { readFileSync } from "node:fs";
import { parser } from "@prometheus-io/lezer-promql";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse } from "yaml";
import { loadConfig } from "../../src/config.ts";
import { openDatabase } from "../../src/database/connect.ts";
import { createPlace, type Place } from "../support/database.ts";
import { graphql, runStrata, startReadyServer, until, type Server } from "../support/process.ts";

interface Rule {
  alert: string;
  expr: string;
  for: string;
  labels: { severity: string };
  annotations: { summary: string; description: string };
}
interface Panel {
  title: string;
  type: string;
  description?: string;
  targets?: { expr: string; legendFormat: string }[];
}

const METRICS_TOKEN = "a token for metrics";
const read = (name: string): string => readFileSync(new URL(`../../${name}`, import.meta.url), "utf8");
const rules = (parse(read("ops/prometheus-rules.yaml")) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  (group) => group.rules,
);
const dashboard = JSON.parse(read("ops/grafana-dashboard.json")) as {
  panels: Panel[];
  templating: { list: { name: string; definition?: string }[] };
};
const panels = dashboard.panels.filter(({ type }) => type !== "row");

/** Labels that Prometheus itself gives each series. */
const SCRAPED = ["job", "instance"];

let place: Place;
let server: Server;
/** Labels of each series by its name. */
const series = new Map<string, Set<string>>();

beforeAll(async () => {
  place = await createPlace({ METRICS_TOKEN });
  const database = await openDatabase(loadConfig(place.environment));
  await database.pool.query("select strata.promise('users', '1 hour')");
  await database.close();
  const cli = (...args: string[]) => runStrata(args, place.environment);
  await cli("sample");
  const token = (await cli("token", "--role", "operator")).stdout.trim();
  server = await startReadyServer(place.environment);
  await graphql(server, token, "query Named { users { totalCount } }");
  await graphql(server, token, "query Cached { dailyRevenues(first: 1) { nodes { completed } } }");
  await graphql(server, token, "mutation { promised: __typename }");
  await until(async () => {
    const text = await (
      await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${METRICS_TOKEN}` } })
    ).text();
    for (const [, name, labels = ""] of text.matchAll(/^(\w+)(?:\{(.*)\})? \S+$/gm)) {
      const known = series.get(name!) ?? new Set(SCRAPED);
      for (const [, label] of labels.matchAll(/(\w+)="/g)) known.add(label!);
      series.set(name!, known);
    }
    return series.has("strata_worker_seen_timestamp_seconds");
  });
});
afterAll(async () => {
  await server?.stop();
  await place?.remove();
});

interface ReadTarget {
  metric: string;
  labels: string[];
}

/** Selectors of an expression with the labels that it names; labels of a grouping belong to all selectors below it. */
function readExpression(expression: string): { faults: string[]; asked: ReadTarget[]; grouped: string[] } {
  // Grafana's own variables are numbers and durations, and parse as such.
  const text = expression.replaceAll(/\$__(rate_interval|range)/g, "5m");
  const faults: string[] = [];
  const asked: ReadTarget[] = [];
  const grouped: string[] = [];
  parser.parse(text).iterate({
    enter({ type, from, to, node }) {
      const own = text.slice(from, to);
      if (type.isError) faults.push(`${text.slice(0, from)}⟨here⟩${text.slice(from)}`);
      if (type.name === "VectorSelector") {
        const metric = node.getChild("Identifier");
        if (metric) asked.push({ metric: text.slice(metric.from, metric.to), labels: [] });
      }
      if (type.name === "LabelName") {
        const isMatcher = node.parent?.name.endsWith("Matcher") ?? false;
        if (isMatcher) asked.at(-1)!.labels.push(own);
        else grouped.push(own);
      }
    },
  });
  return { faults, asked, grouped };
}

function findFaults(expression: string, legend = ""): string[] {
  const { faults, asked, grouped } = readExpression(expression);
  if (asked.length === 0) faults.push("it asks for no metric");
  const shown = [...legend.matchAll(/\{\{\s*(\w+)\s*\}\}/g)].map(([, label]) => label!);
  for (const label of shown)
    if (!grouped.includes(label)) faults.push(`the legend shows ${label}, which is not grouped by`);
  for (const { metric, labels } of asked) {
    const known = series.get(metric);
    if (!known) faults.push(`${metric} is not on /metrics`);
    else
      for (const label of [...labels, ...grouped])
        if (!known.has(label)) faults.push(`${metric} has no label ${label}, only ${[...known].join(", ")}`);
  }
  return faults;
}

test("each rule parses, asks for what is there, and says what to do", () => {
  expect(rules.length).toBeGreaterThan(10);
  expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
  for (const { alert, expr, labels, annotations, ...rule } of rules) {
    expect(findFaults(expr), alert).toEqual([]);
    expect(rule.for, alert).toMatch(/^\d+[smh]$/);
    expect(labels.severity, alert).toMatch(/^(warning|critical)$/);
    const grouped = readExpression(expr).grouped;
    for (const text of [annotations.summary, annotations.description])
      for (const [, label] of text.matchAll(/\$labels\.(\w+)/g)) expect(grouped, alert).toContain(label);
  }
});

test("each panel parses, asks for what is there, and is described", () => {
  expect(panels.length).toBeGreaterThan(20);
  for (const { title, description, targets } of panels) {
    expect(description, title).toMatch(/\.$/);
    expect(targets!.length, title).toBeGreaterThan(0);
    for (const { expr, legendFormat } of targets!) expect(findFaults(expr, legendFormat), title).toEqual([]);
  }
  for (const { definition } of dashboard.templating.list) {
    if (definition === undefined) continue;
    const [, metric, label] = /^label_values\((\w+), (\w+)\)$/.exec(definition) ?? [];
    expect(series.get(metric!), definition).toContain(label);
  }
});

test("these checks find what is wrong", () => {
  expect(findFaults("sum(strata_nothing)")).toEqual(["strata_nothing is not on /metrics"]);
  expect(findFaults("sum by (dataset) (strata_database_up)")[0]).toMatch(
    /^strata_database_up has no label dataset/,
  );
  expect(findFaults('strata_jobs{stat="given_up"}')[0]).toMatch(/^strata_jobs has no label stat/);
  expect(findFaults("sum(strata_database_up")).not.toEqual([]);
  expect(findFaults("max by (kind) (strata_incidents_open)", "{{subject}}")[0]).toMatch(/^the legend shows/);
});

test("operations.md says what each panel is for", () => {
  const page = read("docs/operations.md");
  for (const { title, description } of panels) expect(page).toContain(`| ${title} | ${description} |`);
});
