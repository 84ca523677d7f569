# Whoever wants a report to lie, or to hang: rows that come late, go, or move while it is read; a query that gives what it gave
# before; sessions that hold what it needs; a worker that is killed at each step; a disk that is full; cells of any size.
use Sentinai::Test;
use JSON::PP ();

my $t = Sentinai::Test->new(settings => 'sentinai.maintenance_interval = 50ms; sentinai.report_workers = 4; max_worker_processes = 16');
my $search = "SET search_path = sentinai, public;\n";
my $read = 'FROM app.item WHERE tenant_id = $1 AND id > coalesce($6[1]::integer, 0) ORDER BY id LIMIT $7';
$t->sql($search . <<"SQL");
SELECT tenant_add('T1'), rate_limit_set('T1', 'report_generations', 1000);
CREATE SCHEMA app;
CREATE TABLE app.item (tenant_id text, id integer, text text, PRIMARY KEY (tenant_id, id));
INSERT INTO app.item SELECT 'T1', n, 'item ' || n FROM generate_series(1, 50000) n;
CREATE TABLE app.gate (at text);
-- Stops there, as long as the gate is closed.
CREATE FUNCTION app.passed(place text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS \$\$
BEGIN
	WHILE EXISTS (SELECT FROM app.gate WHERE at = place) LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN true;
END \$\$;
SELECT report_type_add('items', 'SELECT id, id AS item, text, app.passed(CASE WHEN \$7 IS NULL AND id = 1 THEN ''count'' WHEN id = 30000 THEN ''read'' END) AS passed $read',
	key_columns => 1);
SELECT report_type_add('same_again', 'SELECT id, id AS item FROM app.item WHERE tenant_id = \$1 ORDER BY id LIMIT \$7', key_columns => 1);
SQL

my $n = 0;

sub ask
{
	my ($type, $format) = @_;
	$n++;
	$format //= 'csv';
	return $t->sql("SELECT id FROM sentinai.report_request('T1', '$type', 'Report $n', '$format', '{\"from_date\": \"2025-01-01\", \"to_date\": \"2025-01-31\"}')");
}

sub ends
{
	my ($id, $columns, $wanted, $name) = @_;
	$t->wait_for_sql("SELECT $columns FROM sentinai.report_status('$id') WHERE status NOT IN ('pending', 'generating')", $wanted, name => $name);
	return;
}

sub gate
{
	my ($at) = @_;
	my $sql = $at ? "INSERT INTO app.gate VALUES ('$at')" : 'DELETE FROM app.gate';
	$t->wait_for('the server', sub { !($t->sql_status($sql))[0] });
	return;
}

# The worker of a report that waits where it can be seen: at the gate, or for a lock.
sub worker_at
{
	my ($id, $sign) = @_;
	my $pid;
	$t->wait_for("a worker of $id at $sign", sub {
		my ($status, $out) = $t->sql_status("SELECT w.pid FROM sentinai.report_workers() w JOIN sentinai.audit_report r USING (seq)"
			. " JOIN pg_stat_activity a USING (pid) WHERE r.id = '$id' AND r.status = 'generating' AND $sign");
		$pid = $out if !$status && $out =~ /^\d+$/;
		return $pid;
	});
	return $pid;
}

my $at_gate = q{a.wait_event = 'PgSleep'};
my $at_lock = q{a.wait_event_type = 'Lock'};

sub content { return $t->sql("SELECT convert_from(content, 'UTF8') FROM sentinai.report_download('$_[0]')") }

my $good = ask('items');
ends($good, 'status, row_count', 'completed|50000', 'a report is made');
my $sha256 = $t->sql("SELECT sha256 FROM sentinai.report_status('$good')");

# ---------------------------------------------------------------- queries

ends(ask('same_again'), q{status, error_message LIKE 'report is not complete: it has more than 50000 rows%'}, 'failed|t',
	'a query that does not go on from its key ends as soon as it has more rows than there are');

# Longer than a chunk is read, and more than fits into what is written at once
$t->sql($search . <<'SQL');
CREATE FUNCTION app.slow(n integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM pg_sleep(0.3) WHERE n % 2500 = 0; RETURN n; END $$;
SELECT report_type_add('slow', 'SELECT app.slow(n) AS n, repeat(''x'', 100) AS text FROM generate_series(1, 10000) n', snapshot => true);
SQL
ends(ask('slow'), 'status, row_count', 'completed|10000', 'a snapshot that takes longer than a chunk is read once');

# What is dear before the first row is not done again for each few that follow
$t->sql($search . <<'SQL');
CREATE FUNCTION app.dear() RETURNS integer LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM pg_sleep(1.2); RAISE LOG 'dear'; RETURN 0; END $$;
SELECT report_type_add('dear', 'SELECT n, n AS shown FROM generate_series(1, 3000) n WHERE n > (SELECT app.dear()) + coalesce($6[1]::integer, 0) ORDER BY n LIMIT $7', key_columns => 1);
SQL
ends(ask('dear'), 'status, row_count', 'completed|3000', 'a query that is long in coming');
cmp_ok(scalar(() = Sentinai::Test::slurp("$t->{cluster_dir}/log") =~ /LOG:  dear/g), '<=', 3, 'is begun once to be counted, and once to be read');

# ---------------------------------------------------------------- rows that come, go, or move

gate('read');
my $deleted = ask('items');
worker_at($deleted, $at_gate);
$t->sql('DELETE FROM app.item WHERE id > 49990');
gate();
ends($deleted, 'status, error_message', 'failed|report is not complete: it has 49990 rows of 50000', 'rows that are deleted while it is read');
$t->sql(q{INSERT INTO app.item SELECT 'T1', n, 'item ' || n FROM generate_series(49991, 50000) n});

my $late = $t->session;
$late->sql('SET track_activities = off');
$late->sql('BEGIN');
$late->sql(q{INSERT INTO sentinai.exceptions (tenant_id, exception_id, created_at) VALUES ('T1', 'LATE', '2025-01-10')});
my $waits = ask('exception_activity');
like($t->sql("SELECT waits_for FROM sentinai.report_status('$waits')"), qr/^process \d+ /, 'a transaction that does not tell since when it is open');
my $tended = $t->sql(q{SELECT max(last_run_at) FROM sentinai.maintenance_status()});
$t->wait_for_sql("SELECT min(last_run_at) > '$tended' FROM sentinai.maintenance_status() WHERE duty = 'reports'", 't');
is($t->sql("SELECT status FROM sentinai.report_status('$waits')"), 'pending', 'is waited for');
$late->sql('COMMIT');
$late->close;
ends($waits, 'status, row_count', 'completed|1', 'and what it brought is in the report');

for my $change ('exceptions SET created_at = created_at + interval \'1 day\'', 'exceptions SET recorded_at = now()', 'exceptions SET exception_id = \'OTHER\'',
	'tool_execution SET created_at = now()', 'config_change_request SET created_at = now()')
{
	my ($table) = split ' ', $change;
	$t->sql("INSERT INTO sentinai.tool_execution (tenant_id, tool_id, requested_by_actor_type) VALUES ('T1', 'tool', 'user')") if $table eq 'tool_execution';
	$t->sql("INSERT INTO sentinai.config_change_request (tenant_id, change_type, resource_id, proposed_config) VALUES ('T1', 'tool', 'r', '{}')") if $table eq 'config_change_request';
	is(($t->sql_error("UPDATE sentinai.$change"))[0], 'SN010', "what a row is found by never changes: $change");
}

# ---------------------------------------------------------------- killed at each step

# Where a worker stands still, and how it is let go: at the gate, before the bytes, before the manifest.
my %locks = (storing => 'LOCK TABLE sentinai.report_chunk IN SHARE MODE', completing => q{SELECT FROM sentinai.tenant WHERE tenant_id = 'T1' FOR UPDATE});
for my $step (qw(count read storing completing))
{
	my $holder;
	gate($step eq 'count' ? 'count' : 'read');
	my $killed = ask('items');
	my $pid = worker_at($killed, $at_gate);
	if ($locks{$step})
	{
		$holder = $t->session;
		$holder->sql('BEGIN');
		$holder->sql($locks{$step});
		gate();
		worker_at($killed, $at_lock);
	}
	kill KILL => $pid;
	$holder->close if $holder;
	$t->wait_for_sql("SELECT tries > 1 FROM sentinai.report_status('$killed')", 't', name => "killed at: $step");
	gate();
	ends($killed, "status, row_count, sha256 = '$sha256'", 'completed|50000|t', 'it is made again, with the same bytes');
	is($t->sql("SELECT count(*) FROM sentinai.report_manifest WHERE report_id = '$killed'"), 1, 'and has one manifest');
}

# ---------------------------------------------------------------- what others hold

$t->sql(q{ALTER SYSTEM SET sentinai.report_timeout = '2s'});
$t->sql('SELECT pg_reload_conf()');
gate('read');
my $held = ask('items');
my $pid = worker_at($held, $at_gate);
my $holder = $t->session;
$holder->sql('BEGIN');
$holder->sql("SELECT FROM sentinai.audit_report WHERE id = '$held' FOR UPDATE");
gate();
$t->wait_for('the worker to end though somebody holds its report', sub { !kill 0 => $pid });
$t->sql('ALTER SYSTEM RESET sentinai.report_timeout');
$t->sql('SELECT pg_reload_conf()');
$holder->sql('COMMIT');
$holder->close;
ends($held, 'status, tries', 'completed|2', 'a report that somebody holds is made when they let go');

# ---------------------------------------------------------------- several of one tenant, types that go

my @together = map { ask('items') } 1 .. 8;
ends($_, "status, sha256 = '$sha256'", 'completed|t', 'one of several at once') for @together;
is($t->sql(q{SELECT count(*) FROM sentinai.report_chain_check('T1')}), 0, 'they stand in one chain');
is($t->sql(q{SELECT count(*) = max(n) AND count(*) = count(DISTINCT n) FROM sentinai.report_manifest WHERE tenant_id = 'T1'}), 't', 'without a gap');

gate('read');
my $removed = ask('items');
worker_at($removed, $at_gate);
$t->sql(q{SELECT sentinai.report_type_remove('items')});
gate();
ends($removed, "status, sha256 = '$sha256'", 'completed|t', 'a type that is removed while a report of it is made');
is($t->sql("SELECT length(content) > 0 FROM sentinai.report_download('$removed')"), 't', 'it can be had');

# Thousands that wait: whoever takes the next one must not look at all of them for each of them.
$t->sql($search . <<'SQL');
SELECT tenant_add('T2');
INSERT INTO audit_report (id, tenant_id, report_type, title, format, parameters, period_from, period_to, bound_at, requested_by, requested_role)
SELECT 'many-' || n, 'T2', CASE WHEN n > 9000 THEN 'gone' ELSE 'policy_decisions' END, 'Many', 'csv', '{}', '2025-01-01', '2025-02-01', clock_timestamp(), 'x', 'postgres'
  FROM generate_series(1, 10000) n ORDER BY n % 2, n;
SQL
ends(ask('policy_decisions'), 'status', 'completed', 'a report of another tenant is made at once though ten thousand wait');
$t->sql($search . q{SELECT count(report_set_status(p.id, 'failed', 'enough')) FROM (SELECT id FROM audit_report
	WHERE tenant_id = 'T2' AND report_type = 'policy_decisions' AND status = 'pending' FOR NO KEY UPDATE SKIP LOCKED) p});
$t->wait_for_sql(q{SELECT count(*) FROM sentinai.audit_report WHERE status = 'failed' AND error_message = 'report type "gone" is gone'}, 1000,
	name => 'those whose type is gone fail, all at once');
$t->wait_for_sql(q{SELECT count(*) FROM sentinai.audit_report WHERE status IN ('pending', 'generating')}, 0);

# ---------------------------------------------------------------- no room

$t->sql(q{SELECT sentinai.report_type_add('noise', 'SELECT n AS key, n, md5(n::text || ''a'') || md5(n::text || ''b'') AS noise FROM generate_series(1, 60000) n WHERE n > coalesce($6[1]::integer, 0) ORDER BY n LIMIT $7', key_columns => 1)});
$t->sql(q{ALTER SYSTEM SET temp_file_limit = '1MB'});
$t->sql('SELECT pg_reload_conf()');
my $full = ask('noise');
ends($full, 'status, tries, error_message', 'failed|3|temporary file size exceeds temp_file_limit (1024kB)', 'no room for a temporary file: tried three times, and said');
$t->sql('ALTER SYSTEM RESET temp_file_limit');
$t->sql('SELECT pg_reload_conf()');
$t->sql("SELECT sentinai.report_retry('$full')");
ends($full, 'status, row_count', 'completed|60000', 'when there is room it is made');

# ---------------------------------------------------------------- nothing, and cells of any size

for my $format (qw(csv json jsonl pdf))
{
	my $empty = ask('policy_decisions', $format);
	ends($empty, 'status, row_count, file_size_bytes > 0', 'completed|0|t', "no rows as $format");
	like(content($empty), qr/^decided_at,exception_id,[^\n]*$/, 'a header and nothing else') if $format eq 'csv';
	is_deeply(JSON::PP::decode_json(content($empty))->{rows}, [], 'an empty array') if $format eq 'json';
}

# Characters that JSON makes six times as long
$t->sql(q{SELECT sentinai.report_type_add('large', 'SELECT 1 AS n, repeat(chr(1), 20000000) AS cell', snapshot => true)});
my $large = ask('large', 'json');
ends($large, 'status, row_count, file_size_bytes > 120000000', 'completed|1|t', 'a cell of 20 MB, of 120 MB as JSON');
is($t->sql("SELECT encode(sha256(string_agg(data, '' ORDER BY n)), 'hex') = (SELECT sha256 FROM sentinai.report_status('$large')) FROM sentinai.report_chunk WHERE report_id = '$large'"), 't', 'what is stored is what was hashed');

done_testing();
