# reports: how fast audit reports are made, what memory they take, and what they leave to others. `make bench-reports` calls it.
# docs/reports.md tells what the figures mean. All of a round is measured on one cluster, one after the other, so that a ratio is of
# two moments that are near each other; CPU time is that of one process, and depends less on what else the machine does.
#
#   speed     exception_activity as CSV, JSON and JSON Lines, each beside COPY of the same query to a file of the server's
#   types     the other types, of a tenth of the exceptions, as CSV and JSON
#   memory    private memory of the background worker, its highest: ROWS exceptions beside 10,000 rows
#   pdf       10,000 rows as PDF; ROWS exceptions as PDF are refused
#   traffic   events a second that sessions hand to consume(), with a report being made beside them and without
#
# ROWS           exceptions, with four events each, 1,000,000
# BENCH_PARTS    which of them, by default all
# BENCH_ROUNDS   rounds of all but memory, 3
# BENCH_SECONDS  of each measurement of traffic, 8
# BENCH_NAME     what the files of the figures are called, reports
use Sentinai::Bench;
use Sentinai::Test;
use List::Util qw(max min);
use Time::HiRes qw(sleep time);

my $rows = $ENV{ROWS} // 1_000_000;
my %part = map { $_ => 1 } split ' ', $ENV{BENCH_PARTS} // 'speed types memory pdf traffic';
my $rounds = $ENV{BENCH_ROUNDS} // 3;
my $seconds = $ENV{BENCH_SECONDS} // 8;
my $period = q({"from_date": "2025-01-01", "to_date": "2025-03-31"});
my %exceptions = (ALL => $rows, TENTH => max(int($rows / 10), 10), SMALL => 2500);    # by tenant
my $t = Sentinai::Test->new(settings => 'max_wal_size = 16GB; checkpoint_timeout = 1h; sentinai.maintenance_interval = 50ms; sentinai.report_workers = 1');
my $session = $t->session;

# ---------------------------------------------------------------- what reports are made of

# Four events each: it came, somebody looked at it, a playbook was chosen, and most are resolved an hour later
sub fill_exceptions
{
	my ($tenant, $n) = @_;

	$t->sql(<<"SQL");
SET search_path = sentinai, public;
SELECT tenant_add('$tenant'), rate_limit_set('$tenant', 'report_generations', 1000000);
INSERT INTO exceptions (tenant_id, exception_id, domain, type, severity, status, source_system, entity, amount, sla_deadline, created_at,
		resolved_at, updated_at, recorded_at)
SELECT '$tenant', 'EXC_' || lpad(n::text, 9, '0'), 'finance', 'price_mismatch', (ARRAY['low', 'medium', 'high', 'critical'])[1 + n % 4],
	   CASE n % 5 WHEN 0 THEN 'analyzing' ELSE 'resolved' END, 'trading', 'INV-' || n, n % 1000, at + interval '4 hours', at,
	   CASE WHEN n % 5 > 0 THEN at + interval '1 hour' * (n % 6) END, at, at
  FROM generate_series(1, $n) n CROSS JOIN LATERAL (SELECT timestamptz '2025-01-01 00:00Z' + n * (interval '85 days' / $n) AS at) came
 ORDER BY n;
INSERT INTO exception_event (tenant_id, exception_id, event_id, event_type, actor_type, actor_id, payload, created_at, recorded_at)
SELECT x.tenant_id, x.exception_id, e.id || substr(x.exception_id, 5), e.type, e.actor_type, e.actor_id,
	   CASE e.id WHEN 'a' THEN jsonb_build_object('domain', x.domain, 'type', x.type, 'severity', x.severity, 'amount', x.amount)
				 WHEN 'b' THEN '{"changed": {"status": ["open", "analyzing"]}}'
				 WHEN 'c' THEN '{"playbook_id": "PB_REFUND", "decision": "refund", "policy_id": "POL_7", "reason": "amount below the limit, \\"auto\\""}'
				 ELSE jsonb_build_object('changed', jsonb_build_object('status', jsonb_build_array('analyzing', x.status),
																	   'resolved_at', jsonb_build_array(NULL, x.resolved_at))) END,
	   x.created_at + e.after, x.created_at + e.after
  FROM exceptions x
 CROSS JOIN (VALUES ('a', 'ExceptionIngested', 'agent', 'intake', interval '0'), ('b', 'ExceptionChanged', 'agent', 'triage', interval '1 s'),
					('c', 'PlaybookMatched', 'agent', 'policy', interval '2 s'), ('d', 'ExceptionChanged', 'user', 'ann\@example.com', interval '1 hour'))
			 e (id, type, actor_type, actor_id, after)
 WHERE x.tenant_id = '$tenant' ORDER BY x.exception_id, e.id;
SQL
	return;
}

sub fill_others
{
	$t->sql(<<"SQL");
SET search_path = sentinai, public;
INSERT INTO tool_execution (tenant_id, id, tool_id, exception_id, status, requested_by_actor_type, requested_by_actor_id, input_payload, output_payload,
		created_at, recorded_at)
SELECT tenant_id, gen_random_uuid(), 'bank', exception_id, 'succeeded', 'agent', 'playbook',
	   '{"account": "12345", "api_key": "k1", "lines": [{"sum": 12.5, "note": "password=x"}]}', '{"ok": true, "balance": 1234.56}', created_at, created_at
  FROM exceptions WHERE tenant_id = 'TENTH';
INSERT INTO config_change_request (tenant_id, id, change_type, resource_id, proposed_config, requested_by, created_at, recorded_at)
SELECT tenant_id, exception_id, 'tool', 'bank', '{"url": "https://bank.example.com", "token": "t1", "retries": 3}', 'ann', created_at, created_at
  FROM exceptions WHERE tenant_id = 'TENTH';
SQL
	return;
}

sub prepare
{
	fill_exceptions($_, $exceptions{$_}) for sort keys %exceptions;
	fill_others();
	$t->sql('VACUUM ANALYZE sentinai.exceptions, sentinai.exception_event, sentinai.tool_execution, sentinai.config_change_request; CHECKPOINT');
	return;
}

# ---------------------------------------------------------------- a report, and COPY

# { cpu: seconds of all its CPU time so far, kib: its private memory }; nothing where it has ended
sub process_now
{
	my ($pid) = @_;
	my $slurp = sub { open my $file, '<', "/proc/$pid/$_[0]" or return ''; local $/ = undef; return <$file> // '' };
	my ($cpu) = split ' ', $slurp->('schedstat') || return;
	my ($kib) = $slurp->('status') =~ /^RssAnon:\s*(\d+)/m or return;

	return { cpu => $cpu / 1e9, kib => $kib };
}

sub request
{
	my ($tenant, $type, $format) = @_;
	my $id = $session->sql("SELECT id FROM sentinai.report_request('$tenant', '$type', 'Bench', '$format', '$period')");

	die "report_request: $id" if $id !~ /^[0-9a-f-]{36}$/;
	return $id;
}

# Makes one; looks at its worker all the time. { seconds, cpu, kib, rows, bytes, status, error }
sub make_report
{
	my $id = request(@_);
	my %seen = (cpu => 0, kib => 0);
	my $pid;

	while (1)
	{
		$pid ||= $session->sql("SELECT w.pid FROM sentinai.report_workers() w JOIN sentinai.audit_report r USING (seq) WHERE r.id = '$id'");
		for (1 .. $pid ? 10 : 1)
		{
			my $now = $pid ? process_now($pid) : undef;
			$seen{$_} = max($seen{$_}, $now->{$_}) for $now ? qw(cpu kib) : ();
			sleep 0.005;
		}
		my @report = split /\|/, $session->sql("SELECT status, extract(epoch FROM completed_at - started_at), row_count, file_size_bytes, error_message"
			. " FROM sentinai.audit_report WHERE id = '$id' AND status NOT IN ('pending', 'generating')");
		next if !@report;
		$t->wait_for_sql('SELECT count(*) FROM sentinai.report_workers()', 0);    # each begins with a process of its own
		@seen{qw(status seconds rows bytes error)} = @report;
		$seen{id} = $id;
		return \%seen;
	}
}

sub completed
{
	my $report = make_report(@_);

	die "@_: $report->{error}" if $report->{status} ne 'completed';
	return $report;
}

# The query of a type with its arguments, and of its columns those that a report shows
sub query_of
{
	my ($tenant, $type) = @_;
	my ($keys, $columns, $query) = split /\|/, $t->sql("SELECT key_columns, array_to_string(sentinai.report_query_columns(query, key_columns), ','),"
		. " query FROM sentinai.report_type WHERE report_type = '$type'"), 3;
	my $parameters = $type eq 'sla_compliance' ? '{"period": "month", "threshold_percent": 80}' : '{}';
	my @argument = (undef, "'$tenant'::text", q{'2025-01-01Z'::timestamptz}, q{'2025-04-01Z'::timestamptz}, "'$parameters'::jsonb", 'now()',
		'(NULL::text[])', 'NULL::bigint');

	$query =~ s/\$(\d)/$argument[$1]/g;
	return "SELECT $columns FROM ($query) q (" . join(', ', (map { "key_$_" } 1 .. $keys), $columns) . ')';
}

# COPY into a file beside the data. { seconds, cpu }
sub copy
{
	my ($query, $format) = @_;
	my $backend = $t->session;
	my $pid = $backend->sql('SELECT pg_backend_pid()');

	# in one process, as a report is, and without the seconds that JIT takes
	$backend->sql('SET max_parallel_workers_per_gather = 0');
	$backend->sql('SET jit = off');
	my ($cpu, $time) = (process_now($pid)->{cpu}, time);
	my $said = $backend->sql("COPY ($query) TO '$t->{cluster_dir}/copied' (FORMAT $format)");
	my %took = (seconds => time - $time, cpu => process_now($pid)->{cpu} - $cpu);
	die $said if $said =~ /ERROR/;
	$backend->close;
	unlink "$t->{cluster_dir}/copied";
	return \%took;
}

# ---------------------------------------------------------------- the parts

sub checkpoint { return $t->sql('CHECKPOINT') }

# A report of each format, and the COPY that it is compared with; JSON also with COPY of row_to_json
sub compare
{
	my ($tenant, $type, $goal, @formats) = @_;
	my $query = query_of($tenant, $type);
	my $copy;

	checkpoint();
	for my $format (@formats)
	{
		$copy = copy($query, 'csv');
		my $report = completed($tenant, $type, $format);
		my $ratio = $copy->{seconds} / $report->{seconds};
		note_figure("$type, $format", 'rows/s', $report->{rows} / $report->{seconds});
		note_figure("    ratio to COPY as CSV ($type, $format)", '', $ratio, $goal);
		note_figure("    ratio of CPU ($type, $format)", '', $copy->{cpu} / $report->{cpu}, $goal);
		next if $type ne 'exception_activity';
		note_figure("    its size ($format)", 'MB', $report->{bytes} / 1e6);
		next if $format ne 'json';
		my $copy_json = copy("SELECT row_to_json(r) FROM ($query) r", 'text');
		note_figure('    ratio to COPY of row_to_json', '', $copy_json->{seconds} / $report->{seconds});
	}
	return;
}

sub memory
{
	for my $format (qw(csv json jsonl))
	{
		my $small = completed('SMALL', 'exception_activity', $format);
		my $large = completed('ALL', 'exception_activity', $format);
		note_figure("memory of the worker, $format: 10,000 rows", 'MiB', $small->{kib} / 1024);
		note_figure("memory of the worker, $format: @{[ 4 * $rows ]} rows", 'MiB', $large->{kib} / 1024);
		note_figure("    growth ($format)", 'MiB', ($large->{kib} - $small->{kib}) / 1024, '<= 32');
	}
	return;
}

sub pdf
{
	my $report = completed('SMALL', 'exception_activity', 'pdf');
	my $file = "$t->{dir}/report.pdf";

	open my $out, '>:raw', $file or die "$file: $!";
	print {$out} pack 'H*', $t->sql("SELECT encode(content, 'hex') FROM sentinai.report_download('$report->{id}')");
	close $out or die "$file: $!";
	my ($pages) = Sentinai::Test::run('pdfinfo', $file) =~ /^Pages:\s*(\d+)/m;
	note_figure('pdf: 10,000 rows', 's', $report->{seconds}, '<= 20');
	note_figure('    its pages', '', $pages, '>= 200');
	note_figure('    its size', 'MB', $report->{bytes} / 1e6);
	return if 4 * $rows <= $t->sql('SHOW sentinai.report_pdf_max_rows');
	my ($asked, $large) = (time, make_report('ALL', 'exception_activity', 'pdf'));
	die "a PDF of all: $large->{status}" if $large->{status} ne 'failed' || $large->{error} !~ /at most/;
	note_figure("pdf: @{[ 4 * $rows ]} rows refused after", 's', time - $asked);
	return;
}

# ---------------------------------------------------------------- live traffic

sub prepare_traffic
{
	$t->sql(<<"SQL");
SET search_path = sentinai, public;
SELECT tenant_add('LIVE'), event_type_add('LiveArrived'), worker_type_add('live', 'live');
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
CREATE FUNCTION app.nothing(e sentinai.event[]) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
SELECT handler_add('live', 'LiveArrived', 'app.nothing');
CREATE SEQUENCE app.serial;
-- Batches of 500 in a transaction each, for so long; how many events that were.
CREATE PROCEDURE app.traffic(partition_number integer, seconds float, INOUT events bigint DEFAULT 0) LANGUAGE plpgsql AS \$\$
DECLARE
	began	timestamptz := clock_timestamp();
	held	record;
	serial	bigint;
	records	sentinai.record[];
BEGIN
	SELECT a.epoch, a.next_offset INTO held FROM sentinai.assign('live', 'live', 'live', partition_number) a;
	COMMIT;
	WHILE clock_timestamp() < began + seconds * interval '1 s' LOOP
		serial := nextval('app.serial');
		SELECT array_agg(ROW('live', partition_number, coalesce(held.next_offset, 0) + events + i, held.epoch, now(), 'k', NULL, convert_to(format(
			'{"event_id": "e%s-%s", "event_type": "LiveArrived", "tenant_id": "LIVE", "exception_id": "x%s-%s", "timestamp": "2025-01-15T00:00:00Z", '
			'"payload": {"severity": "low", "amount": 1200.50, "note": "%s"}}', serial, i, serial, i, repeat('x', 200)), 'UTF8'))::sentinai.record ORDER BY i)
		  INTO records FROM generate_series(1, 500) i;
		PERFORM sentinai.consume('live', 'live', records);
		events := events + 500;
		COMMIT;
	END LOOP;
END \$\$;
-- One report is made and one waits, for so long.
CREATE PROCEDURE app.keep_asking(seconds float) LANGUAGE plpgsql AS \$\$
DECLARE
	began	timestamptz := clock_timestamp();
BEGIN
	WHILE clock_timestamp() < began + seconds * interval '1 s' LOOP
		PERFORM sentinai.report_request('ALL', 'exception_activity', 'Bench', 'csv', '$period')
		  WHERE NOT EXISTS (SELECT FROM sentinai.audit_report WHERE status = 'pending');
		COMMIT;
		PERFORM pg_sleep(0.05);
	END LOOP;
END \$\$;
SQL
	return;
}

# Events a second of so many sessions at once
sub events_per_second
{
	my ($sessions) = @_;
	my @sessions = map { $t->session } 1 .. $sessions;

	$sessions[$_]->send("CALL app.traffic($_, $seconds)") for 0 .. $#sessions;
	my @events = map { $_->answer } @sessions;
	/^\d+$/ or die "traffic: $_" for @events;
	$_->close for @sessions;
	return List::Util::sum(@events) / $seconds;
}

# Meanwhile reports are made, one after the other
sub beside_reports
{
	my ($sessions) = @_;
	my $asking = $t->session;

	$asking->send("CALL app.keep_asking($seconds + 1)");
	$t->wait_for_sql(q{SELECT count(*) FROM sentinai.audit_report WHERE status = 'generating'}, 1);
	my $rate = events_per_second($sessions);
	my $said = $asking->answer;
	die $said if $said =~ /ERROR/;
	$asking->close;
	$t->sql_status("SELECT sentinai.report_cancel('$_->[0]')") for $t->rows(q{SELECT id FROM sentinai.audit_report WHERE status IN ('pending', 'generating') ORDER BY seq DESC});
	$t->wait_for_sql('SELECT count(*) FROM sentinai.report_workers()', 0);
	return $rate;
}

sub traffic
{
	my $cores = () = Sentinai::Test::slurp('/proc/cpuinfo') =~ /^processor/mg;

	for my $sessions (1, $cores)
	{
		my $alone = events_per_second($sessions);
		my $beside = beside_reports($sessions);
		my $of = $sessions == 1 ? '1 session' : "$sessions sessions, as many as cores";
		note_figure("traffic: $of, alone", 'events/s', $alone);
		note_figure("traffic: $of, while reports are made", 'events/s', $beside);
		# of all cores, one less
		note_figure("    ratio ($of)", '', $beside / $alone, '>= ' . ($sessions == 1 ? 0.8 : 1 - 1 / $cores));
	}
	return;
}

# ---------------------------------------------------------------- the run

prepare();
prepare_traffic() if $part{traffic};
for my $round (1 .. $rounds)
{
	compare('ALL', 'exception_activity', '>= 0.7', qw(csv json jsonl)) if $part{speed};
	$part{types} and compare('TENTH', $_, undef, qw(csv json)) for qw(policy_decisions tool_execution config_changes sla_compliance);
	pdf() if $part{pdf};
	traffic() if $part{traffic};
	$t->sql('DELETE FROM sentinai.report_chunk; VACUUM sentinai.report_chunk');
}
memory() if $part{memory};
report($t, $ENV{BENCH_NAME} // 'reports', "$rounds rounds; $rows exceptions with 4 events each, a report has " . 4 * $rows . ' rows', rounds => $rounds, rows => $rows);
pass('the figures are above');
done_testing();
