-- ======================================================================================================
-- daily_user_metrics: a metric that is composed of three others
--
-- The specification's query starts from users and joins their transactions, if any: for each country, users without
-- transactions form a group without a date. The partition column comes from the outer side of a join, so that group
-- cannot be computed by partition. Ordinary metrics of schema strata can be:
--
--   daily_rollup                 groups with a date
-- users_without_transactions   users of the other group; a changed transaction makes its user stale
-- idle_users                   number of these users by country
--
-- Only composing them is special; it happens here and in schema.sql.
-- ======================================================================================================

create or replace function strata.add_daily_users()
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  perform strata.put_metric('strata', 'daily_rollup', $query$
    select t.transaction_day as date, u.country, count(distinct u.user_id) as active_users,
           sum(t.amount) as total_revenue, avg(t.amount) as avg_transaction
    from production.transactions t join production.users u on u.user_id = t.user_id
    group by t.transaction_day, u.country
  $query$, 'date');
  perform strata.put_metric('strata', 'users_without_transactions', $query$
    select distinct u.user_id, u.country
    from production.users u left join production.transactions t on t.user_id = u.user_id
    where t.user_id is null
  $query$, 'user_id');
  perform strata.put_metric('strata', 'idle_users', $query$
    select w.country, count(*) as users from strata.users_without_transactions w group by w.country
  $query$, 'country');
  create index if not exists idx_users_without_transactions_country on strata.users_without_transactions (country);
end
$$;

comment on function strata.add_daily_users() is 'Declares the three metrics that daily_user_metrics is composed of.';

-- Counts as of the last refresh, minus users who may have left the group, plus users who are in it now.
create or replace function strata.idle_users_now()
returns table (country varchar(100), users bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_custom_plan as $$
declare
  stale text[] := strata.stale_partitions('users_without_transactions');
begin
  if stale is null then
    return query select w.country, count(*) from strata.metric_users_without_transactions w group by w.country;
  elsif stale = '{}' then
    return query select i.country, i.users from strata.idle_users i;
  else
    return query
      select n.country, sum(n.users)::bigint
      from (
        select i.country, i.users from strata.idle_users i
        union all
        select w.country, -1 from strata.users_without_transactions w where w.user_id = any (stale::integer[])
        union all
        select w.country, 1 from strata.stale_rows(null::strata.users_without_transactions) w
      ) n
      group by n.country
      having sum(n.users) > 0;
  end if;
end
$$;

comment on function strata.idle_users_now() is 'Number of users without transactions by country, as of now.';
