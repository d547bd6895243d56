// What an operation results in: one response, or the events of a subscription.
import type { ExecutionResult } from "grafast/graphql";

export type Result = ExecutionResult | AsyncGenerator<ExecutionResult>;

/** The same events, each changed on its way. */
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
