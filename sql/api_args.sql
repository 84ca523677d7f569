-- api_args: what a request over HTTP says in its headers, its path, behind the "?" and in its body
SET search_path = sentinai, public;
\set SHOW_CONTEXT never

-- Headers
SELECT api_request_header('x-a') AS not_set;
SET request.headers = '{"x-a": "a \"quoted\" ä", "x-b": "", "x-c": 1, "x-d": {"x-e": "inside"}, "idempotency-key": "\"k 1\""}';
SELECT name, api_request_header(name) FROM unnest(ARRAY['x-a', 'x-b', 'x-d', 'x-e', 'x-f', NULL]) name;
SELECT api_key();
SELECT headers, set_config('request.headers', headers, false) IS NOT NULL AS set, api_key(), api_request_header('x-a')
  FROM (VALUES (''), ('{}'), ('{"idempotency-key": "\"'), ('{"idempotency-key": "k"}'), ('{"idempotency-key": "\""}'), ('{"idempotency-key": "\"\""}'), ('{"idempotency-key": "\"k"}')) v (headers);

-- Percent-encoding
SELECT given, api_decode(given)
  FROM unnest(ARRAY['', 'plain', 'a+b', '%41%2b%2B', '%c3%a4 ä', '%', '%4', '%4g', '%%41', '100%', '%F0%9F%99%82', '%26%3D%3F%23']) given;
SELECT api_decode('%ff');
SELECT api_decode('%c3');
SELECT api_decode('a%00b');

-- Arguments: the path counts more than what is behind the "?", that more than the body, and the first of a name more than the next
CREATE FUNCTION regress_args(header text, body jsonb DEFAULT '{"id": 1, "reason": "body", "n": {"a": [1]}}') RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('request.headers', jsonb_build_object('x-sentinai-args', header)::text, false);
	RETURN api_args(body);
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT header, regress_args(header)
  FROM unnest(ARRAY[NULL, '', '&', 'id=&tenant_id=&', 'id=7&tenant_id=&', 'id=7&tenant_id=T%201&id=8&tenant_id=T2', 'id=&tenant_id=&id=8&id=9', 'id=&tenant_id=&reason=a+b%2Bc&actor=ä',
	'id=a+b&tenant_id=a+b&', 'id=&tenant_id=&reason=a=b=c&=x&y=&z', 'id=&tenant_id=&re%61son=x', 'id=&tenant_id=&a+b=c', 'id=&tenant_id=&reason=%ff', 'id=&tenant_id=&' || repeat('a', 100) || '=1']) header;
SELECT body, regress_args('id=7&tenant_id=&', body) FROM unnest(ARRAY[NULL, 'null', '[]', '1', '"a"', 'true', '{}']::jsonb[]) body;
SET request.headers = '';
SELECT api_args('[1]');
SELECT api_args(NULL);

-- What an argument must be
CREATE FUNCTION regress_arg(name text, what text, args jsonb) RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	detail	text;
BEGIN
	RETURN CASE what WHEN 'text' THEN api_text(args, name) WHEN 'bigint' THEN api_bigint(args, name)::text WHEN 'bigint or 5' THEN api_bigint(args, name, 5)::text
					 WHEN 'boolean' THEN api_boolean(args, name, NULL)::text ELSE api_boolean(args, name, true)::text END;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' ', SQLSTATE, SQLERRM, left(detail, 60));
END $$;
SELECT left(value, 30) AS value, left(regress_arg('a', 'text', a), 30) AS as_text, regress_arg('a', 'bigint', a) AS as_bigint, regress_arg('a', 'bigint or 5', a) AS or_five,
	   regress_arg('a', 'boolean', a) AS as_boolean, regress_arg('a', 'boolean or true', a) AS or_true
  FROM unnest(ARRAY[NULL, 'null', '""', '"text"', '"7"', '7', '-7', '"-7"', '7.0', '7.5', '1e3', '" 7"', '"7 "', '"+7"', '"-"', '999999999999999999', '1000000000000000000', '"000000000000000001"',
	'true', '"false"', '"TRUE"', '[]', '{"b": 1}', '"' || repeat('x', 300) || '"']) value, LATERAL (SELECT CASE WHEN value IS NULL THEN '{}' ELSE jsonb_build_object('a', value::jsonb) END AS a) x;
SELECT name, regress_arg(name, 'text', jsonb_build_object(name, repeat('ä', n))) = repeat('ä', n) AS taken
  FROM unnest(ARRAY['actor', 'requested_by', 'reason']) name, unnest(ARRAY[127, 128]) n ORDER BY 1, 2;

DROP FUNCTION regress_args(text, jsonb), regress_arg(text, text, jsonb);
