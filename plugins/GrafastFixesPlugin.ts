import { TYPES, type PgCodec } from "@dataplan/pg";
import { __InputListStep, ConnectionStep, Step } from "grafast";
import { gatherConfig } from "graphile-build";
import type {} from "postgraphile";

type AddDependency = (step: Step | { step: Step }) => number;

/** Steps of grafast 1.1 as this plugin reaches into them. */
interface InputList {
  addDependency: AddDependency;
}
interface Connection {
  cursorPlan: ($item: Step) => Step;
  setupSubplanWithPagination(): Step;
}

// An item that occurs twice in a list, such as `[$a, $a]`, is one dependency upstream, but counts as two: planning fails.
const { addDependency } = Step.prototype as unknown as { addDependency: AddDependency };
(__InputListStep.prototype as unknown as InputList).addDependency = function (this: Step, given) {
  const options = given instanceof Step ? { step: given } : given;
  return addDependency.call(this, { ...options, skipDeduplication: true } as { step: Step });
};

// `pageInfo` asks for the cursors of rows, but upstream forgets to fetch the rows: the cursors are null.
const connection = ConnectionStep.prototype as unknown as Connection;
const { cursorPlan } = connection;
connection.cursorPlan = function (this: Connection, $item) {
  this.setupSubplanWithPagination();
  return cursorPlan.call(this, $item);
};

// PostgreSQL writes -1.5 seconds as "-01.-500000", and -0.5 as "00.-500000"; upstream reads neither fraction.
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

/** Mends faults of grafast 1.1 and @dataplan/pg 1.1: their classes are changed when this file is loaded. */
export const GrafastFixesPlugin: GraphileConfig.Plugin = {
  name: "GrafastFixesPlugin",
  version: "1.0.0",
  gather: gatherConfig({
    hooks: {
      // Upstream answers a range of dates or times that is null as the range without bounds, which holds everything.
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
