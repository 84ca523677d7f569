-- 99_dump: last, what pg_dump would trip over.

-- Row types of tables are not PUBLIC's, but pg_dump, which never dumps them apart from their table, warns of each one whose
-- initial rights are noted. CREATE EXTENSION takes the right away again wherever a dump is restored.
DELETE FROM pg_catalog.pg_init_privs i
 USING pg_catalog.pg_type t JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
 WHERE i.classoid = 'pg_catalog.pg_type'::pg_catalog.regclass AND i.objoid = t.oid AND c.relkind <> 'c'
   AND t.typnamespace IN ('sentinai'::pg_catalog.regnamespace, 'sentinai_api'::pg_catalog.regnamespace);
