// Positions in the write-ahead log, as text that clients send back: system identifier, timeline and LSN, each of a
// fixed length, so that the later of two positions of a cluster is the greater text.

/** `<system identifier>-<timeline>-<LSN>`, the last two in hexadecimal. */
export type Position = string;

const POSITION = /^(\d{1,20}-[0-9A-F]{8})-([0-9A-F]{16})$/;

export const isPosition = (text: string): boolean => POSITION.test(text);

/** The part that two positions must share for their LSNs to compare: cluster and timeline. */
export const historyOf = (position: Position): string => position.slice(0, -17);
export const lsnOf = (position: Position): string => position.slice(-16);
export const toHistory = (system: string, timeline: string): string => `${system}-${timeline}`;
export const toTimeline = (decimal: string | number): string =>
  Number(decimal).toString(16).toUpperCase().padStart(8, "0");

const systemOf = (position: Position): string => position.slice(0, position.indexOf("-"));

/** Returns the second if the two do not compare: it is the more recent knowledge. */
export const later = (first: Position | undefined, second: Position | undefined): Position | undefined =>
  second === undefined || (first !== undefined && systemOf(first) === systemOf(second) && first > second)
    ? first
    : second;

export const bytesBetween = (from: string, to: string): number =>
  Math.max(Number(BigInt(`0x${to}`) - BigInt(`0x${from}`)), 0);

const PAGE_BYTES = 8192n;
/** Bytes of a WAL page's header. The insert position may lie behind one while the replay position is the end of the page before. */
const HEADER_BYTES = 24n;

export function toLsn(text: string): string {
  const [high = "0", low = "0"] = text.split("/");
  let lsn = (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`);
  if (lsn % PAGE_BYTES === HEADER_BYTES) lsn -= HEADER_BYTES;
  return lsn.toString(16).toUpperCase().padStart(16, "0");
}

/**
 * A node's report before it reads: "replica 0/3000148 1", or "primary" once it takes writes. A column of the
 * statement that applies the settings, before the role is among them: only the server's own login may see the timeline.
 * The timeline is read after the LSN, so that an LSN of a new timeline never passes for one of the old.
 */
export const BEFORE_READ = `case when pg_catalog.pg_is_in_recovery()
  then 'replica ' || coalesce(pg_catalog.pg_last_wal_replay_lsn()::text, '0/0') || ' '
    || coalesce((select received_tli::text from pg_catalog.pg_stat_get_wal_receiver()), '')
  else 'primary' end`;

export const BEFORE = { name: "before_read", text: `select ${BEFORE_READ} as position` };

/**
 * The position up to which a read with an older snapshot may have seen data. A commit becomes visible before its
 * record counts as replayed, so while there is more to replay, the record after the last one may be partly visible.
 */
export const AFTER = {
  name: "after_read",
  text: `select case when pg_catalog.pg_is_in_recovery()
    then 'replica ' || (replayed + case when replayed = pg_catalog.pg_last_wal_receive_lsn()
      or pg_catalog.pg_get_wal_replay_pause_state() = 'paused' then 0 else 1 end)
    else 'primary ' || inserted || ' ' || substr(pg_catalog.pg_walfile_name(inserted), 1, 8) end as position
  from (select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() end as replayed,
          case when not pg_catalog.pg_is_in_recovery() then pg_catalog.pg_current_wal_insert_lsn() end as inserted
        offset 0) at`,
};

/**
 * A position after everything that is committed. Records that are written but not flushed count only if commits do
 * not wait for the flush.
 */
export const WRITTEN = {
  name: "written",
  text: `select 'primary ' || at || ' ' || substr(pg_catalog.pg_walfile_name(at), 1, 8) as position
  from (select case when pg_catalog.current_setting('synchronous_commit') = 'off'
          then pg_catalog.pg_current_wal_insert_lsn() else pg_catalog.pg_current_wal_flush_lsn() end as at
        offset 0) at`,
};

/** A node's role and position, read from its control file and its receiver. */
export const IDENTITY = `
  select system.system_identifier::text as system, recovering,
    case when recovering then pg_catalog.pg_last_wal_replay_lsn() else pg_catalog.pg_current_wal_insert_lsn() end::text as lsn,
    case when recovering
      then coalesce((select received_tli from pg_catalog.pg_stat_get_wal_receiver()),
        greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline))::text
      else ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer::text
    end as timeline
  from pg_catalog.pg_is_in_recovery() recovering, pg_catalog.pg_control_system() system,
    pg_catalog.pg_control_checkpoint() checkpoint, pg_catalog.pg_control_recovery() recovery`;
