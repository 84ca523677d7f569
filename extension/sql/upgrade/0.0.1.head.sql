-- 0.0.1 had three objects. Its table is set aside until the subject files below have made the new one; its functions
-- are dropped, so that theirs are created as in a fresh database.
ALTER EXTENSION sentinai DROP TABLE sentinai.tenant;
ALTER TABLE sentinai.tenant RENAME TO tenant_0_0_1;
ALTER TABLE sentinai.tenant_0_0_1 RENAME CONSTRAINT tenant_pkey TO tenant_0_0_1_pkey;
ALTER TABLE sentinai.tenant_0_0_1 RENAME CONSTRAINT tenant_tenant_id_check TO tenant_0_0_1_tenant_id_check;
DROP FUNCTION sentinai.tenant_add(text, text);
DROP FUNCTION sentinai.version();

