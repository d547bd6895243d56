// GraphiQL's first tabs: example queries that run unchanged. Comments have at most 38 characters, to fit beside the
// open documentation at a width of 1280 pixels.
interface Tab {
  /** Also the operation's name, which GraphiQL shows on the tab once it has run. */
  title: string;
  query: string;
  /** True for a mutation, which needs an operator's token. */
  needsToken?: true;
}

export const TABS: Tab[] = [
  {
    title: "Explore",
    query: `# Users with what they bought and
# when: follow any relation, filter
# and order by what has an index.
query Explore {
  users(first: 5, orderBy: [CREATED_AT_DESC], filter: { transactionsExist: true }) {
    totalCount
    nodes {
      username
      country
      transactions(first: 3, orderBy: [TRANSACTION_DATE_DESC]) {
        nodes { amount status transactionDate dimDate { dayName isWeekend } }
        aggregates { sum { amount } max { transactionDate } }
      }
    }
    pageInfo { hasNextPage endCursor }
  }
}
`,
  },
  {
    title: "RevenueByQuarter",
    query: `# Through the calendar: by quarter and
# whether it was a weekend. Then the
# same, pre-computed.
query RevenueByQuarter {
  transactions {
    groupedAggregates(groupBy: [DIM_DATE_YEAR, DIM_DATE_QUARTER, DIM_DATE_IS_WEEKEND]) {
      keys
      sum { amount }
      distinctCount { userId }
    }
  }
  quarterlyRevenues { nodes { year quarter totalRevenue weekendRevenue } }
}
`,
  },
  {
    title: "NearbyEvents",
    query: `# The nearest first, with the distance
# in metres, at most 500 km away.
query NearbyEvents {
  events(
    first: 10
    nearestTo: { longitude: 13.405, latitude: 52.52 }
    filter: { position: { withinDistance: { of: { longitude: 13.405, latitude: 52.52 }, metres: 500000 } } }
  ) {
    totalCount
    nodes {
      eventType
      eventTime
      eventData
      position { longitude latitude }
      distance(from: { longitude: 13.405, latitude: 52.52 })
    }
  }
}
`,
  },
  {
    title: "FreshnessAndRuns",
    query: `# How current every dataset is, and
# what the pipeline did last.
query FreshnessAndRuns {
  freshness { nodes { dataset refreshedAt rowsBehind lagSeconds } }
  pipelineRuns(first: 10, orderBy: [RUN_ID_DESC]) {
    nodes { runId step status trigger startedAt durationMs rowsRead rowsWritten rowsRejected }
  }
}
`,
  },
  {
    title: "Refresh",
    needsToken: true,
    query: `# Bring the analytics up to date, in
# the background: WatchRuns shows it.
# Operators only: the token goes into
# the headers, below.
mutation Refresh {
  refreshAnalytics(input: { background: true }) {
    run { runId status queuedAt }
  }
}
`,
  },
  {
    title: "WatchRuns",
    query: `# The runs since this page was opened,
# and each change as it happens: run
# Refresh first, then this.
subscription WatchRuns {
  pipelineRunUpdated(since: "2000-01-01T00:00Z") {
    run { runId step status progress rowsWritten durationMs }
  }
}
`,
  },
];

/** A script that runs before GraphiQL: it sets the tabs on the first visit, and a current time on every one. */
export function tabsScript(hasToken: boolean): string {
  const tabs = TABS.map(({ title, query }, index) => ({
    id: `strata-${index}`,
    hash: "",
    title,
    query,
    variables: null,
    headers: null,
    operationName: /(?:query|mutation|subscription) (\w+)/.exec(query)![1],
    response: null,
  }));
  const state = JSON.stringify({ tabs, activeTabIndex: 0 }).replaceAll("<", "\\u003c");
  return `<script>
    {
      const ours = ${state};
      const key = (name) => "graphiql:" + name;
      const stored = JSON.parse(localStorage.getItem(key("tabState")) ?? "null");
      const state = stored ?? ours;
      // The token of the page or login replaces one from an earlier visit.
      const withoutHeaders = ${JSON.stringify(hasToken ? tabs.filter((_, index) => TABS[index]!.needsToken).map(({ id }) => id) : [])};
      for (const { id, query } of ours.tabs)
        for (const tab of state.tabs.filter((tab) => tab.id === id)) {
          if (withoutHeaders.includes(id)) tab.headers = null;
          tab.title = tab.operationName ?? tab.title;
          if (query.includes("since: "))
            tab.query = tab.query.replace(/since: "[^"]*"/, 'since: "' + new Date().toISOString() + '"');
        }
      localStorage.setItem(key("tabState"), JSON.stringify(state));
      // GraphiQL identifies the current tab by these texts; with others it would open a new tab.
      for (const name of ["query", "variables", "headers"])
        localStorage.setItem(key(name), state.tabs[state.activeTabIndex]?.[name] ?? "");
      // Headers count only if GraphiQL's setting lets it store them.
      RURU_CONFIG.shouldPersistHeaders = true;
      if (!stored) localStorage.setItem(key("shouldPersistHeaders"), "true");
    }
  </script>`;
}
