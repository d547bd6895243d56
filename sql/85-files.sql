-- ======================================================================================================
-- Files: which files of DATASETS_DIR the database has, and in which version
--
-- A running server on the embedded engine applies a file when its text differs from the recorded hash. `strata migrate`
-- applies all files each time and reports those that changed. Servers read files of smart tags (*.json5) themselves;
-- they are recorded here so that a change of one counts as a change of the catalogue.
-- ======================================================================================================

create table if not exists strata.applied_files (
  file text primary key,
  hash text not null,
  schema_version integer not null,
  applied_at timestamptz not null default now()
);

comment on table strata.applied_files is 'Applied files of DATASETS_DIR; one row per file.';
comment on column strata.applied_files.file is 'Name of the file within DATASETS_DIR.';
comment on column strata.applied_files.hash is 'SHA-256 of the file''s text, in hexadecimal.';
comment on column strata.applied_files.schema_version is 'Schema version with which the file was applied; a different version applies it again.';
comment on column strata.applied_files.applied_at is 'When the file was last applied.';
