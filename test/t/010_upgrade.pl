# ALTER EXTENSION UPDATE from every released version brings the very catalogue that CREATE EXTENSION makes, and keeps
# the rows that users own.
use Sentinai::Test;

my $t = Sentinai::Test->new(extension => 0);

# Everything that belongs to the extension, a line each, in an order and in terms that no oid enters. What a function or
# a constraint says is compared by its text, rights by grantee, comments as they stand.
my $catalogue = <<'SQL';
WITH member AS (
	SELECT d.classid, d.objid
	FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE e.extname = 'sentinai' AND d.deptype = 'e'
), relation AS (
	SELECT c.* FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
), routine AS (
	SELECT p.* FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
), line (text) AS (
	SELECT 'member ' || pg_describe_object(classid, objid, 0) FROM member
	UNION ALL
	SELECT format('relation %s kind %s persistence %s options %s rls %s %s acl %s', oid::regclass, relkind,
		relpersistence, reloptions, relrowsecurity, relforcerowsecurity,
		(SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(relacl) a))
	FROM relation
	UNION ALL
	SELECT format('column %s %s %s %s not null %s identity %s generated %s collation %s default %s acl %s', attrelid::regclass,
		attnum - (SELECT count(*) FROM pg_attribute g WHERE g.attrelid = a.attrelid AND g.attisdropped AND g.attnum < a.attnum),
		attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attcollation::regcollation,
		pg_get_expr(d.adbin, d.adrelid), attacl)
	FROM pg_attribute a JOIN relation r ON r.oid = a.attrelid
		LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	WHERE NOT attisdropped AND attnum > 0
	UNION ALL
	SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(c.oid))
	FROM pg_constraint c JOIN relation r ON r.oid = c.conrelid
	UNION ALL
	SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index i JOIN relation r ON r.oid = i.indrelid
	UNION ALL
	SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid WHERE NOT tgisinternal
	UNION ALL
	SELECT format('policy %s %s %s %s %s %s', polrelid::regclass, polname, polcmd, polroles::regrole[],
		pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
	FROM pg_policy p JOIN relation r ON r.oid = p.polrelid
	UNION ALL
	SELECT format('view %s %s', oid::regclass, pg_get_viewdef(oid)) FROM relation WHERE relkind = 'v'
	UNION ALL
	SELECT format('partitioned %s %s', oid::regclass, pg_get_partkeydef(oid)) FROM relation WHERE relkind = 'p'
	UNION ALL
	SELECT format('routine acl %s %s', (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(proacl) a),
		CASE WHEN prokind = 'a' THEN oid::regprocedure::text ELSE pg_get_functiondef(oid) END)
	FROM routine
	UNION ALL
	SELECT format('type %s %s acl %s', oid::regtype, typtype, typacl) || coalesce((SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder)
		FROM pg_enum e WHERE e.enumtypid = t.oid), '')
	FROM pg_type t JOIN member m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid
	UNION ALL
	SELECT format('comment %s: %s', pg_describe_object(c.classoid, c.objoid, c.objsubid), c.description)
	FROM pg_description c JOIN member m ON m.classid = c.classoid AND m.objid = c.objoid
	UNION ALL
	SELECT format('initial right %s %s', pg_describe_object(i.classoid, i.objoid, i.objsubid),
		(SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(initprivs) a))
	FROM pg_init_privs i JOIN member m ON m.classid = i.classoid AND m.objid = i.objoid
	UNION ALL
	SELECT format('dumped %s %s', r::regclass, e.extcondition[o])
	FROM pg_extension e, unnest(e.extconfig) WITH ORDINALITY AS u (r, o) WHERE extname = 'sentinai'
	UNION ALL
	SELECT 'schema ' || nspname || ' ' || coalesce((SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(nspacl) a), '')
	FROM pg_namespace WHERE nspname LIKE 'sentinai%'
)
SELECT text FROM line ORDER BY text COLLATE "C"
SQL

sub database
{
	my ($name, @statements) = @_;
	$t->sql("CREATE DATABASE $name");
	$t->sql($_, database => $name) for @statements;
	return $name;
}

my @released = split ' ', qx(make -s -C $Sentinai::Test::top/extension print-OLD_VERSIONS);
cmp_ok(scalar(@released), '>', 0, 'there are released versions to come from');

my $fresh = $t->sql($catalogue, database => database('fresh', 'CREATE EXTENSION sentinai'));
my $current = $t->sql(q{SELECT extversion FROM pg_extension WHERE extname = 'sentinai'}, database => 'fresh');

cmp_ok(scalar(split /\n/, $fresh), '>', 100, 'the catalogue of a fresh database has something in it');
is($t->sql('SELECT sentinai.version()', database => 'fresh'), $current, 'version() is the extension\'s');

for my $version (@released)
{
	my $database = database(
		'from_' . $version =~ tr/./_/r,
		"CREATE EXTENSION sentinai VERSION '$version'",
		q{SELECT sentinai.tenant_add('TENANT_001', 'One'), sentinai.tenant_add('TENANT_002')},
		q{UPDATE sentinai.tenant SET created_at = '2025-01-15 10:00+00'});

	chomp(my $url = $t->cluster('url', $database));
	my ($status, $out) = Sentinai::Test::capture({}, 'env', "DATABASE_URL=$url", 'KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1', 'WORKER_TYPE=intake',
		'worker/sentinai-worker', '--check');
	like($out, qr/^MISSING extension\s+sentinai \Q$version\E, and this worker is \Q$current\E\n\s+hint\s+ALTER EXTENSION sentinai UPDATE/m,
		"$version: the worker's --check says what is to be done");
	$t->sql('ALTER EXTENSION sentinai UPDATE', database => $database);
	is($t->sql(q{SELECT extversion FROM pg_extension WHERE extname = 'sentinai'}, database => $database),
		$current, "$version is now $current");

	my @want = split /\n/, $fresh;
	my @have = split /\n/, $t->sql($catalogue, database => $database);
	my (%want, %have);
	@want{@want} = ();
	@have{@have} = ();
	is_deeply(
		[ map { "- $_" } grep { !exists $have{$_} } @want ],
		[], "$version updated: nothing of a fresh catalogue is missing");
	is_deeply(
		[ map { "+ $_" } grep { !exists $want{$_} } @have ],
		[], "$version updated: nothing is there that a fresh catalogue doesn't have");
	is_deeply(
		[ $t->rows('SELECT tenant_id, name, created_at FROM sentinai.tenant ORDER BY tenant_id', database => $database) ],
		[ [ 'TENANT_001', 'One', '2025-01-15 10:00:00+00' ], [ 'TENANT_002', undef, '2025-01-15 10:00:00+00' ] ],
		"$version updated: its tenants are still there");
}

done_testing();
