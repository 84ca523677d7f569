# Topics that say whose their records are, read by real workers into handlers that are held to one tenant: each tenant's
# rows are its own, what contradicts the topic is nobody's, and what a handler emits for its tenant goes on through Kafka.
use strict;
use warnings;
use lib 'test/perl';
use Sentinai::Test;
use JSON::PP;

my $t = Sentinai::Test->new(kafka => 1);
my $search = 'SET search_path = sentinai, public;';
my $json = JSON::PP->new->canonical;

sub ask { return $t->sql("$search $_[0]") }

sub event
{
	my (%field) = @_;
	return $json->encode({ event_type => 'Paid', payload => {}, %field });
}

$t->topic($_ => 2) for 'gateway', 'keyed', 'of-a';
$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('TENANT_A'), tenant_add('TENANT_B');
SELECT event_type_add('Paid'), event_type_add('Noted');
SELECT worker_type_add('gateway', 'gateway'), worker_type_add('keyed', 'keyed'), worker_type_add('of_a', 'of-a');
SELECT topic_tenant_source_set('gateway', 'header', 'x-tenant'), topic_tenant_source_set('keyed', 'key'),
	topic_tenant_source_set('of-a', 'fixed', 'TENANT_A');
CREATE SCHEMA app;
CREATE TABLE app.paid (tenant_id text DEFAULT sentinai.current_tenant(), topic text, event_id text, seen bigint);
ALTER TABLE app.paid ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.paid USING (tenant_id = (SELECT sentinai.current_tenant()));
GRANT USAGE ON SCHEMA app TO sentinai_tenant_handler;
GRANT SELECT, INSERT ON app.paid TO sentinai_tenant_handler;
-- Each event's row, and of how many tenants there are rows that the handler sees.
CREATE FUNCTION app.paid(events sentinai.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.paid (topic, event_id, seen)
	SELECT e.payload->>'topic', e.event_id, (SELECT count(DISTINCT p.tenant_id) FROM app.paid p WHERE p.tenant_id <> e.tenant_id) FROM unnest(events) e;
	PERFORM sentinai.emit(e, 'Noted', e.payload, topic => 'keyed') FROM unnest(events) e WHERE e.event_type = 'Paid';
END $$;
SELECT handler_add(w, 'Paid', 'app.paid', scope => 'tenant') FROM unnest(ARRAY['gateway', 'keyed', 'of_a']) w;
SELECT handler_add('keyed', 'Noted', 'app.paid', scope => 'tenant');
SQL

$t->produce(gateway => map {
		my $tenant = $_ % 2 ? 'TENANT_A' : 'TENANT_B';
		{ value => event(event_id => "g$_", payload => { topic => 'gateway' }), key => 'k', headers => [ 'x-tenant' => $tenant ] }
	} 1 .. 40);
$t->produce(gateway =>
	  { value => event(event_id => 'lies', tenant_id => 'TENANT_A'), key => 'k', headers => [ 'x-tenant' => 'TENANT_B' ] },
	{ value => event(event_id => 'silent', tenant_id => 'TENANT_A'), key => 'k' });
$t->produce(keyed => { value => event(event_id => 'k1', payload => { topic => 'keyed' }), key => 'TENANT_B:X' },
	{ value => event(event_id => 'k2', tenant_id => 'TENANT_A'), key => 'TENANT_B:X' });
$t->produce('of-a' => { value => event(event_id => 'f1', payload => { topic => 'of-a' }), key => 'anything' },
	{ value => event(event_id => 'f2', tenant_id => 'TENANT_B'), key => 'anything' });
my @workers = map { $t->worker(WORKER_TYPE => $_, CONCURRENCY => 2) } 'gateway', 'keyed', 'of_a';

$t->wait_for_sql(q{SELECT count(*) FROM app.paid WHERE topic = 'gateway' AND event_id LIKE 'g%'}, '40', name => 'the header says whose they are');
is(ask(q{SELECT string_agg(tenant_id || ' ' || n, ', ' ORDER BY 1) FROM (SELECT tenant_id, count(*) AS n FROM app.paid WHERE event_id LIKE 'g%' GROUP BY 1) x}),
	'TENANT_A 20, TENANT_B 20', 'and each is its tenant\'s');
$t->wait_for_sql(q{SELECT string_agg(tenant_id || ' ' || event_id, ', ' ORDER BY event_id) FROM app.paid WHERE event_id IN ('k1', 'f1')},
	'TENANT_A f1, TENANT_B k1', name => 'so do the key and the topic itself');
$t->wait_for_sql(q{SELECT string_agg(event_id || ' ' || error_type, ', ' ORDER BY event_id) FROM sentinai.dead_letter_queue WHERE tenant_id = ''},
	'f2 tenant_mismatch, k2 tenant_mismatch, lies tenant_mismatch, silent tenant_mismatch', name => 'what contradicts its topic is nobody\'s');
# 42 were handled, and each has emitted one; its key is its tenant's, and it needs no header.
$t->wait_for_sql(q{SELECT count(*) FROM app.paid}, '84', name => 'what they emit for their tenants comes back through Kafka');
is(ask(q{SELECT count(*) FROM app.paid WHERE seen > 0}), '0', 'no call has ever seen a row of another tenant');
is(ask(q{SELECT count(*) FROM app.paid WHERE event_id NOT IN (SELECT event_id FROM event_log l WHERE l.tenant_id = paid.tenant_id)}), '0',
	'every row is of the tenant that its event was logged for');
is(ask('SELECT count(*) FROM tenant_scope_holes()'), '0', 'and nothing that was granted is open');

# A dead letter of nobody is given to a tenant, and its retry stays that one's, whatever the header says.
my $lies = ask(q{SELECT id FROM dead_letter_queue WHERE event_id = 'lies'});
ask("SELECT dlq_reassign($lies, 'TENANT_A'), dlq_retry($lies, 'it was the gateway that lied')");
$t->wait_for_sql("SELECT status FROM sentinai.dead_letter_queue WHERE id = $lies", 'succeeded', name => 'a dead letter that was given to a tenant is retried as its');
is(ask(q{SELECT tenant_id FROM app.paid WHERE event_id = 'lies'}), 'TENANT_A', 'and handled for it');

is($_->stop, 0, 'the worker stops') for @workers;
done_testing();
