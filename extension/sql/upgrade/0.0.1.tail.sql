
-- The tenants of 0.0.1 come back.
INSERT INTO sentinai.tenant (tenant_id, name, created_at)
SELECT tenant_id, name, created_at FROM sentinai.tenant_0_0_1;
DROP TABLE sentinai.tenant_0_0_1;
