# Reports on a schedule: the job of docs/reports.md, word for word, run by Debian's pg_cron.
use Sentinai::Test;

my $t = Sentinai::Test->new(settings => q{shared_preload_libraries = 'pg_cron, sentinai'; cron.database_name = 'sentinai';}
	  . q{ cron.use_background_workers = on; max_worker_processes = 16; sentinai.maintenance_interval = 50ms});

# First and last day of the month before the one that a time is in
sub month_before
{
	my (undef, undef, undef, undef, $month, $year) = gmtime shift;
	my @first = $month == 0 ? ($year + 1899, 12) : ($year + 1900, $month);
	my @days = (31, $first[0] % 4 || !($first[0] % 100) && $first[0] % 400 ? 28 : 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31);

	return map { sprintf '%04d-%02d-%02d', @first, $_ } 1, $days[ $first[1] - 1 ];
}

my ($from) = month_before(time);
$t->sql(<<"SQL");
CREATE EXTENSION pg_cron;
SELECT sentinai.tenant_add('TENANT_001'), sentinai.tenant_add('TENANT_002');
INSERT INTO sentinai.exceptions (tenant_id, exception_id, severity, status, created_at, sla_deadline, resolved_at) VALUES
	('TENANT_001', 'IN_TIME', 'high', 'resolved', '$from 00:00Z', '$from 02:00Z', '$from 01:00Z'),
	('TENANT_001', 'TOO_LATE', 'low', 'resolved', '$from 00:00Z', '$from 02:00Z', '$from 03:00Z'),
	('TENANT_001', 'BEFORE', 'low', 'resolved', timestamptz '$from 00:00Z' - interval '1 us', '$from 02:00Z', '$from 01:00Z');
CREATE ROLE regress_auditor LOGIN IN ROLE sentinai_operator;
GRANT USAGE ON SCHEMA cron TO regress_auditor;
SELECT sentinai.tenant_role_add('regress_auditor', 'TENANT_001');
SQL

# The page's own blocks
my ($one, $each) = Sentinai::Test::slurp('docs/reports.md') =~ /^```sql no-run\n(SELECT cron\.schedule.*?)^```/msg;
$t->sql("SET ROLE regress_auditor; $one");
is_deeply([ $t->rows('SELECT jobname, schedule, username, active FROM cron.job') ], [ [ 'monthly SLA report', '0 6 1 * *', 'regress_auditor', 't' ] ],
	'the job stands there for the 1st of each month, at six, as the role that made it');

# What runs on the 1st is run at the next full minute.
my $began = time;
$t->sql(q{SELECT cron.alter_job(jobid, schedule => '* * * * *') FROM cron.job});
$t->wait_for_sql(q{SELECT count(*) > 0 FROM sentinai.report_list('TENANT_001')}, 't', name => 'pg_cron asks for the report by itself');
$t->sql(q{SELECT cron.unschedule(jobid) FROM cron.job});
$t->wait_for_sql(q{SELECT DISTINCT status FROM sentinai.report_list('TENANT_001')}, 'completed', name => 'it is made');
my ($report) = $t->rows(q{SELECT id, title, report_type, format, requested_by, parameters->>'from_date', parameters->>'to_date'
	FROM sentinai.report_list('TENANT_001') ORDER BY created_at LIMIT 1});
my $id = shift @$report;
my @expected = map { [ 'Monthly SLA report', 'sla_compliance', 'pdf', 'pg_cron', month_before($_) ] } $began, time;
ok(scalar(grep { eq_array($report, $_) } @expected), 'of the month before, in UTC') or diag(explain($report, \@expected));
is($t->sql("SELECT requested_role FROM sentinai.audit_report WHERE id = '$id'"), 'regress_auditor', 'with the rights of the role that scheduled it');
$t->wait_for_sql(q{SELECT DISTINCT status, return_message FROM cron.job_run_details WHERE status = 'succeeded'}, 'succeeded|SELECT 1',
	name => 'pg_cron has noted that it went well');

my $file = $t->dir . '/report.pdf';
open my $handle, '>:raw', $file or die $!;
print {$handle} pack 'H*', $t->sql("SELECT encode(content, 'hex') FROM sentinai.report_download('$id')");
close $handle;
my $text = Sentinai::Test::run('pdftotext', '-layout', $file, '-');
like($text, qr/Monthly SLA report.*TENANT_001.*50\.00 %\s+Exceptions with.*Compliance\n/s, 'the PDF says how the month was');
like($text, qr/TOO_LATE/, 'and which exception was late');
unlike($text, qr/BEFORE/, 'of that month alone');

# ---------------------------------------------------------------- a job for each tenant; the dates

$t->sql(q{SELECT sentinai.tenant_suspend('TENANT_002')});
$t->sql("SET search_path = sentinai, public; $each");
is_deeply([ map { $_->[0] } $t->rows('SELECT jobname FROM cron.job') ], ['monthly SLA report of TENANT_001'], 'a job for each active tenant');
is($t->sql('SELECT command FROM cron.job') =~ s/TENANT_001/TENANT_001/r, ($one =~ /\$\$(.*)\$\$/s)[0], 'with the same command');

for my $case (
	[ '2024-03-01 06:00Z', day => '2024-02-29', '2024-02-29' ],
	[ '2024-03-01 06:00Z', month => '2024-02-01', '2024-02-29' ],
	[ '2025-01-01 00:00Z', month => '2024-12-01', '2024-12-31' ],
	[ '2024-12-31 23:59:59.999999Z', month => '2024-11-01', '2024-11-30' ],
	[ '2025-01-01 06:00Z', week => '2024-12-23', '2024-12-29' ],
	[ '2025-01-01 06:00Z', quarter => '2024-10-01', '2024-12-31' ],
	[ '2025-01-01 06:00Z', year => '2024-01-01', '2024-12-31' ],
	[ '2025-01-01 01:00+02', year => '2023-01-01', '2023-12-31' ])
{
	my ($clock, $unit, @dates) = @$case;
	is($t->sql("SET timezone = 'Pacific/Kiritimati'; SET sentinai.test_clock = '$clock'; SELECT p->>'from_date', p->>'to_date' FROM sentinai.report_last('$unit') p"),
		join('|', @dates), "at $clock the last $unit is from $dates[0] to $dates[1]");
}
is(($t->sql_error(qq{SELECT sentinai.report_last($_)}))[0], 'SN001', "there is no last $_") for q{'decade'}, 'NULL', q{''};

done_testing();
