// The result of an operation: one response, or the events of a subscription.
import type { ExecutionResult } from "grafast/graphql";

export type Result = ExecutionResult | AsyncGenerator<ExecutionResult>;

/** Maps the events of a subscription. */
export function mapEvents(
  events: AsyncGenerator<ExecutionResult>,
  change: (event: ExecutionResult) => ExecutionResult | Promise<ExecutionResult>,
): AsyncGenerator<ExecutionResult> {
  const next = events.next.bind(events);
  events.next = async () => {
    const item = await next();
    return item.done ? item : { ...item, value: await change(item.value) };
  };
  return events;
}
