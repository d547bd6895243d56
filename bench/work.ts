// What every contender is asked, and how each of them is asked it. All must give the same answer.

export interface Work {
  title: string;
  /** Variables of the nth request: different ones where a repetition could be answered from memory. */
  variables(n: number): Record<string, unknown>;
  graphql: string;
  /** For stock PostGraphile, which names some things differently. */
  stock?: string;
  /** One statement that returns the whole answer as text, and its values. */
  sql: { text: string; values(variables: any): unknown[] };
  /** Takes so long that fewer at a time, for longer, say more. */
  slow?: boolean;
  /** Groups come in any order. */
  unordered?: boolean;
  /** Only these are compared; the hand-written GraphQL servers are not taught everything. */
  peers: readonly string[];
}

const ALL = ["mercurius", "apollo", "postgraphile"] as const;
const FIRST_DAY = Date.UTC(2024, 0, 1);
const day = (n: number): string => new Date(FIRST_DAY + n * 86_400_000).toISOString().slice(0, 10);

export const works: Record<string, Work> = {
  nested: {
    title: "nested read, 50 users × 10 transactions",
    variables: (n) => ({ after: (n * 37) % 1000 }),
    graphql: `query Nested($after: Int!) {
      users(first: 50, filter: { userId: { greaterThan: $after } }, orderBy: [USER_ID_ASC]) {
        nodes { userId username country
          transactions(first: 10, orderBy: [TRANSACTION_DATE_DESC, TRANSACTION_ID_DESC]) {
            nodes { transactionId amount status transactionDate }
          }
        }
      }
    }`,
    sql: {
      text: `select json_build_object('data', json_build_object('users', json_build_object('nodes', json_agg(u.node))))::text as answer
        from (select json_build_object('userId', u.user_id, 'username', u.username, 'country', u.country,
            'transactions', json_build_object('nodes', t.nodes)) as node
          from (select * from production.users where user_id > $1 order by user_id limit 50) u
          cross join lateral (
            select coalesce(json_agg(json_build_object('transactionId', t.transaction_id, 'amount', t.amount::text,
              'status', t.status, 'transactionDate', t.transaction_date)), '[]') as nodes
            from (select * from production.transactions t where t.user_id = u.user_id
              order by t.transaction_date desc, t.transaction_id desc limit 10) t
          ) t order by u.user_id) u`,
      values: ({ after }) => [after],
    },
    peers: ALL,
  },
  flat: {
    title: "flat read of 50 metrics, first time",
    // As many different questions as it takes: none is asked twice.
    variables: (n) => ({ from: day(n % 300), offset: Math.floor(n / 300) % 5000 }),
    graphql: `query Flat($from: Date!, $offset: Int!) {
      dailyUserMetrics(first: 50, offset: $offset, filter: { date: { greaterThanOrEqualTo: $from } },
        orderBy: [DATE_ASC, COUNTRY_ASC]) {
        nodes { date country activeUsers totalRevenue avgTransaction }
      }
    }`,
    stock: `query Flat($from: Date!, $offset: Int!) {
      dailyUserMetrics: analyticsDailyUserMetrics(first: 50, offset: $offset,
        filter: { date: { greaterThanOrEqualTo: $from } }, orderBy: [DATE_ASC, COUNTRY_ASC]) {
        nodes { date country activeUsers totalRevenue avgTransaction }
      }
    }`,
    sql: {
      text: `select json_build_object('data', json_build_object('dailyUserMetrics', json_build_object('nodes',
          coalesce(json_agg(json_build_object('date', m.date, 'country', m.country, 'activeUsers', m.active_users::text,
          'totalRevenue', m.total_revenue::text, 'avgTransaction', m.avg_transaction::text)), '[]'))))::text as answer
        from (select * from analytics.daily_user_metrics where date >= $1 order by date, country limit 50 offset $2) m`,
      values: ({ from, offset }) => [from, offset],
    },
    peers: ALL,
  },
  single: {
    title: "single row by key",
    variables: (n) => ({ id: 1 + ((n * 37) % 1000) }),
    graphql: `query Single($id: Int!) { user(userId: $id) { userId username country createdAt } }`,
    sql: {
      text: `select json_build_object('data', json_build_object('user', json_build_object('userId', user_id,
          'username', username, 'country', country, 'createdAt', created_at)))::text as answer
        from production.users where user_id = $1`,
      values: ({ id }) => [id],
    },
    peers: ALL,
  },
  dashboard: {
    title: "dashboard: aggregates by day over all transactions",
    unordered: true,
    slow: true,
    variables: () => ({}),
    graphql: `query Dashboard {
      transactions {
        groupedAggregates(groupBy: [TRANSACTION_DATE_TRUNCATED_TO_DAY]) { keys sum { amount } distinctCount { userId } }
      }
    }`,
    sql: {
      text: `select json_build_object('data', json_build_object('transactions', json_build_object('groupedAggregates',
          coalesce(json_agg(json_build_object('keys', json_build_array(t.transaction_day::timestamp), 'sum',
          json_build_object('amount', t.amount::text), 'distinctCount', json_build_object('userId', t.users::text))), '[]')
        )))::text as answer
        from (select transaction_day, sum(amount) as amount, count(distinct user_id) as users
          from production.transactions group by 1) t`,
      values: () => [],
    },
    peers: [],
  },
  analytics: {
    title: "analytics over all metrics, by month and country",
    unordered: true,
    variables: () => ({}),
    graphql: `query Analytics {
      dailyUserMetrics {
        groupedAggregates(groupBy: [DATE_TRUNCATED_TO_MONTH, COUNTRY]) {
          keys sum { totalRevenue activeUsers }
        }
      }
    }`,
    sql: {
      text: `select json_build_object('data', json_build_object('dailyUserMetrics', json_build_object('groupedAggregates',
          coalesce(json_agg(json_build_object('keys', json_build_array(m.month::date, m.country), 'sum',
          json_build_object('totalRevenue', m.revenue::text, 'activeUsers', m.users::text))), '[]'))))::text as answer
        from (select date_trunc('month', date) as month, country, sum(total_revenue) as revenue, sum(active_users) as users
          from analytics.daily_user_metrics group by 1, 2) m`,
      values: () => [],
    },
    peers: [],
  },
};
