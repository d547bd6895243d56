import { go, hrefWith, route } from "./router.ts";
import { Button } from "./ui.tsx";

export interface PageInfo {
  hasNextPage: boolean;
  hasPreviousPage: boolean;
  startCursor: string | null;
  endCursor: string | null;
}

/** Converts the address's cursor to arguments of a connection. */
export function pageArguments(size: number): {
  first?: number;
  after?: string;
  last?: number;
  before?: string;
} {
  const { query } = route.value;
  const before = query.get("before");
  if (before) return { last: size, before };
  const after = query.get("after");
  return after ? { first: size, after } : { first: size };
}
export const PAGE_VARIABLES = "$first: Int, $after: Cursor, $last: Int, $before: Cursor";
export const PAGE_ARGUMENTS = "first: $first, after: $after, last: $last, before: $before";
export const PAGE_INFO = "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }";

export const Pager = ({ info, summary }: { info: PageInfo | undefined; summary: string }) => {
  const { query } = route.value;
  const isBack = query.has("before");
  // After going back there is always a next page, the one that the user came from.
  const hasNext = isBack || (info?.hasNextPage ?? false);
  const hasPrevious = (isBack && (info?.hasPreviousPage ?? false)) || (!isBack && query.has("after"));
  return (
    <nav class="pager" aria-label="Pages of the list">
      <span role="status">{summary}</span>
      <Button
        icon="previous"
        disabled={!hasPrevious}
        onClick={() => go(hrefWith({ before: info?.startCursor ?? undefined, after: undefined }))}
      >
        Previous
      </Button>
      <Button
        icon="next"
        disabled={!hasNext}
        onClick={() => go(hrefWith({ after: info?.endCursor ?? undefined, before: undefined }))}
      >
        Next
      </Button>
    </nav>
  );
};
