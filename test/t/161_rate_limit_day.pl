# Limits of a day: midnight is that of sentinai.rate_limit_time_zone, and days have 23 or 25 hours where clocks are changed. And a
# standby's counts, which are added to the primary's when it is promoted.
use Sentinai::Test;

my $t = Sentinai::Test->new(settings => "sentinai.rate_limit_time_zone = 'Europe/Berlin'");
my $n = 0;

$t->sql(q{ALTER DATABASE sentinai SET search_path = sentinai, public; ALTER DATABASE sentinai SET timezone = 'UTC'});

# A tenant that asks for 10 of 10 at a moment and is refused then until when; and what the moment before that and that one say
sub day_of
{
	my ($at) = @_;
	my $tenant = 'D' . ++$n;
	return $t->sql(<<SQL);
SELECT tenant_add('$tenant') \\gset
SET sentinai.test_clock = '$at';
SELECT (rate_limit_check('$tenant', 'report_generations', 10)).allowed AS granted \\gset
SELECT retry_after, reset_at, reset_at - interval '1 us' AS before FROM rate_limit_check('$tenant', 'report_generations') \\gset
SET sentinai.test_clock = :'before';
SELECT (rate_limit_peek('$tenant', 'report_generations')).remaining AS early \\gset
SET sentinai.test_clock = :'reset_at';
SELECT concat_ws(' ', :'granted', :'early', remaining, :'retry_after', :'reset_at') FROM rate_limit_peek('$tenant', 'report_generations', 10);
SQL
}

is(day_of('2026-01-15 12:00:00+00'), 't 0 10 39600 2026-01-15 23:00:00+00', 'winter: midnight is at 23:00 UTC');
is(day_of('2026-07-15 12:00:00+00'), 't 0 10 36000 2026-07-15 22:00:00+00', 'summer: midnight is at 22:00 UTC');
is(day_of('2026-01-15 22:59:59.999999+00'), 't 0 10 1 2026-01-15 23:00:00+00', 'the last moment of a day');
is(day_of('2026-01-15 23:00:00+00'), 't 0 10 86400 2026-01-16 23:00:00+00', 'the first moment of the next');
is(day_of('2026-03-28 23:00:00+00'), 't 0 10 82800 2026-03-29 22:00:00+00', 'the day with 23 hours');
is(day_of('2026-10-24 22:00:00+00'), 't 0 10 90000 2026-10-25 23:00:00+00', 'the day with 25 hours');
is(day_of('2026-10-25 22:30:00+00'), 't 0 10 1800 2026-10-25 23:00:00+00', 'its last hour');
is(day_of('2028-02-28 23:30:00+00'), 't 0 10 84600 2028-02-29 23:00:00+00', 'a leap day');
is(day_of('2026-12-31 12:00:00+00'), 't 0 10 39600 2026-12-31 23:00:00+00', 'the last day of a year');

# A count that was written down on the day with 25 hours is of that day, also in its last hour
$t->sql(q{SELECT tenant_add('L')});
$t->sql(q{SET sentinai.test_clock = '2026-10-24 22:00:00+00'; SELECT rate_limit_check('L', 'report_generations', 7)});
$t->wait_for_sql(q{SELECT granted FROM rate_limit_usage WHERE tenant_id = 'L'}, '7');
my $late = q{SET sentinai.test_clock = '2026-10-25 22:59:59+00'; SELECT remaining FROM rate_limit_peek('L', 'report_generations')};
is($t->sql($late), '3', 'the 25th hour is of the same day');
$t->cluster('kill');
$t->cluster('start');
is($t->sql($late), '3', 'after a crash too');

my ($state, $text) = $t->sql_error(q{ALTER SYSTEM SET sentinai.rate_limit_time_zone = 'Europe/Nowhere'});
is($state, '22023', 'a time zone that there is not is refused');

# ---------------------------------------------------------------- a standby is promoted

$t->sql(q{ALTER DATABASE sentinai SET sentinai.test_clock = '2026-05-01 10:00:00+00'});
$t->sql(q{SELECT tenant_add('S')});
$t->sql(q{SELECT rate_limit_check('S', 'tool_executions', 30)});
$t->wait_for_sql(q{SELECT granted FROM rate_limit_usage WHERE tenant_id = 'S'}, '30');
my $standby = $t->standby('standby');
is($standby->sql(q{SELECT remaining FROM rate_limit_check('S', 'tool_executions', 5)}), '95', 'a standby has counts of its own');
my $open = $standby->session;
is($open->sql(q{SELECT remaining FROM rate_limit_check('S', 'tool_executions')}), '94', 'a session of it');
$standby->sql('SELECT pg_promote()');
is($open->sql(q{SELECT remaining FROM rate_limit_check('S', 'tool_executions')}), '63', 'promoted: its counts and those it inherited are one');
is($standby->sql(q{SELECT remaining FROM rate_limit_check('S', 'tool_executions')}), '62', 'in each session');
$standby->wait_for_sql(q{SELECT granted FROM rate_limit_usage WHERE tenant_id = 'S'}, '38', name => 'and it writes them down');
$open->close;

done_testing();
