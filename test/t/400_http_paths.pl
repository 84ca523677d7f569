# The runbook's paths, through nginx and PostgREST.
use lib 'test/perl';
use Sentinai::Test;

my $t = Sentinai::Test->new;
$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('TENANT_001'), tenant_add('TENANT_002');
INSERT INTO dead_letter_queue (event_id, event_type, tenant_id, exception_id, worker_type, step, error_type, error_message,
							   fingerprint, original_topic, original_partition, original_offset, payload, payload_raw)
SELECT 'EVT_' || n, 'ExceptionIngested', CASE WHEN n > 8 THEN 'TENANT_002' ELSE 'TENANT_001' END, 'EXC_' || n, 'intake', 'handle',
	   'timeout', 'downstream timed out', 'f', 'exceptions', 0, n, '{"secret": 1}', '\x7b7d' FROM generate_series(1, 10) n;
SQL
my $h = $t->http;
my $operator = $h->token('sentinai_operator', 'TENANT_001', 'ann');

my $r = $h->get('/ops/dlq?tenant_id=TENANT_001&limit=100&offset=0', token => $operator);
is_deeply([ $r->{status}, $r->{json}{total}, scalar @{ $r->{json}{items} } ], [ 200, 8, 8 ], 'the list of dead letters');
$r = $h->post('/ops/dlq/1/retry?tenant_id=TENANT_001', token => $operator, body => { reason => 'Root cause fixed, retrying event' });
is_deeply([ $r->{status}, $r->{json}{status} ], [ 200, 'retrying' ], 'a retry');
is($h->post('/ops/dlq/1/retry?tenant_id=TENANT_001', token => $operator)->{status}, 409, 'not twice');
is($h->get('/ops/dlq/9', token => $operator)->{status}, 404, 'a neighbour\'s is not there');
is($h->get('/ops/dlq')->{status}, 401, 'nobody sees anything');
done_testing();
