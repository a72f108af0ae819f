#!/bin/sh
# Create one database and its roles per owner; safe to run at every start.
#
#   <name>_owner   owns the database and its tables: migrations log in as this role
#   <name>         the service: reads and changes rows, creates and drops nothing
#   <name>_reader  people and dashboards: reads; auth has none, its rows are secrets
#   monitor        the exporter: the server's own figures, no row of anybody
#   backup         copies the whole server while it runs (replication); logs in to no database
#
# psql finds the server by PGHOST, PGPORT, PGUSER and PGPASSWORD. Passwords are read from
# files in SECRETS_DIR (<role>_postgres_password), so they are in no argument list. The
# Postgres image runs this file from its init folder.
set -eu
secrets=${SECRETS_DIR:-/run/secrets}

for name in auth catalog worker; do
  # "on_error_stop" makes psql exit with 3 instead of going on.
  psql --quiet --no-psqlrc --set on_error_stop=1 --dbname postgres \
    --set name="$name" --set owner="${name}_owner" <<SQL
set client_min_messages to warning;
\set password \`cat '$secrets/${name}_postgres_password'\`
\set owner_password \`cat '$secrets/${name}_owner_postgres_password'\`
select format('create role %I', r) from unnest(array[:'owner', :'name']) as r
  where not exists (select from pg_roles where rolname = r) \gexec
alter role :"owner" login nosuperuser nocreatedb nocreaterole noinherit password :'owner_password';
alter role :"name" login nosuperuser nocreatedb nocreaterole noinherit password :'password';
select format('create database %I owner %I encoding ''UTF8'' template template0', :'name', :'owner')
  where not exists (select from pg_database where datname = :'name') \gexec
revoke all on database :"name" from public;
grant connect on database :"name" to :"name";
revoke connect on database postgres, template1 from public;
\connect :"name"
set client_min_messages to warning;
revoke all on schema public from public;
alter schema public owner to :"owner";
grant usage on schema public to :"name";
-- Whatever the owner creates from now on may be used, not changed in shape.
alter default privileges for role :"owner" in schema public
  grant select, insert, update, delete on tables to :"name";
alter default privileges for role :"owner" in schema public
  grant usage, select on sequences to :"name";
alter default privileges for role :"owner" revoke execute on functions from public;
alter default privileges for role :"owner" in schema public
  grant execute on functions to :"name";
-- Whoever may connect could make large objects, which are no table that anybody guards.
revoke execute on function lo_creat(int), lo_create(oid), lo_from_bytea(oid, bytea)
  from public;
SQL
done

# Exporters: figures of all databases, rows of none.
psql --quiet --no-psqlrc --set on_error_stop=1 --dbname postgres <<SQL
set client_min_messages to warning;
\set password \`cat '$secrets/monitor_postgres_password'\`
select 'create role monitor' where not exists (select from pg_roles where rolname = 'monitor') \gexec
alter role monitor login nosuperuser nocreatedb nocreaterole inherit
  connection limit 3 password :'password';
alter role monitor set default_transaction_read_only = on;
alter role monitor set statement_timeout = '5s';
grant pg_monitor to monitor;
grant connect on database postgres to monitor;
SQL

# A server that somebody else runs has backups of its own, and no file with this password.
if [ -e "$secrets/backup_postgres_password" ]; then
  psql --quiet --no-psqlrc --set on_error_stop=1 --dbname postgres <<SQL
set client_min_messages to warning;
\set password \`cat '$secrets/backup_postgres_password'\`
select 'create role backup' where not exists (select from pg_roles where rolname = 'backup') \gexec
-- Two: the files and the log beside them. What it copies holds every row, so no process of
-- the platform is given its password.
alter role backup login replication nosuperuser nocreatedb nocreaterole noinherit
  connection limit 2 password :'password';
SQL
fi

for name in catalog worker; do
  psql --quiet --no-psqlrc --set on_error_stop=1 --dbname "$name" \
    --set name="$name" --set owner="${name}_owner" --set reader="${name}_reader" <<SQL
set client_min_messages to warning;
\set password \`cat '$secrets/${name}_reader_postgres_password'\`
select format('create role %I', :'reader')
  where not exists (select from pg_roles where rolname = :'reader') \gexec
-- Few connections and short statements: who looks must not be in the way of who works.
alter role :"reader" login nosuperuser nocreatedb nocreaterole noinherit
  connection limit 5 password :'password';
alter role :"reader" set default_transaction_read_only = on;
alter role :"reader" set statement_timeout = '10s';
alter role :"reader" set lock_timeout = '1s';
alter role :"reader" set idle_in_transaction_session_timeout = '30s';
grant connect on database :"name" to :"reader";
grant usage on schema public to :"reader";
-- Those that are there, and those that later migrations make.
grant select on all tables in schema public to :"reader";
alter default privileges for role :"owner" in schema public
  grant select on tables to :"reader";
SQL
done
