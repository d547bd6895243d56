// What the two hand-written GraphQL servers have in common: schema, SQL and its batches.
import pg from "pg";

// Dates and times go out as text: no server has to make objects of them first.
for (const oid of [1082, 1114, 1184]) pg.types.setTypeParser(oid, (text) => text.replace(" ", "T"));

export const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });

export const typeDefs = `
  scalar Date
  enum UsersOrderBy { USER_ID_ASC }
  enum TransactionsOrderBy { TRANSACTION_DATE_DESC TRANSACTION_ID_DESC }
  enum MetricsOrderBy { DATE_ASC COUNTRY_ASC }
  input IntFilter { greaterThan: Int }
  input DateFilter { greaterThanOrEqualTo: Date }
  input UserFilter { userId: IntFilter }
  input MetricFilter { date: DateFilter }
  type Transaction { transactionId: Int! amount: String! status: String transactionDate: String }
  type TransactionConnection { nodes: [Transaction!]! }
  type User {
    userId: Int! username: String! country: String createdAt: String!
    transactions(first: Int!, orderBy: [TransactionsOrderBy!]): TransactionConnection!
  }
  type UserConnection { nodes: [User!]! }
  type Metric { date: String country: String activeUsers: String totalRevenue: String avgTransaction: String }
  type MetricConnection { nodes: [Metric!]! }
  type Query {
    user(userId: Int!): User
    users(first: Int!, filter: UserFilter, orderBy: [UsersOrderBy!]): UserConnection!
    dailyUserMetrics(first: Int!, offset: Int, filter: MetricFilter, orderBy: [MetricsOrderBy!]): MetricConnection!
  }`;

const userColumns = `user_id as "userId", username, country, created_at as "createdAt"`;

export const resolvers = {
  Query: {
    async user(_: unknown, { userId }: { userId: number }) {
      const text = `select ${userColumns} from production.users where user_id = $1`;
      return (await pool.query({ name: "user", text, values: [userId] })).rows[0];
    },
    async users(
      _: unknown,
      { first, filter }: { first: number; filter: { userId: { greaterThan: number } } },
    ) {
      const text = `select ${userColumns} from production.users where user_id > $1 order by user_id limit $2`;
      return {
        nodes: (await pool.query({ name: "users", text, values: [filter.userId.greaterThan, first] })).rows,
      };
    },
    async dailyUserMetrics(
      _: unknown,
      {
        first,
        offset,
        filter,
      }: { first: number; offset: number; filter: { date: { greaterThanOrEqualTo: string } } },
    ) {
      const text = `select date, country, active_users as "activeUsers", total_revenue as "totalRevenue",
          avg_transaction as "avgTransaction"
        from analytics.daily_user_metrics where date >= $1 order by date, country limit $2 offset $3`;
      const values = [filter.date.greaterThanOrEqualTo, first, offset];
      return { nodes: (await pool.query({ name: "metrics", text, values })).rows };
    },
  },
};

/** The latest transactions of each user, in the order of the users. */
export async function latestTransactions(userIds: readonly number[], first: number) {
  const text = `select u.user_id as "userId", t.transaction_id as "transactionId", t.amount, t.status,
      t.transaction_date as "transactionDate"
    from unnest($1::int[]) u(user_id)
    cross join lateral (select * from production.transactions t where t.user_id = u.user_id
      order by t.transaction_date desc, t.transaction_id desc limit $2) t`;
  const { rows } = await pool.query({ name: "latest", text, values: [userIds, first] });
  const byUser = new Map(userIds.map((id) => [id, { nodes: [] as unknown[] }]));
  for (const row of rows) byUser.get(row.userId)!.nodes.push(row);
  return userIds.map((id) => byUser.get(id)!);
}
