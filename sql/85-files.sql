-- ======================================================================================================
-- Files: which files of DATASETS_DIR the database has, in which state
--
-- A running server on the embedded engine applies a file when its text is not the one recorded here.
-- `strata migrate` applies all of them each time, and reports those that had changed. Files of smart tags (*.json5) are
-- read by the servers; they are noted here so that a change of one is a change of the catalogue.
-- ======================================================================================================

create table if not exists strata.applied_files (
  file text primary key,
  hash text not null,
  schema_version integer not null,
  applied_at timestamptz not null default now()
);

comment on table strata.applied_files is 'Files of DATASETS_DIR as they were applied; one row per file.';
comment on column strata.applied_files.file is 'Name of the file in the folder.';
comment on column strata.applied_files.hash is 'SHA-256 of its text, in hexadecimal.';
comment on column strata.applied_files.schema_version is 'Version of the machinery that it was applied with; another one applies it again.';
comment on column strata.applied_files.applied_at is 'When it was applied last.';
