# A worker whose login is a member of sentinai_worker and nothing else does all of its work: it is configured, takes
# partitions, hands records over, publishes what is emitted, and says how it is.
use lib 'test/perl';
use Sentinai::Test;

my $t = Sentinai::Test->new(kafka => 1);
$t->topic(exceptions => 3);
$t->sql(q{CREATE ROLE regress_login LOGIN PASSWORD 'secret' IN ROLE sentinai_worker; SELECT sentinai.tenant_add('TENANT_001')});

# Written as the runbook writes it.
my $url = $t->url =~ s{^postgresql://postgres:[^@]*@}{postgresql+asyncpg://regress_login:secret@}r;
my $w = $t->worker(
	WORKER_TYPE => 'intake', CONCURRENCY => 2, GROUP_ID => 'intake-workers', DATABASE_URL => $url, ALLOW_FUTURE_SCHEMA => 'true');

$t->produce(exceptions => map { {
	key => "TENANT_001:EXC_$_",
	value => qq({"event_id": "EVT_$_", "event_type": "ExceptionIngested", "tenant_id": "TENANT_001", "exception_id": "EXC_$_", )
	  . qq("version": 2, "payload": {"severity": "high"}}),
} } 1 .. 20);
my $id = $t->sql(q{SELECT sentinai.event_publish('exceptions',
	'{"event_type": "ExceptionIngested", "tenant_id": "TENANT_001", "exception_id": "EXC_OURS", "payload": {}}')});

$t->wait_for_sql('SELECT count(*) FROM sentinai.exceptions', '21');
$t->wait_for_sql(q{SELECT status FROM sentinai.worker_list()}, 'healthy');
is($t->sql('SELECT count(*), count(DISTINCT event_id) FROM sentinai.event_log'), '42|42',
	'what came and what was emitted is logged, once');
is($t->sql('SELECT count(*) FROM sentinai.dead_letter_queue'), '0', 'no dead letters');
$t->wait_for('all that was emitted to be in Kafka', sub { 21 == grep { $_->{value} =~ /ExceptionNormalized/ } $t->records('exceptions') });
is_deeply([ map { $_->{key} } grep { $_->{value} =~ /"event_id": "\Q$id\E"/ } $t->records('exceptions') ], ['TENANT_001:EXC_OURS'],
	'what was published by hand went out under its id and key');
is($t->sql(qq{SELECT string_agg(what || coalesce(' ' || status, ''), ', ' ORDER BY at, what)
	FROM sentinai.event_trace('TENANT_001', 'EXC_OURS') WHERE event_id = '$id'}), 'arrived, handled succeeded', 'its trace');
unlike($w->log, qr/permission denied/, 'nothing was refused');
unlike($w->log, qr/secret/, 'the password is not in the log');
is($w->stop, 0, 'it ends in order');

done_testing();
