# What Kafka won't take: a record that is refused for good is passed and kept, a topic that takes nothing keeps no table of
# the outbox from its turn.
use lib 'test/perl';
use Sentinai::Test;

my $t = Sentinai::Test->new(
	kafka => 1,
	settings => 'sentinai.outbox_rotation_period = 100ms; sentinai.maintenance_interval = 50ms');

$t->topic(exceptions => 1);
$t->topic(orders => 1);
$t->topic(small => 2, 'max.message.bytes=3000');
$t->topic(compacted => 1, 'cleanup.policy=compact');
$t->sql(q{SELECT sentinai.tenant_add('T1')});

# Uncompressed, so that a large record stays one.
my $worker = $t->worker(WORKER_TYPE => 'intake', LINGER_MS => 5, KAFKA_CONF_COMPRESSION_CODEC => 'none');

# ---------------------------------------------------------------- a topic that is not there

# Rows of it in every table, others in between
my $missing = 0;
add('missing', 10);
add('orders', 10);
published('orders');
for my $turn (1 .. 4)
{
	my $current = $t->sql('SELECT current FROM sentinai.outbox_state');
	add('missing', 10);
	add('orders', 10);
	published('orders');
	$t->wait_for_sql("SELECT current <> $current FROM sentinai.outbox_state", 't', name => "the next table has its turn ($turn)");
}
cmp_ok($t->sql(q{SELECT count(*) FROM sentinai.outbox_blocked WHERE topic = 'missing'}), '>=', 20, 'what the topic needs of a table is kept');
is($t->sql(q{SELECT count(*) FROM sentinai.outbox WHERE topic = 'missing'}), '50', 'nothing of it is gone');
like($t->sql(q{SELECT message FROM sentinai.health_problems() WHERE name = 'outbox_blocked'}),
	qr/^topic missing takes no records: \d+ of them, the first emitted at \d{4}-/, 'health names the topic, since when and how many');
like($t->sql('SELECT sentinai.metrics()'), qr/^outbox_blocked\{topic="missing"\} \d+$/m, 'a metric counts them');

# A publisher that knows nothing of it reads them again.
is($worker->stop, 0, 'the worker stops');
$worker->start;

# ---------------------------------------------------------------- a record that is refused for good, meanwhile

# Among others of one batch, in both partitions
$t->sql(<<'SQL');
SELECT sentinai.outbox_add('small', g % 2, 'k', ARRAY[('h', 'v')]::sentinai.header[],
						   convert_to(rpad(g || ' ', CASE WHEN g IN (4, 5) THEN 5000 ELSE 6 END), 'UTF8'), 'T1', 'E' || g, 'Some')
  FROM generate_series(1, 10) g;
SELECT sentinai.outbox_add('small', 7, 'k', NULL, 'nowhere');
SELECT sentinai.outbox_add('no topic!', NULL, 'k', NULL, 'nowhere');
SELECT sentinai.outbox_add('compacted', NULL, NULL, NULL, 'without a key');
SELECT sentinai.outbox_add('compacted', NULL, 'k', NULL, 'with one');
SQL
add('orders', 10);
published('orders', 'small', 'no topic!', 'compacted');
is($t->sql('SELECT topic, error, count(*) FROM sentinai.outbox_failed GROUP BY 1, 2 ORDER BY 1, 2'), <<'TEXT' =~ s/\n\z//r, 'what was refused is kept');
compacted|INVALID_RECORD|1
no topic!|TOPIC_EXCEPTION|1
small|MSG_SIZE_TOO_LARGE|2
small|_UNKNOWN_PARTITION|1
TEXT
is($t->sql(q{SELECT string_agg(event_id, ' ' ORDER BY id) FROM sentinai.outbox_failed WHERE error = 'MSG_SIZE_TOO_LARGE'}), 'E4 E5',
	'the large ones, and none that was in a batch with them');
for my $partition (0, 1)
{
	my @wanted = grep { $_ % 2 == $partition && $_ != 4 && $_ != 5 } 1 .. 10;
	is_deeply([ uniq(values_of('small', $partition)) ], \@wanted, "the others arrive in order, partition $partition");
}
is_deeply([ uniq(map { $_->{value} } $t->records('compacted')) ], ['with one'], 'also behind one without the key that the topic wants');
like($t->sql(q{SELECT string_agg(message, E'\n' ORDER BY message) FROM sentinai.health_problems() WHERE name = 'outbox_failed'}),
	qr/^topic small has refused 3 records for good since .*, first record \d+: Broker: Message size too large$/m, 'health names them');
$t->wait_for('the worker to name the blocked topic', sub { ($worker->http('/health'))[1] =~ /"publish":\{"status":"failing"[^}]*topic missing: / });

# Once the topic takes it, it goes to the end.
$t->kafka('delete-topic', 'small');
$t->topic(small => 8);
$t->sql(q{SELECT sentinai.outbox_failed_retry(id) FROM sentinai.outbox_failed WHERE topic = 'small' ORDER BY id});
$t->sql(q{SELECT sentinai.outbox_failed_discard(id, 'no use') FROM sentinai.outbox_failed});
published('small');
is_deeply([ uniq(sort map { (split / /, $_->{value})[0] } $t->records('small')) ], [ 4, 5, 'nowhere' ], 'what was refused arrives when it is sent again');
my ($again) = grep { $_->{value} =~ /^4 / } $t->records('small');
is_deeply([ @{ $again->{headers} }[0, 1], $again->{key}, $again->{partition} ], [ 'h', 'v', 'k', 0 ], 'as it was');
is($t->sql(q{SELECT count(*) FROM sentinai.health_problems() WHERE name = 'outbox_failed'}), '0', 'health has no more to say');

# ---------------------------------------------------------------- a dead letter's retry that is refused

$t->sql(<<'SQL');
INSERT INTO sentinai.dead_letter_queue (event_id, tenant_id, worker_type, step, error_type, error_message, fingerprint, original_topic,
										original_partition, payload_raw)
VALUES ('E1', 'T1', 'intake', 'handle', 'x', 'x', 'x', 'small', 99, 'v');
SELECT sentinai.dlq_retry(id, 'once more') FROM sentinai.dead_letter_queue;
SQL
$t->wait_for_sql('SELECT status FROM sentinai.dead_letter_queue', 'pending', name => 'it is pending again');
is($t->sql('SELECT error_type, error_message, retry_count FROM sentinai.dead_letter_queue'),
	'publish_refused|Local: Unknown partition (_UNKNOWN_PARTITION, topic small)|1', 'with the error');

# ---------------------------------------------------------------- the topic is there

$t->topic(missing => 1);
published('missing');
is_deeply([ uniq(values_of('missing', 0)) ], [ 1 .. 50 ], 'all its rows arrive, in order');
$t->wait_for_sql('SELECT count(*) FROM sentinai.outbox_blocked', '0', name => 'and go');
is($t->sql(q{SELECT count(*) FROM sentinai.health_problems() WHERE name LIKE 'outbox%'}), '0', 'health has no more to say');
$t->wait_for('the worker to be well', sub { ($worker->http('/health'))[1] =~ /"publish":\{"status":"ok"/ });
is($worker->stop, 0, 'and ends in order');

done_testing();

# ================================================================

# Rows with one key; those of topic missing are numbered.
sub add
{
	my ($topic, $n) = @_;
	my $first = $topic eq 'missing' ? $missing + 1 : 1;

	$missing += $n if $topic eq 'missing';
	$t->sql(<<"SQL");
SELECT sentinai.outbox_add('$topic', NULL, 'k', NULL, convert_to(g::text, 'UTF8')) FROM generate_series($first, $first + $n - 1) g
SQL
	return;
}

# Until nothing of these topics waits
sub published
{
	my $topics = join ', ', map { "'$_'" } @_;

	$t->wait_for_sql(
		qq{SELECT count(*) FROM sentinai.outbox o LEFT JOIN sentinai.outbox_watermark w USING (topic)
			WHERE topic IN ($topics) AND o.id > coalesce(w.id, 0)}, '0');
	return;
}

sub values_of
{
	my ($topic, $partition) = @_;
	return map { (split / /, $_->{value})[0] } grep { $_->{partition} == $partition } $t->records($topic);
}

# Without repeats: a producer that is replaced may have sent what it was not told of.
sub uniq { my %seen; return grep { !$seen{$_}++ } @_ }
