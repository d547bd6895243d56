import { __InputListStep, ConnectionStep, Step } from "grafast";
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

/** Mends two faults of grafast 1.1: its classes are changed when this file is loaded. */
export const GrafastFixesPlugin: GraphileConfig.Plugin = {
  name: "GrafastFixesPlugin",
  version: "1.0.0",
};
