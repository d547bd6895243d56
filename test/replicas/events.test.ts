// An event of a subscription takes several statements: the first looks which rows the subscriber may see, the others read
// them, in one transaction on a replica. When a later one fails there, the subscriber gets the event all the same, from
// the primary.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { until } from "../support/process.ts";
import { canReplicate, createSetup, type Setup } from "./setup.ts";

// What is read of a row does on a replica what the mode says; on the primary nothing.
const OWN = `
  create table public.mode (mode text);
  insert into public.mode values ('none');
  grant select on public.mode to strata_reader;
  create function public.misbehave(user_id integer) returns integer language plpgsql volatile
    security definer set search_path = '' as $$
  declare found text := (select mode from public.mode);
  begin
    if pg_catalog.pg_is_in_recovery() then
      if found = 'lost' then perform pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid());
      elsif found = 'conflict' then perform pg_catalog.pg_sleep(60);
      elsif found = 'fails' then raise exception 'could not read a block' using errcode = '58030';
      end if;
    end if;
    return user_id;
  end $$;
  create table production.badges (badge_id integer primary key, user_id integer not null references production.users);
  create index on production.badges (user_id);
  create view production.watched_badges as select badge_id, user_id, public.misbehave(user_id) as checked from production.badges;
  comment on view production.watched_badges is E'@primaryKey badge_id\\n@foreignKey (user_id) references production.users (user_id)';
  grant select on production.badges, production.watched_badges to strata_reader, strata_operator;
  select strata.announce_changes('users');
  select strata.reconcile();`;

describe.runIf(canReplicate)("an event of a subscription", { tags: ["long"] }, () => {
  let setup: Setup;

  beforeAll(async () => {
    setup = await createSetup(1, {}, "-c max_standby_streaming_delay=10ms", OWN);
  }, 240_000);
  afterAll(() => setup?.close());

  test.each(["none", "fails", "lost", "conflict"])(
    "whose last statement meets it on a replica: %s",
    async (mode) => {
      await setup.pool.query("update public.mode set mode = 'none'");
      await setup.pool.query(
        `insert into production.users (user_id, username, email) values (1, 'ann', 'ann@example.org') on conflict do nothing`,
      );
      await setup.pool.query("insert into production.badges values (1, 1) on conflict do nothing");
      await setup.caughtUp();
      await takesReads();
      const events = setup.connect().iterate<any>({
        query: `subscription { userChanged { operation user { username country watchedBadges { nodes { checked } } } } }`,
      });
      const change = (country: string) =>
        setup.pool.query("update production.users set country = $1 where user_id = 1", [country]);
      const first = events.next();
      let isThere = false;
      void first.finally(() => (isThere = true));
      await until(async () => {
        await change("Chile");
        return isThere;
      });
      expect((await first).value.extensions.strata.node).toBe("replica-1");
      await setup.pool.query("update public.mode set mode = $1", [mode]);
      await setup.caughtUp();
      await change("Norway");
      const norway = async (): Promise<any> => {
        for (;;) {
          const { value } = await events.next();
          expect(value.errors).toBeUndefined();
          if (value.data.userChanged.user.country === "Norway") return value;
        }
      };
      const got = norway();
      if (mode === "conflict") {
        await until(
          async () =>
            (
              await setup.onReplica(
                0,
                "select count(*)::int as n from pg_stat_activity where wait_event = 'PgSleep'",
              )
            )[0].n > 0,
        );
        await setup.pool.query("begin; lock table production.badges in access exclusive mode; commit");
      }
      const event = await got;
      expect(event).toMatchObject({
        data: {
          userChanged: {
            operation: "UPDATED",
            user: { username: "ann", country: "Norway", watchedBadges: { nodes: [{ checked: 1 }] } },
          },
        },
        extensions: { strata: { node: mode === "none" ? "replica-1" : "primary" } },
      });
      await events.return!();
    },
  );

  const takesReads = () =>
    until(async () => {
      const response = await fetch(`${setup.url}/readyz`);
      const { checks } = (await response.json()) as { checks: Record<string, { detail: string }> };
      return checks["replica-1"]!.detail.startsWith("takes reads");
    });
});
