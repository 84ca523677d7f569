# Rate limits across processes: exact with a hundred clients, seen to change at once, kept over a clean restart, and after a crash
# short of what was granted since the last flush, at most.
use Sentinai::Test;
use List::Util qw(max);
use Time::HiRes qw(sleep time);

my $t = Sentinai::Test->new(settings => 'max_connections = 130; sentinai.rate_limit_slots = 1000');

# A moment that stands still, far from the end of any window: counts are the same however long a test takes
$t->sql(<<'SQL');
ALTER DATABASE sentinai SET sentinai.test_clock = '2026-03-10 10:20:10+00';
ALTER DATABASE sentinai SET search_path = sentinai, public;
\c
SELECT tenant_add('T' || n) FROM generate_series(1, 10) n;
SELECT rate_limit_type_set('plenty', 100000000, 3600);
SELECT rate_limit_type_set('tight', 1234, 3600);
SQL

sub current { my ($tenant, $type) = @_; return $t->sql("SELECT current FROM rate_limit_peek('$tenant', '$type')") }

# ---------------------------------------------------------------- a hundred clients, one limit

# What so many sessions that begin at the same moment are granted: each runs the statement so often, and its lines "t" count.
sub granted_to
{
	my ($clients, $times, $statement) = @_;
	my $gate = $t->session;
	my @session = map { $t->session } 1 .. $clients;
	my $granted = 0;

	$gate->sql('SELECT pg_advisory_lock(160)');
	$_->send("SELECT 'ready' FROM pg_advisory_lock_shared(160);\n" . "$statement\n" x $times) for @session;
	$t->wait_for_sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 160 AND NOT granted}, $clients);
	$gate->sql('SELECT pg_advisory_unlock(160)');
	for my $session (@session)
	{
		my $answer = $session->answer;
		die "a session failed: $answer" if $answer =~ /ERROR/;
		$granted += () = $answer =~ /^t$/mg;
		$session->close;
	}
	$gate->close;
	return $granted;
}

my %way = (
	'a statement each' => [ T1 => q{SELECT allowed FROM rate_limit_check('T1', 'tight');} ],
	'the answer alone' => [ T10 => q{SELECT rate_limit_allowed('T10', 'tight');} ],
	'rolled back' => [ T2 => q{BEGIN; SELECT allowed FROM rate_limit_check('T2', 'tight'); ROLLBACK;} ],
	'READ ONLY' => [ T3 => q{BEGIN READ ONLY; SELECT allowed FROM rate_limit_check('T3', 'tight'); COMMIT;} ],
	'to a savepoint' => [ T4 => q{BEGIN; SAVEPOINT s; SELECT allowed FROM rate_limit_check('T4', 'tight'); ROLLBACK TO s; COMMIT;} ],
	'REPEATABLE READ' => [ T5 => q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT allowed FROM rate_limit_check('T5', 'tight'); COMMIT;} ],
);
for my $how (sort keys %way)
{
	my ($tenant, $statement) = @{ $way{$how} };

	is(granted_to(100, 20, $statement), 1234, "100 clients, $how: as many of 2000 are granted as the limit says");
	is(current($tenant, 'tight'), 2000, "100 clients, $how: each call was counted");
}
is(granted_to(100, 10, q{SELECT allowed FROM rate_limit_check('T6', 'tight', 7);}), int(1234 / 7), '100 clients, 7 units a call');
is(granted_to(100, 20, q{SELECT allowed FROM rate_limit_check_all('T7', '{plenty,tight}');}), 1234, '100 clients, two limits at once');
is(current('T7', 'plenty'), 1234, 'what one limit refused was not charged to the other');
is(
	granted_to(100, 2, q{SELECT allowed FROM rate_limit_check_batch(array_fill('T8'::text, '{10}'), 'tight');}),
	1234, '100 clients, batches of 10');

# ---------------------------------------------------------------- changes, in a session that stays open

my $open = $t->session;
my $ask = q{SELECT allowed, "limit", remaining FROM rate_limit_check('T9', 'api_requests')};

is($open->sql($ask), 't|1000|999', 'a session has asked');
$t->sql(q{SELECT rate_limit_set('T9', 'api_requests', 2)});
is($open->sql($ask), 't|2|0', 'a lower limit counts at once, inside the running window');
is($open->sql($ask), 'f|2|0', 'and refuses');
$t->sql(q{SELECT rate_limit_set('T9', 'api_requests', 5)});
is($open->sql($ask), 't|5|2', 'a raise counts at once');
$t->sql(q{SELECT rate_limit_set('T9', 'api_requests', 5, enabled => false)});
is($open->sql($ask), 't|5|5', 'disabled');
$t->sql(q{SELECT rate_limit_set('T9', 'api_requests', 5)});
is($open->sql($ask), 't|5|4', 'enabled again it begins at zero');
$t->sql(q{UPDATE rate_limit_config SET limit_value = 50 WHERE tenant_id = 'T9'});
is($open->sql($ask), 't|50|48', 'a change by hand');
$t->sql(q{SELECT rate_limit_reset('T9', 'api_requests', 'for the test')});
is($open->sql($ask), 't|50|49', 'a reset');
my $other = $t->session;
$other->sql(q{BEGIN; SELECT rate_limit_set('T9', 'api_requests', 3)});
is($open->sql($ask), 't|50|48', 'a change that is not committed is nobody else\'s');
is($other->sql($ask), 't|3|0', 'its own transaction goes by it');
$other->sql('COMMIT');
is($open->sql($ask), 'f|3|0', 'from its commit on all do, and the call inside was counted');
$t->sql(q{SELECT rate_limit_delete('T9', 'api_requests')});
is($open->sql($ask), 't|1000|996', 'deleted: the default again');
$t->sql(q{SELECT rate_limit_type_set('api_requests', 7)});
is($open->sql($ask), 't|7|2', 'another default');
$t->sql(q{SELECT tenant_archive('T9')});
like($open->sql($ask), qr/tenant "T9" is archived/, 'an archived tenant has no limits');
$t->sql(q{SELECT tenant_resume('T9')});
like($open->sql($ask), qr/^t\|7/, 'until it is taken back');
$_->close for $open, $other;

# ---------------------------------------------------------------- restarts

sub counts
{
	return join "\n", map { join ' ', @$_ } $t->rows(
		q{SELECT t.tenant_id, u.limit_type, u.granted, u.refused, u.reset_at FROM tenant t, rate_limit_usage(t.tenant_id) u ORDER BY 1, 2});
}

# The load: two clients that ask for one unit after the other, 500 times a second together, until their connections break.
# Returns when each was granted.
sub load_until
{
	my ($tenant, $break) = @_;
	my $log = "$t->{dir}/granted";
	my $script = "$t->{dir}/ask.pgbench";

	unlink glob "$log.*";
	open my $out, '>', $script or die "$script: $!";
	print {$out} "SELECT 1 / allowed::int FROM sentinai.rate_limit_check('$tenant', 'plenty');\n";
	close $out or die "$script: $!";
	my $pid = fork() // die "fork: $!";
	if (!$pid)
	{
		open STDOUT, '>', "$t->{dir}/pgbench.out" or POSIX::_exit(126);
		open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
		exec "$t->{bin}/pgbench", '-n', '-c', 2, '-R', 500, '-T', 600, '-l', "--log-prefix=$log", '-f', $script, '-h', $t->{socket},
		  '-p', $t->{port}, '-U', 'postgres', 'sentinai' or POSIX::_exit(127);
	}
	$break->();
	waitpid $pid, 0;
	return map { my @field = split; $field[4] + $field[5] / 1e6 } map { split /\n/, Sentinai::Test::slurp($_) } glob "$log.*";
}

my $before = counts();
cmp_ok($before =~ tr/\n//, '>', 30, 'there are counts to lose');
$t->cluster('restart');
is(counts(), $before, 'a clean restart keeps every count');
$t->cluster('restart');
is(counts(), $before, 'another one too');

my @granted = load_until('T1', sub {
	$t->wait_for('the load', sub { current('T1', 'plenty') > 500 });
	$t->cluster('stop');
});
$t->cluster('start');
cmp_ok(current('T1', 'plenty'), '>=', scalar @granted, 'stopped under load: nothing that was granted is lost');
cmp_ok(current('T1', 'plenty'), '<=', @granted + 2, 'stopped under load: and nothing is counted twice');

# When the counts of a tenant were written last
sub flushed_at
{
	my ($tenant) = @_;
	return $t->sql(
		"SELECT extract(epoch FROM max(updated_at)) FROM sentinai.rate_limit_usage WHERE tenant_id = '$tenant' AND limit_type = 'plenty'");
}

# Waits for some flushes, then lets it crash. Returns when the last flush was that had surely ended, and the longest way from one
# flush to the next.
sub crash_after_flushes
{
	my ($tenant, $crash) = @_;
	my ($last, $longest) = (0, 0);

	for my $n (0 .. 4)
	{
		my $at;
		$t->wait_for('a flush', sub { ($at = flushed_at($tenant)) && $at > $last });
		$longest = max($longest, $at - $last) if $n > 1;
		$last = $at;
	}
	sleep rand 1;		# somewhere between two flushes
	$last = flushed_at($tenant);
	$crash->();
	return ($last, $longest);
}

sub crashes
{
	my ($how, $tenant, $crash) = @_;
	my ($flushed, $longest);
	my @granted = load_until($tenant, sub { ($flushed, $longest) = crash_after_flushes($tenant, $crash) });
	my $kept = current($tenant, 'plenty');
	my $since = grep { $_ > $flushed - $longest } @granted;

	cmp_ok(@granted - $kept, '<=', $since, "$how: what is lost was granted since the last flush");
	cmp_ok($kept, '<=', @granted + 2, "$how: nothing is counted twice");
	cmp_ok($kept, '>', 0, "$how: and most is there");
	diag(sprintf '%s: of %d granted %d are lost; %d were granted since the last flush began; the longest way to one took %.1f s',
		$how, scalar @granted, @granted - $kept, $since, $longest);
	return;
}

crashes('all processes are killed', 'T2', sub { $t->cluster('kill'); $t->cluster('start') });
crashes('the postmaster is killed', 'T3', sub {
	my ($postmaster) = split /\n/, Sentinai::Test::slurp("$t->{cluster_dir}/data/postmaster.pid");
	kill STOP => $postmaster;		# it starts no more of them
	my @children = split ' ', `ps -o pid= --ppid $postmaster`;
	kill KILL => $postmaster;
	$t->wait_for('its children to end', sub { !grep { kill 0 => $_ } @children });
	$t->cluster('start');
});
crashes('a backend is killed', 'T4', sub {
	my $started = $t->sql('SELECT pg_postmaster_start_time()');
	my $pid = $t->sql(q{SELECT min(pid) FROM pg_stat_activity WHERE application_name = 'pgbench'});
	kill KILL => $pid;
	$t->wait_for_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", 0);
	is($t->sql('SELECT pg_postmaster_start_time()'), $started, 'the postmaster is the same');
});

# ---------------------------------------------------------------- a standby, a copy, databases that come and go

my $was = current('T5', 'tight');
$t->sql('SELECT rate_limit_flush()');
my $standby = $t->copy_cluster('standby');
is($standby->sql(q{SELECT current FROM rate_limit_peek('T5', 'tight')}), $was, 'a base backup has what was flushed');
$standby->cluster('stop');
Sentinai::Test::run('touch', "$standby->{cluster_dir}/data/standby.signal");
$standby->cluster('start');
is($standby->sql('SELECT pg_is_in_recovery()'), 't', 'it is a standby');
is(
	$standby->sql(q{SELECT string_agg((rate_limit_check('T9', 'report_generations', 4)).allowed::text, ' ') FROM generate_series(1, 3)}),
	'true true false', 'a standby decides by counts of its own');
$standby->cluster('stop');

sub used { return $t->sql('SELECT used FROM rate_limit_slot_stats()') }

my $used = used();
$t->sql(q{CREATE DATABASE other; ALTER DATABASE other SET sentinai.test_clock = '2026-03-10 10:20:10+00'});
$t->sql(<<'SQL', database => 'other');
CREATE EXTENSION sentinai;
SELECT sentinai.tenant_add('T1');
SELECT sentinai.rate_limit_check('T1', 'api_requests') FROM generate_series(1, 3);
SQL
is($t->sql(q{SELECT current FROM sentinai.rate_limit_peek('T1', 'api_requests')}, database => 'other'), 3, 'another database has counts of its own');
is(used(), $used + 1, 'in a slot of its own');
$t->sql('DROP EXTENSION sentinai CASCADE; CREATE EXTENSION sentinai; ' . q{SELECT sentinai.tenant_add('T1')}, database => 'other');
is($t->sql(q{SELECT current FROM sentinai.rate_limit_peek('T1', 'api_requests')}, database => 'other'), 0, 'an extension that was made anew has none');
$t->sql(q{SELECT sentinai.rate_limit_check('T1', 'api_requests')}, database => 'other');
$t->sql('DROP DATABASE other WITH (FORCE)');
is(used(), $used, 'a database that was dropped leaves no slot behind');

# ---------------------------------------------------------------- a full table

$t->sql(<<'SQL');
INSERT INTO tenant (tenant_id) SELECT 'F' || n FROM generate_series(1, 3000) n;
SELECT rate_limit_type_set('shut', 10, 60, when_full => 'closed');
SQL
my $each = sub { my ($type) = @_; "SELECT count(*) FILTER (WHERE allowed), count(*) FROM tenant, rate_limit_check(tenant_id, '$type') WHERE tenant_id ~ '^F'" };
is($t->sql($each->('plenty')), '3000|3000', 'a full table: types that are open grant');
cmp_ok($t->sql('SELECT "full" FROM rate_limit_slot_stats()'), '>', 1000, 'a full table: it is counted');
like($t->sql($each->('shut')), qr/^0\|3000$/, 'a full table: types that are closed refuse');
is($t->sql(q{SELECT DISTINCT retry_after FROM tenant, rate_limit_check(tenant_id, 'shut') WHERE tenant_id ~ '^F'}), 1,
	'a full table: those who were refused may come back soon');
is($t->sql('SELECT used <= slots FROM rate_limit_slot_stats()'), 't', 'a full table: no more slots than there are');
like(
	$t->sql(q{SELECT p ->> 'message' FROM jsonb_array_elements(health() -> 'problems') p WHERE p ->> 'name' = 'rate_limit_full'}),
	qr/^shared memory has no room for the counts of more than 1024 pairs/, 'a full table: health() says so');
is(
	$t->sql(q{SET sentinai.test_clock = '2026-03-10 13:00:00+00'; } . $each->('shut')),
	$t->sql('SELECT slots FROM rate_limit_slot_stats()') . '|3000', 'later, when the counts are over, their slots go to others')
  or diag($t->sql('SELECT * FROM rate_limit_slot_stats()'));

done_testing();
