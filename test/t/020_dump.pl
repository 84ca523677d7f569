# What users own survives pg_dump into another database, and a base backup; and the work goes on there from where it was.
use Sentinai::Test;

my $t = Sentinai::Test->new;
# What is compared must not turn while the test runs.
$t->sql($_) for q{ALTER SYSTEM SET sentinai.outbox_rotation_period = '1d'}, 'SELECT pg_reload_conf()';
my $search = 'SET search_path = sentinai, public;';

# Every table that the extension has dumped, with its condition: all rows as text, in one order.
sub owned
{
	my ($source, %option) = @_;
	my @tables = $source->rows(
		q{SELECT r::regclass, e.extcondition[o] FROM pg_extension e, unnest(e.extconfig) WITH ORDINALITY AS u (r, o)
		   WHERE extname = 'sentinai' AND (SELECT relkind FROM pg_class WHERE oid = r) IN ('r', 'p') ORDER BY r::regclass::text},
		%option);
	my %rows;

	for my $table (@tables)
	{
		my ($name, $condition) = @$table;
		$rows{$name} = [
			map { $_->[0] } $source->rows(qq{SELECT x::text FROM (SELECT * FROM $name $condition) x ORDER BY x::text COLLATE "C"}, %option)
		];
	}
	return \%rows;
}

sub event
{
	my ($event, $type, $exception, $payload) = @_;
	return qq({"event_id": "$event", "event_type": "$type", "tenant_id": "TENANT_001", "exception_id": "$exception",)
	  . qq( "payload": $payload});
}

# One call of consume with these records of partition 0, from where assign() says
sub consume
{
	my ($source, $worker, $group, $topic, $from, $values, %option) = @_;
	my $records = join ', ', map {
		my $offset = $from + $_;
		"ROW('$topic', 0, $offset, (SELECT epoch FROM kafka_offset WHERE group_id = '$group' AND topic = '$topic'), now(), 'k', NULL,"
		  . " convert_to('$values->[$_]', 'UTF8'))"
	} 0 .. $#$values;
	return $source->sql(
		"$search SELECT format('handled %s duplicate %s failed %s dead %s due %s', handled, duplicate, failed, dead_lettered, due)"
		  . " FROM consume('$worker', '$group', ARRAY[$records]::sentinai.record[])",
		%option);
}

# ---------------------------------------------------------------- something of everything

$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('TENANT_001', 'One'), tenant_add('TENANT_002');
SELECT tenant_suspend('TENANT_002');
CREATE SCHEMA app;
CREATE TABLE app.done (event_id text PRIMARY KEY);
CREATE FUNCTION app.work(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.payload ? 'fail' THEN
		RAISE EXCEPTION 'failed as told';
	END IF;
	INSERT INTO app.done VALUES (e.event_id);
END $$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT INSERT ON app.done TO sentinai_handler;
SELECT event_type_add('WorkToDo');
SELECT worker_type_add('billing', 'work', 'billing-group'), handler_add('billing', 'WorkToDo', 'app.work');
SELECT assign('intake', 'intake-workers', 'exceptions', 0);
SELECT assign('billing', 'billing-group', 'work', 0);
SELECT idempotency_begin('TENANT_001', 'work', 'runs', '{}', lease => '1 day');
BEGIN;
SELECT idempotency_begin('TENANT_001', 'work', 'done', '{}');
SELECT idempotency_complete('TENANT_001', 'work', 'done', '{"answer": 42}');
COMMIT;
SQL
is(
	consume($t, 'intake', 'intake-workers', 'exceptions', 0,
		[ event('EVT_1', 'ExceptionIngested', 'EXC_1', '{"severity": "low"}'), 'no JSON', event('EVT_2', 'ExceptionIngested', 'EXC_2', '{}') ]),
	'handled 2 duplicate 0 failed 0 dead 1 due 0', 'intake has handled something');
is(
	consume($t, 'billing', 'billing-group', 'work', 0,
		[ event('W_1', 'WorkToDo', 'X_1', '{}'), event('W_2', 'WorkToDo', 'X_2', '{"fail": 1}') ]),
	'handled 1 duplicate 0 failed 1 dead 0 due 0', 'a handler of the user\'s too, and one event waits for its retry');
$t->sql(q{UPDATE sentinai.event_pending SET next_attempt_at = now() + interval '1 day'});
$t->sql(<<'SQL');
INSERT INTO sentinai.outbox_blocked (id, topic, value, created_at) VALUES (0, 'missing', 'v', now());
INSERT INTO sentinai.outbox_failed (id, topic, record_value, error, message, created_at)
VALUES (0, 'small', 'v', 'MSG_SIZE_TOO_LARGE', 'too large', now());
SQL
# Reports with their manifests, holds, a type of one's own and a mask.
$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT report_type_add('done', 'SELECT event_id AS k, event_id FROM app.done WHERE event_id > coalesce($6[1], '''') ORDER BY 1 LIMIT $7', key_columns => 1);
INSERT INTO report_mask VALUES ('^pin$');
SELECT report_request('TENANT_001', 'exception_activity', 'one', 'csv', jsonb_build_object('from_date', current_date - 1, 'to_date', current_date + 1));
SELECT report_request('TENANT_001', 'done', 'two', 'json', '{"from_date": "2025-01-01", "to_date": "2025-01-31"}');
SELECT legal_hold_add('TENANT_001', 'case 12', '2020-01-01', '2020-01-31');
SQL
$t->wait_for_sql(q{SELECT string_agg(status, ' ') FROM sentinai.report_list('TENANT_001')}, 'completed completed', name => 'reports are made');
$t->sql(q{SELECT sentinai.report_hold(id, 'case 13') FROM sentinai.audit_report WHERE title = 'one'});
my $link = $t->sql(q{SELECT token FROM sentinai.audit_report r, sentinai.report_link(r.id) WHERE r.title = 'one'});
my $public_key = $t->sql('SELECT sentinai.report_public_key()');

# Usage, late and corrected too, at rest: maintenance finds nothing to move. One row waits for tomorrow.
$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT usage_correct('TENANT_001', 'events', 'billing/WorkToDo', now(), -1, 'not theirs');
SELECT usage_close('2020-01-01');
INSERT INTO usage_delta_0 VALUES ('2019-12-31', 1, 'TENANT_001', 'events', 'billing/WorkToDo');
SELECT usage_storage(), usage_roll('infinity');
SELECT usage_compact();
INSERT INTO usage_delta_1 VALUES (now() + interval '1 day', 1, 'TENANT_001', 'events', 'billing/WorkToDo');
SQL

# Limits, and counts that are all written down: maintenance finds nothing to write.
$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT rate_limit_set('TENANT_001', 'api_requests', 5, reason => 'for the test'), rate_limit_type_set('exports', 3, 86400);
SELECT rate_limit_check('TENANT_001', 'exports', 2), rate_limit_reset('TENANT_001', 'tool_executions', 'for the test');
SQL
$t->wait_for_sql(q{SELECT coalesce(sentinai.rate_limit_flush(), 'done')}, 'done');

# Whose a role is
$t->sql(q{CREATE ROLE regress_dump_a IN ROLE sentinai_viewer; SELECT sentinai.tenant_role_add('regress_dump_a', 'TENANT_001')});

# A mask, and an erasure that finds nothing.
$t->sql(<<'SQL');
SET search_path = sentinai, public;
CREATE FUNCTION app.forget(text, text, bytea) RETURNS TABLE (relation text, rows bigint) LANGUAGE sql AS $$SELECT 'app.done', 0::bigint$$;
SELECT payload_mask_add('ExceptionIngested', '{customer,email}'), subject_source_add('app', 'app.forget');
SELECT subject_erase('TENANT_001', 'nothing', 'for the test');
SQL

my $secret = $t->sql(q{SELECT emit_secret FROM sentinai.worker_config('intake')});
my $before = owned($t);
my $dead = $t->sql('SELECT max(id) FROM sentinai.dead_letter_queue');

# A table that is empty on both sides shows nothing; these have rows.
for my $table (qw(tenant tenant_history event_type worker_type handler kafka_topic kafka_offset emit_secret event_log
	event_processing_log dedupe_state dedupe_generation key_state event_pending dead_letter_queue dlq_history outbox_state outbox_blocked
	outbox_failed usage_delta_1 usage_metric usage_correction usage_closed usage_late idempotency_key exceptions exception_event
	report_type report_mask audit_report report_chunk report_manifest report_history legal_hold
	rate_limit_config rate_limit_type_override rate_limit_since rate_limit_usage rate_limit_history payload_mask subject_salt
	subject_erasure subject_source tenant_role))
{
	cmp_ok(scalar(@{ $before->{"sentinai.$table"} // [] }), '>', 0, "$table has rows to lose");
}
cmp_ok(scalar(map { @{ $before->{"sentinai.outbox_$_"} } } 0 .. 2), '>', 0, 'the outbox has rows to lose');

# What must hold in a copy, however it was made
sub goes_on
{
	my ($source, $how, %option) = @_;

	is_deeply(owned($source, %option), $before, "$how: every row that users own is there");
	is($source->sql(q{SELECT emit_secret FROM sentinai.worker_config('intake')}, %option), $secret,
		"$how: the marks on our own records stay valid");
	is($source->sql("$search SELECT next_offset FROM assign('intake', 'intake-workers', 'exceptions', 0)", %option), '3',
		"$how: a worker reads on where it was");
	$source->sql("$search SELECT assign('billing', 'billing-group', 'work', 0)", %option);
	is(
		consume($source, 'intake', 'intake-workers', 'exceptions', 3,
			[ event('EVT_1', 'ExceptionIngested', 'EXC_1', '{"severity": "low"}'), event('EVT_3', 'ExceptionIngested', 'EXC_3', '{}'), 'no JSON' ],
			%option),
		'handled 1 duplicate 1 failed 0 dead 1 due 0', "$how: what was handled before is a duplicate, what is new is handled");
	cmp_ok($source->sql('SELECT max(id) FROM sentinai.dead_letter_queue', %option), '>', $dead, "$how: ids go on");
	is($source->sql(q{SELECT allowed, "limit", remaining FROM sentinai.rate_limit_check('TENANT_001', 'exports', 2)}, %option), 'f|3|1',
		"$how: limits go on, from what was counted");
	$source->sql(
		q{UPDATE sentinai.event_pending SET next_attempt_at = now(), record_value = convert_to(replace(convert_from(record_value, 'UTF8'), '"fail"', '"well"'), 'UTF8')},
		%option);
	is(consume($source, 'billing', 'billing-group', 'work', 2, [ event('W_3', 'WorkToDo', 'X_3', '{}') ], %option),
		'handled 2 duplicate 0 failed 0 dead 0 due 1', "$how: the retry that was open happens");
	is($source->sql('SELECT string_agg(event_id, $$ $$ ORDER BY event_id) FROM app.done', %option), 'W_1 W_2 W_3',
		"$how: each was done once");
	is($source->sql(q{SELECT response FROM sentinai.idempotency_begin('TENANT_001', 'work', 'done', '{}')}, %option), '{"answer": 42}',
		"$how: an idempotency key has its answer");
	reports_go_on($source, $how, %option);
	return;
}

sub reports_go_on
{
	my ($source, $how, %option) = @_;
	my $worker = "$Sentinai::Test::top/worker/sentinai-worker";

	for my $title ('one', 'two')
	{
		my ($hex, $manifest) = @{ ($source->rows(
			"SELECT encode(d.content, 'hex'), sentinai.report_manifest_get(r.id) FROM sentinai.audit_report r, sentinai.report_download(r.id) d WHERE r.title = '$title'", %option))[0] };
		put("$title", pack 'H*', $hex);
		put("$title.manifest.json", $manifest);
		is(system("'$worker' verify '$t->{dir}/$title' --public-key $public_key >/dev/null"), 0, "$how: report $title is what was signed");
	}
	is($source->sql(q{SELECT count(*) FROM sentinai.report_chain_check('TENANT_001')}, %option), 0, "$how: the chain of manifests is whole");
	is($source->sql(q{SELECT string_agg(title || ' ' || s.legal_hold, ', ' ORDER BY title) FROM sentinai.report_list('TENANT_001') r, sentinai.report_status(r.id) s (i, t, ty, title_again)}, %option),
		'one true, two false', "$how: holds are where they were");
	$source->sql(q{SELECT sentinai.report_request('TENANT_001', 'done', 'three', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-31"}')}, %option);
	$source->wait_for_sql(q{SELECT status, row_count FROM sentinai.audit_report WHERE title = 'three'}, 'completed|3', %option);
	is($source->sql(q{SELECT max(n) FROM sentinai.report_manifest WHERE tenant_id = 'TENANT_001'}, %option), 3, "$how: the chain goes on");
	is($source->sql(q{SELECT count(*) FROM sentinai.report_chain_check('TENANT_001')}, %option), 0, "$how: and is whole");
	return;
}

sub put
{
	my ($name, $bytes) = @_;
	open my $out, '>:raw', "$t->{dir}/$name" or die $!;
	print {$out} $bytes;
	close $out;
	return;
}

# ---------------------------------------------------------------- a base backup, first: it is of this very state

my $copy = $t->copy_cluster('copy');
goes_on($copy, 'base backup');
is($copy->sql('SELECT sentinai.report_public_key()'), $public_key, 'base backup: it signs with the same key');
is($copy->sql("SELECT length(content) > 0 FROM sentinai.report_download_by_token('$link')"), 't', 'base backup: links stay good');

# ---------------------------------------------------------------- pg_dump into another database

my $dump = "$t->{dir}/dump.sql";
$t->sql('CREATE ROLE backup LOGIN BYPASSRLS IN ROLE pg_read_all_data');
for my $who (qw(backup postgres))
{
	my ($status, undef, $said) = Sentinai::Test::capture({}, "$t->{bin}/pg_dump", '-h', $t->{socket}, '-p', $t->{port}, '-U', $who, '-f', $dump, 'sentinai');
	is("$status $said", '0 ', "pg_dump as $who has nothing to warn of");
}
$t->sql('CREATE DATABASE restored');
my ($status, $out, $err) = $t->sql_status("\\i $dump", database => 'restored');
is($status, 0, 'the dump goes in without an error') or diag($err);
is($t->sql('SELECT sentinai.is_active()', database => 'restored'), 'f', 'a restored database is quiet');
goes_on($t, 'dump', database => 'restored');
is($t->sql('SELECT sentinai.is_active()', database => 'restored'), 't', 'until a worker comes');
isnt($t->sql('SELECT sentinai.report_public_key()', database => 'restored'), $public_key, 'it signs with a key of its own');
is(($t->sql_error("SELECT sentinai.report_download_by_token('$link')", database => 'restored'))[0], 'SN073', 'links of the first database are none here');
my $text = Sentinai::Test::slurp($dump);
is(scalar(grep { index($text, $_) >= 0 } $t->sql(q{SELECT encode(sign_secret, 'hex') || E'\n' || encode(link_secret, 'hex') FROM sentinai.report_key}) =~ /(\w{64})/g), 0,
	'no secret of reports is in the dump');

is_deeply(owned($t), $before, 'the first database has noticed nothing');

done_testing();
