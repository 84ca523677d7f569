# The publish pump against a real broker: what a record looks like, order per key, and that no kill of anything loses or
# reverses a row.
use lib 'test/perl';
use Sentinai::Test;
use Digest::SHA qw(hmac_sha256_hex);
use Time::HiRes qw(sleep time);

my $t = Sentinai::Test->new(kafka => 1);
my %environment = (WORKER_TYPE => 'intake', LINGER_MS => 5);
my $orders;    # topic of a section's rows; one of its own, so that a check reads no more than those
my $topics = 0;
my $serial;    # of those rows; their value
my $keys = 100;

$t->topic(exceptions => 2);
$t->topic(forms => 3);
$t->sql(q{SELECT sentinai.tenant_add('T1')});

my $secret = pack 'H*', $t->sql(q{SELECT encode(emit_secret, 'hex') FROM sentinai.worker_config('intake')});
my $worker = $t->worker(%environment, name => 'first');

# ---------------------------------------------------------------- what a record looks like

$t->sql(<<'SQL');
SELECT sentinai.event_publish('forms', '{"event_id": "E1", "event_type": "ExceptionIngested", "tenant_id": "T1",
	"exception_id": "EXC_001", "timestamp": "2025-01-15T10:00:00Z", "payload": {"a": 1}}');
SELECT sentinai.outbox_add('forms', 2, '\x00ff', ARRAY[('h', '\x0001'), ('h', NULL), ('', '')]::sentinai.header[], '\xfe00');
SELECT sentinai.outbox_add('forms', 1, NULL, NULL, NULL);
SELECT sentinai.outbox_add('forms', 1, '', NULL, '');
SELECT sentinai.outbox_add('forms', 0, 'k', ARRAY[('mine', 'x'), ('sentinai-dlq-id', '7')]::sentinai.header[], 'again',
	dlq_id => 7, dlq_token => '00000000-0000-0000-0000-000000000007');
SQL
published();

my @forms = $t->records('forms');
my ($event) = grep { ($_->{key} // '') eq 'T1:EXC_001' } @forms;
is(scalar @forms, 5, 'each row is one record');
like($event->{value}, qr/"event_id": ?"E1"/, 'an event arrives under its key');
is($event->{partition}, murmur2('T1:EXC_001') % 3, 'in the partition where a Java producer would put it');
is({ @{ $event->{headers} } }->{'sentinai-event-type'}, 'ExceptionIngested', 'its type is a header');

my ($raw) = grep { $_->{partition} == 2 && ($_->{key} // '') eq "\x00\xff" } @forms;
is($raw->{value}, "\xfe\x00", 'bytes stay bytes, in the partition that the row names');
is_deeply([ @{ $raw->{headers} }[0 .. 5] ], [ 'h', "\x00\x01", 'h', undef, '', '' ], 'headers too, in their order');

my ($null, $empty) = sort { defined $a->{value} <=> defined $b->{value} } grep { $_->{partition} == 1 && $_ != $event } @forms;
is_deeply([ $null->{key}, $null->{value} ], [ undef, undef ], 'NULL is null');
is_deeply([ $empty->{key}, $empty->{value} ], [ '', '' ], 'empty is empty');

my ($replay) = grep { ($_->{value} // '') eq 'again' } @forms;
is_deeply($replay->{headers}, [ 'mine', 'x', 'sentinai-dlq-id', '7' ], 'a replay has its own headers and no other');
is($t->sql('SELECT dlq_id, token, topic, partition, kafka_offset FROM sentinai.dlq_receipt'),
	"7|00000000-0000-0000-0000-000000000007|forms|0|$replay->{offset}", 'and a receipt');

for my $record (grep { $_ != $replay } @forms)
{
	is({ @{ $record->{headers} } }->{'sentinai-emitted'}, mark('forms', $record->{key}, $record->{value}),
		"record $record->{partition}/$record->{offset} is marked as ours");
}

# ---------------------------------------------------------------- a topic's first record

# Asking for topics with a timer would take up to the timer's second each: five trips in a row that are all quick are no luck.
my $quick = 0;
for my $n (1 .. 30)
{
	$quick = trip_to_new_topic("new$n") < 0.3 ? $quick + 1 : 0;
	last if $quick == 5;
}
is($quick, 5, 'the first record of a topic does not wait for a timer');

# ---------------------------------------------------------------- order, and clean stops

new_orders();
add_rows(5000);
published();
my %orders = check_orders('after a plain run');
is($orders{repeats}, 0, 'nothing is repeated');

new_orders();
add_rows(20_000, 20_000);
is($worker->stop, 0, 'SIGTERM with rows on their way: status 0');
$worker->start;
published();
%orders = check_orders('after a clean stop in the middle');
is($orders{repeats}, 0, 'a clean stop repeats nothing');

# ---------------------------------------------------------------- kills

interrupted('the worker by SIGKILL', sub { $worker->kill; $worker->start });
interrupted('the broker by SIGKILL', sub { $t->kafka('kill'); $t->kafka('start') });
interrupted('the database, immediate', sub { $t->cluster('immediate'); $t->cluster('start') });

# The session alone: the lock is lost with it, and taken again.
interrupted('the session of the publisher', \&end_sessions);

# Whoever publishes says so, from its first row on.
new_orders();
is(join(' ', map { end_sessions(); add_rows(1); published(); metric($worker, 'sentinai_publisher_active') } 1 .. 3), '1 1 1',
	'a publisher that is active again has that in its metric');

# ---------------------------------------------------------------- two publishers

my $second = $t->worker(%environment, name => 'second');
$second->wait_log(qr/state="standby: another process publishes"/);
new_orders();
add_rows(5000);
published();
is(metric($worker, 'sentinai_publisher_active'), 1, 'one publishes');
is(metric($second, 'sentinai_publisher_active'), 0, 'the other stands by');
interrupted('the active one of two publishers', sub { $worker->kill });
is(metric($second, 'sentinai_publisher_active'), 1, 'the other has taken over');

# ---------------------------------------------------------------- a topic that can't take its rows

$t->sql(q{SELECT sentinai.outbox_add('missing', NULL, 'k', NULL, convert_to(g::text, 'UTF8')) FROM generate_series(1, 20) g});
new_orders();
add_rows(1000);
$t->wait_for_sql(
	qq{SELECT count(*) FROM sentinai.outbox o LEFT JOIN sentinai.outbox_watermark w USING (topic)
		WHERE topic = '$orders' AND o.id > coalesce(w.id, 0)}, '0', name => 'other topics go on');
$t->wait_for('health to name the topic', sub { ($second->http('/health'))[1] =~ /"publish":\{"status":"failing"[^}]*topic missing: / });
is(($second->http('/health'))[0], 200, 'degraded is no failure');
is(metric($second, 'sentinai_outbox_blocked_topics'), 1, 'and a metric to count it');
$t->topic(missing => 1);
published();
$t->wait_for('health to be well again', sub { ($second->http('/health'))[1] =~ /"publish":\{"status":"ok"/ });
is_deeply([ map { $_->{value} } $t->records('missing') ], [ 1 .. 20 ], 'once the topic is there its rows arrive, in order');
check_orders('beside a blocked topic');

is($second->stop, 0, 'and the worker ends in order');

done_testing();

# ================================================================

sub new_orders
{
	$orders = 'orders_' . ++$topics;
	$serial = 0;
	$t->topic($orders => 6);
	return;
}

# Rows of the topic with values that go on from the last one, keys in turn, in transactions of 500 or as given.
sub add_rows
{
	my ($n, $size) = @_;
	my $first = $serial + 1;

	$size //= 500;
	$serial += $n;
	$t->sql(<<"SQL");
DO \$\$
BEGIN
	FOR i IN 0 .. ($n - 1) / $size LOOP
		PERFORM sentinai.outbox_add('$orders', NULL, convert_to('k' || g % $keys, 'UTF8'), NULL, convert_to(g::text, 'UTF8'))
		   FROM generate_series($first + i * $size, least($first + (i + 1) * $size - 1, $serial)) g;
		COMMIT;
	END LOOP;
END
\$\$;
SQL
	return;
}

# Until all of the outbox is in Kafka, as the database knows it
sub published
{
	$t->wait_for_sql(
		q{SELECT count(*) FROM sentinai.outbox o LEFT JOIN sentinai.outbox_watermark w USING (topic)
		   WHERE o.id > coalesce(w.id, 0)}, '0');
	return;
}

# Of publishers; they are gone when it returns
sub end_sessions
{
	$t->sql(q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name LIKE 'sentinai-worker % publish'});
	return;
}

# Seconds until a topic that this producer has never seen has its record
sub trip_to_new_topic
{
	my ($topic) = @_;
	my $session = $t->session;
	my $since;

	$t->topic($topic => 1);
	$since = time;
	$session->sql("SELECT sentinai.outbox_add('$topic', 0, NULL, NULL, 'first')");
	sleep 0.005 until $session->sql("SELECT count(*) FROM sentinai.outbox_watermark WHERE topic = '$topic'") || time > $since + 30;
	$session->close;
	return time - $since;
}

# Something is broken while rows are on their way, all of one transaction, and all of them arrive.
sub interrupted
{
	my ($what, $break) = @_;
	my $left = 0;

	new_orders();
	for my $turn (0 .. 3)
	{
		my $n = 10_000 * 4**$turn;
		add_rows($n, $n);
		$break->();
		$left = $t->sql(
			q{SELECT count(*) FROM sentinai.outbox o LEFT JOIN sentinai.outbox_watermark w USING (topic)
			   WHERE o.id > coalesce(w.id, 0)});
		published();
		last if $left > 0;
	}
	cmp_ok($left, '>', 0, "$what: broken in the middle");
	check_orders($what);
	return;
}

# Every value is there, and each key's values come in order but for repeats.
sub check_orders
{
	my ($when) = @_;
	my %seen;
	my %last;
	my $reversed = 0;
	my $repeats = 0;

	for my $record ($t->records($orders))
	{
		if ($seen{ $record->{value} }++)
		{
			$repeats++;
			next;
		}
		$reversed++ if $record->{value} < ($last{ $record->{key} } // 0);
		$last{ $record->{key} } = $record->{value};
	}
	is(scalar keys %seen, $serial, "$when: no row is missing");
	is($reversed, 0, "$when: no key is out of order");
	diag("$when: $repeats records repeated") if $repeats;
	return (repeats => $repeats);
}

sub metric
{
	my ($process, $name) = @_;
	my ($status, $body) = $process->http('/metrics');
	my ($value) = $body =~ /^\Q$name\E(?:\{[^}]*\})? (\S+)$/m;
	return $value;
}

sub mark
{
	my ($topic, $key, $value) = @_;
	return hmac_sha256_hex(pack('n/a*', $topic) . packed($key) . packed($value), $secret);
}

sub packed { return defined $_[0] ? pack('N/a*', $_[0]) : pack('N', 0xffffffff) }

# Kafka's hash of a key, made positive
sub murmur2
{
	my ($bytes) = @_;
	my $m = 0x5bd1e995;
	my $h = 0x9747b28c ^ length $bytes;
	my $whole = length($bytes) & ~3;

	for my $k (unpack 'V*', substr $bytes, 0, $whole)
	{
		$k = $k * $m % 2**32;
		$k ^= $k >> 24;
		$k = $k * $m % 2**32;
		$h = ($h * $m % 2**32) ^ $k;
	}
	my @rest = unpack 'C*', substr $bytes, $whole;
	if (@rest)
	{
		$h ^= $rest[$_] << (8 * $_) for 0 .. $#rest;
		$h = $h * $m % 2**32;
	}
	$h ^= $h >> 13;
	$h = $h * $m % 2**32;
	$h ^= $h >> 15;
	return $h & 0x7fffffff;
}
