import { TYPES, type PgCodec } from "@dataplan/pg";
import { __InputListStep, ConnectionStep, Step } from "grafast";
import { gatherConfig } from "graphile-build";
import type {} from "postgraphile";

type AddDependency = (step: Step | { step: Step }) => number;

/** Internals of grafast 1.1 that this plugin changes. */
interface InputList {
  addDependency: AddDependency;
}
interface Connection {
  cursorPlan: ($item: Step) => Step;
  setupSubplanWithPagination(): Step;
}

// Upstream stores a repeated item of a list, such as `[$a, $a]`, as one dependency but counts two, so planning fails.
const { addDependency } = Step.prototype as unknown as { addDependency: AddDependency };
(__InputListStep.prototype as unknown as InputList).addDependency = function (this: Step, given) {
  const options = given instanceof Step ? { step: given } : given;
  return addDependency.call(this, { ...options, skipDeduplication: true } as { step: Step });
};

// Upstream does not fetch rows for the cursors of `pageInfo` alone, which are null then.
const connection = ConnectionStep.prototype as unknown as Connection;
const { cursorPlan } = connection;
connection.cursorPlan = function (this: Connection, $item) {
  this.setupSubplanWithPagination();
  return cursorPlan.call(this, $item);
};

// PostgreSQL's to_char writes -1.5 seconds as "-01.-500000", and -0.5 as "00.-500000"; upstream parses neither
// fraction.
const interval = TYPES.interval as PgCodec;
const { fromPg: fromInterval } = interval;
interval.fromPg = (text: string) => {
  const [, seconds = "", fraction = ""] = /(-?\d+)\.(-?\d+)$/.exec(text) ?? [];
  const digits = `${seconds}.${fraction}`;
  return {
    ...(fromInterval(text) as object),
    seconds: Number(digits.replaceAll("-", "")) * (digits.includes("-") ? -1 : 1) || 0,
  };
};

/** Fixes faults of grafast 1.1 and @dataplan/pg 1.1 by patching their classes when this file is loaded. */
export const GrafastFixesPlugin: GraphileConfig.Plugin = {
  name: "GrafastFixesPlugin",
  version: "1.0.0",
  gather: gatherConfig({
    hooks: {
      // Upstream returns a null range of dates or times as the unbounded range.
      pgCodecs_PgCodec(_info, { pgCodec }) {
        const codec = pgCodec;
        if (!codec.rangeOfCodec || !codec.castFromPg) return;
        const { fromPg } = codec;
        codec.fromPg = (text: string) =>
          (JSON.parse(text) as unknown[])[0] === null ? null : (fromPg(text) as unknown);
      },
    },
  }),
};
