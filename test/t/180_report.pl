# Reports when things go wrong: workers that are killed, ended and cancelled, a server that restarts, old transactions,
# missing worker slots, two tenants, a program that draws PDFs and crashes.
use Sentinai::Test;

my $t = Sentinai::Test->new(settings => 'sentinai.maintenance_interval = 50ms; sentinai.report_workers = 1');
my $search = 'SET search_path = sentinai, public;';
$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('TENANT_001'), tenant_add('TENANT_002');
SELECT rate_limit_set('TENANT_001', 'report_generations', 1000), rate_limit_set('TENANT_002', 'report_generations', 1000);
CREATE SCHEMA app;
CREATE TABLE app.item (tenant_id text, id integer, text text, PRIMARY KEY (tenant_id, id));
CREATE TABLE app.gate (closed boolean);
INSERT INTO app.item SELECT t, n, 'item ' || n FROM unnest(ARRAY['TENANT_001', 'TENANT_002']) t, generate_series(1, 12000) n;
-- Stops at the row, as long as the gate is closed.
CREATE FUNCTION app.gated(n integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	WHILE n = 7000 AND EXISTS (SELECT FROM app.gate) LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN n;
END $$;
SELECT report_type_add('items', 'SELECT id, CASE WHEN $7 IS NULL THEN id ELSE app.gated(id) END AS item, text FROM app.item WHERE tenant_id = $1 AND id > coalesce($6[1]::integer, 0) ORDER BY id LIMIT $7',
	key_columns => 1);
SQL

my $n = 0;

# Asks for a report and returns its id.
sub ask
{
	my (%option) = @_;
	my $tenant = $option{tenant} // 'TENANT_001';
	my $type = $option{type} // 'items';
	my $format = $option{format} // 'csv';
	$n++;
	return $t->sql(
		"SELECT id FROM sentinai.report_request('$tenant', '$type', 'Report $n', '$format', '{\"from_date\": \"2025-01-01\", \"to_date\": \"2025-01-31\"}')");
}

sub status_of
{
	my ($id, $columns) = @_;
	return "SELECT $columns FROM sentinai.report_status('$id')";
}

sub ends
{
	my ($id, $columns, $wanted, $name) = @_;
	$t->wait_for_sql("SELECT $columns FROM sentinai.report_status('$id') WHERE status NOT IN ('pending', 'generating')", $wanted, name => $name);
	return;
}

# The worker that stands at the gate with this report.
sub worker_of
{
	my ($id) = @_;
	my $pid;
	$t->wait_for("a worker of $id", sub {
		my ($status, $out) = $t->sql_status("SELECT w.pid FROM sentinai.report_workers() w JOIN sentinai.audit_report r USING (seq)"
			. " WHERE r.id = '$id' AND r.status = 'generating' AND r.rows_total = 12000");
		$pid = $out if !$status && $out =~ /^\d+$/;
		return $pid;
	});
	return $pid;
}

sub crashes { return scalar(() = Sentinai::Test::slurp("$t->{cluster_dir}/log") =~ /was terminated by signal/g) }

sub gate
{
	my ($state) = @_;
	$t->wait_for('the server', sub { !($t->sql_status($state eq 'closed' ? 'INSERT INTO app.gate VALUES (true)' : 'DELETE FROM app.gate'))[0] });
	return;
}

# ---------------------------------------------------------------- as it should be

my $good = ask();
ends($good, 'status, row_count, percent, tries', 'completed|12000|100.0|1', 'a report is made');
my $sha256 = $t->sql(status_of($good, 'sha256'));

# ---------------------------------------------------------------- killed, ended, cancelled in the middle

gate('closed');
my $killed = ask();
kill KILL => worker_of($killed);
$t->wait_for_sql(status_of($killed, 'tries'), '2', name => 'a report whose worker is killed is begun again when the server is back');
gate('open');
ends($killed, 'status, row_count, tries', 'completed|12000|2', 'and completed');
is($t->sql(status_of($killed, 'sha256')), $sha256, 'with the same bytes');
is($t->sql("SELECT count(*) FROM sentinai.report_chunk WHERE report_id = '$killed'"),
	$t->sql("SELECT count(*) FROM sentinai.report_chunk WHERE report_id = '$good'"), 'and no more of them');

gate('closed');
my $ended = ask();
$t->sql('SELECT pg_terminate_backend(' . worker_of($ended) . ')');
$t->wait_for_sql(status_of($ended, 'tries'), '2', name => 'one whose worker is ended too');
for my $try (2 .. 3)
{
	my $last = worker_of($ended);
	$t->wait_for_sql(status_of($ended, 'tries'), $try, name => "try $try");
	$t->sql("SELECT pg_terminate_backend($last)");
}
ends($ended, 'status, error_message', 'failed|its worker has ended without a word, try 3 of 3', 'after three tries it is failed');
$t->sql("SELECT sentinai.report_retry('$ended', 'once more')");

my $pid = worker_of($ended);
$t->cluster('restart');
$t->wait_for_sql(status_of($ended, 'tries'), '2', name => 'a restart of the server in the middle: it is begun again');
$t->sql('SELECT pg_cancel_backend(' . worker_of($ended) . ')');
ends($ended, 'status, error_message', 'failed|canceling statement due to user request', 'pg_cancel_backend() fails it');

my $cancelled = ask();
$pid = worker_of($cancelled);
$t->sql("SELECT sentinai.report_cancel('$cancelled', 'too late', 'ann')");
is($t->sql(status_of($cancelled, 'status, error_message')), 'failed|cancelled by ann: too late', 'report_cancel() at once');
$t->wait_for('its worker to end', sub { !kill 0 => $pid });
is($t->sql(status_of($cancelled, 'status, error_message')), 'failed|cancelled by ann: too late', 'its worker has no other opinion');
is($t->sql("SELECT count(*) FROM sentinai.report_chunk WHERE report_id = '$cancelled'"), 0, 'nothing of it is left');

$t->sql(q{ALTER SYSTEM SET sentinai.report_timeout = '300ms'});
$t->sql('SELECT pg_reload_conf()');
my $slow = ask();
ends($slow, "status, error_message LIKE 'report took longer than sentinai.report_timeout%'", 'failed|t', 'a report that takes too long fails');
$t->sql('ALTER SYSTEM RESET sentinai.report_timeout');
$t->sql('SELECT pg_reload_conf()');
gate('open');

# ---------------------------------------------------------------- an older transaction

my $old = $t->session;
$old->sql('BEGIN');
$old->sql(q{INSERT INTO app.item VALUES ('TENANT_001', 12001, 'recorded before the request')});
my $waits = ask();
like($t->sql(status_of($waits, 'waits_for')), qr/^process \d+ \(psql\), whose transaction is open since /, 'it waits for a transaction that may bring older rows');
my $reader = $t->session;
$reader->sql('BEGIN');
$reader->sql('SELECT count(*) FROM app.item');
$old->sql('COMMIT');
ends($waits, 'status, row_count', 'completed|12001', 'when that has ended its rows are in it, and one that only reads holds up nothing');
$reader->sql('COMMIT');
$_->close for $old, $reader;
$t->sql('DELETE FROM app.item WHERE id = 12001');

# ---------------------------------------------------------------- fair

gate('closed');
my @many = map { ask() } 1 .. 4;
worker_of($many[0]);
my $other = ask(tenant => 'TENANT_002');
gate('open');
ends($_, 'status', 'completed', 'done') for @many, $other;
is($t->sql("SELECT count(*) FROM sentinai.audit_report o JOIN sentinai.audit_report m ON m.started_at < o.started_at WHERE o.id = '$other'"
		. " AND m.id IN ('" . join("', '", @many) . "')"), 1, 'another tenant waits for one report only, not for all four');

# ---------------------------------------------------------------- expiry

$t->sql("UPDATE sentinai.audit_report SET download_expires_at = now() WHERE id = '$many[0]'");
$t->wait_for_sql(status_of($many[0], 'status, row_count'), 'expired|12000', name => 'when its time has come it expires');
is($t->sql("SELECT count(*) FROM sentinai.report_chunk WHERE report_id = '$many[0]'"), 0, 'and its bytes are gone');
is(($t->sql_error("SELECT * FROM sentinai.report_download('$many[0]')"))[0], 'SN072', 'a download says so');

# ---------------------------------------------------------------- PDF

sub pdf_of
{
	my ($id) = @_;
	my $file = $t->dir . "/$id.pdf";
	open my $handle, '>:raw', $file or die $!;
	print {$handle} pack 'H*', $t->sql("SELECT encode(content, 'hex') FROM sentinai.report_download('$id')");
	close $handle;
	return $file;
}

sub program
{
	my ($script) = @_;
	my $file = $t->dir . '/program';
	open my $handle, '>', $file or die $!;
	print {$handle} "#!/bin/sh\n$script\n";
	close $handle;
	chmod 0755, $file;
	$t->sql("ALTER SYSTEM SET sentinai.report_pdf_program = '$file'");
	$t->sql('SELECT pg_reload_conf()');
	return;
}

$t->sql(<<'SQL');
INSERT INTO sentinai.exceptions (tenant_id, exception_id, severity, status, sla_deadline, created_at, resolved_at) VALUES
	('TENANT_001', 'EXC_001', 'high', 'resolved', '2025-01-02', '2025-01-01', '2025-01-01 12:00'), ('TENANT_001', 'EXC_世界', 'low', 'open', '2025-01-03', '2025-01-02', NULL);
DELETE FROM app.item WHERE id > 50;
SQL
my $sla = ask(type => 'sla_compliance', format => 'pdf');
my $activity = ask(type => 'exception_activity', format => 'pdf');
my $items = ask(format => 'pdf');
ends($sla, 'status, error_message', 'completed|', 'a PDF of SLA compliance');
ends($activity, 'status, row_count', 'completed|2', 'of exceptions');
ends($items, 'status, row_count', 'completed|50', 'of a type of one\'s own');
my $text = Sentinai::Test::run('pdftotext', '-layout', pdf_of($sla), '-');
like($text, qr/Report \d+.*TENANT_001.*50\.00 %\s+Exceptions with.*Compliance\n/s, 'it says what it is about, and the rate');
like($text, qr/breach/, 'and lists the breach');
like(Sentinai::Test::run('pdftotext', '-layout', pdf_of($activity), '-'), qr/EXC_00.*EXC_\xe4\xb8\x96/s, 'exceptions are in order, in any script');

my $started = $t->sql('SELECT pg_postmaster_start_time()');
my $crashes = crashes();
program('cat >/dev/null; echo "no ink" >&2; exit 1');
my $no_ink = ask(format => 'pdf');
ends($no_ink, 'status, error_message', 'failed|the PDF could not be drawn: no ink', 'a program that fails: its message');
program('kill -SEGV $$');
my $crashed = ask(format => 'pdf');
ends($crashed, 'status, error_message', 'failed|the PDF could not be drawn: the program was ended by signal 11', 'one that crashes');
program('exec sleep 1000');
$t->sql(q{ALTER SYSTEM SET sentinai.report_timeout = '500ms'});
$t->sql('SELECT pg_reload_conf()');
my $hangs = ask(format => 'pdf');
ends($hangs, "status, error_message LIKE 'report took longer than%'", 'failed|t', 'one that hangs');
$t->sql('ALTER SYSTEM RESET sentinai.report_timeout');
$t->sql(q{ALTER SYSTEM SET sentinai.report_pdf_program = '/nowhere'});
$t->sql('SELECT pg_reload_conf()');
my $nowhere = ask(format => 'pdf');
ends($nowhere, 'status, error_message', 'failed|the PDF could not be drawn: could not be started', 'one that is not there');
$t->sql('ALTER SYSTEM RESET sentinai.report_pdf_program');
$t->sql('ALTER SYSTEM SET sentinai.report_pdf_max_rows = 49');
$t->sql('SELECT pg_reload_conf()');
my $large = ask(format => 'pdf');
ends($large, 'status, error_message', 'failed|a PDF has at most 49 rows: Ask for a shorter period, or for csv, json or jsonl.', 'too many rows');
is($t->sql('SELECT pg_postmaster_start_time()'), $started, 'the server has noticed nothing of it');
is(crashes(), $crashes, 'nor has it lost a process');

# ---------------------------------------------------------------- a database that is dropped meanwhile, and no worker slots

gate('closed');
$t->sql(q{INSERT INTO app.item SELECT 'TENANT_001', n, 'item ' || n FROM generate_series(51, 12000) n});
my $dropped = ask();
worker_of($dropped);
$t->sql('DROP DATABASE sentinai', database => 'postgres');
pass('DROP DATABASE ends the worker that makes a report in it');

$t->sql('CREATE DATABASE sentinai', database => 'postgres');
$t->sql('ALTER SYSTEM SET max_worker_processes = 3', database => 'postgres');
$t->cluster('restart');
$t->sql(<<'SQL');
CREATE EXTENSION sentinai;
SELECT sentinai.tenant_add('TENANT_001');
SELECT sentinai.report_type_add('one', 'SELECT 1 AS one', snapshot => true);
SQL
my $waiting = ask(type => 'one');
$t->wait_for_sql(q{SELECT message FROM sentinai.maintenance_status() WHERE duty = 'reports'},
	'1 reports wait for a background worker slot: raise max_worker_processes', name => 'without a free worker slot reports wait, and maintenance says so');
is($t->sql(status_of($waiting, 'status, waits_for')), 'pending|a background worker', 'the report does too');
$t->sql('ALTER SYSTEM RESET max_worker_processes');
$t->cluster('restart');
ends($waiting, 'status, row_count', 'completed|1', 'it is made when there is one');

done_testing();
