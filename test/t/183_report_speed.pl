# What `make bench-reports` measures, in a short form: that each figure is there, and that a report reads what it is made of once.
use Sentinai::Test;
use JSON::PP ();

local %ENV = (%ENV, ROWS => 500, BENCH_ROUNDS => 1, BENCH_PARTS => 'speed memory', BENCH_NAME => 'reports-short');
my ($status, $out, $err) = Sentinai::Test::capture({}, $^X, '-I', 'test/perl', 'test/bench/reports.pl');
is($status, 0, 'the bench runs') or diag($out . $err);
my $t = Sentinai::Test->new(settings => 'sentinai.maintenance_interval = 50ms; autovacuum = off');
my $said = JSON::PP::decode_json(Sentinai::Test::slurp("$t->{build}/bench/reports-short.json"));
my %figure = map { $_->{name} => $_ } @{ $said->{figures} };

is($said->{rows}, 500, 'it says of how many exceptions it speaks');
for my $name ((map { ("exception_activity, $_", "    ratio to COPY as CSV (exception_activity, $_)", "    ratio of CPU (exception_activity, $_)", "    growth ($_)") } qw(csv json jsonl)),
	'    ratio to COPY of row_to_json')
{
	ok(defined $figure{$name} && @{ $figure{$name}{values} } == 1, "figure: $name");
	like($out, qr/^\Q$name\E +-?[\d.]+ +-?[\d.]+ +-?[\d.]+\s/m, 'it is in the table');
}
is_deeply([ map { $figure{$_}{goal} } '    ratio to COPY as CSV (exception_activity, json)', '    growth (csv)' ], [ '>= 0.7', '<= 32' ], 'with what is wanted');

# ---------------------------------------------------------------- once, however long

# The planner guesses that a chunk is all that is left.
my $n = 15_000;
$t->sql(<<"SQL");
SELECT sentinai.tenant_add('T1');
INSERT INTO sentinai.exceptions (tenant_id, exception_id, created_at, recorded_at)
SELECT 'T1', 'EXC_' || lpad(n::text, 9, '0'), at, at FROM generate_series(1, $n) n, LATERAL (SELECT timestamptz '2025-01-01 00:00Z' + n * interval '1 s' AS at) t;
INSERT INTO sentinai.exception_event (tenant_id, exception_id, event_id, event_type, actor_type, created_at, recorded_at)
SELECT tenant_id, exception_id, e, 'Seen', 'user', created_at, created_at FROM sentinai.exceptions, generate_series(1, 4) e;
ANALYZE sentinai.exceptions, sentinai.exception_event;
SQL
$t->sql('SELECT pg_stat_reset()');    # what the session before has read is counted at its end
my $id = $t->sql(q{SELECT id FROM sentinai.report_request('T1', 'exception_activity', 'All', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-31"}')});
$t->wait_for_sql("SELECT status, row_count FROM sentinai.report_status('$id')", 'completed|' . 4 * $n, name => 'a report of several chunks');
$t->wait_for_sql('SELECT count(*) FROM sentinai.report_workers()', 0);
my ($seq_scans, $fetched) = @{ ($t->rows(q{SELECT sum(seq_scan) FILTER (WHERE relname = 'exception_event'), sum(seq_tup_read + idx_tup_fetch) FILTER (WHERE relname = 'exceptions')
	FROM pg_stat_user_tables}))[0] };
cmp_ok($seq_scans, '<=', 1, 'events are read through for the count at most');
cmp_ok($fetched, '<', 2.5 * $n, 'exceptions are read to be counted, and for the report');

done_testing();
