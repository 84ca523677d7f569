-- 99_point: the points of a debug build (make points). Part of no other.

CREATE FUNCTION sentinai.point(name text) RETURNS void
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_point';
COMMENT ON FUNCTION sentinai.point(text) IS
	'A named point in PL/pgSQL: what happens here is said by the setting sentinai.point.';

CREATE FUNCTION sentinai.points_in_c() RETURNS TABLE (name text, late boolean)
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_points';
COMMENT ON FUNCTION sentinai.points_in_c() IS 'The points in C.';

CREATE FUNCTION sentinai.points() RETURNS TABLE (name text, late boolean)
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT c.name, bool_and(c.late) FROM sentinai.points_in_c() AS c GROUP BY c.name
	UNION ALL
	SELECT m[1], false FROM pg_proc p, LATERAL regexp_matches(p.prosrc, 'sentinai\.point\(''(.+?)''\)', 'g') AS m
	 WHERE p.pronamespace = 'sentinai'::regnamespace
$$;
COMMENT ON FUNCTION sentinai.points() IS
	'All points of this build. late: what fails there can only be the process.';
