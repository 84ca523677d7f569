# The record of a dead letter's retry is deleted from the topic before its group has read it. event_why() says where the
# retry is, all the way; once the group has passed the place, maintenance puts the dead letter back, and a new retry succeeds.
use strict;
use warnings;
use lib 'test/perl';
use Sentinai::Test;

my $t = Sentinai::Test->new(kafka => 1);
my $search = 'SET search_path = sentinai, public;';

sub ask { return $t->sql("$search $_[0]") }
sub wait_sql { return $t->wait_for_sql("$search $_[0]", $_[1], name => $_[2]) }
sub why { return ask("SELECT state || ': ' || reason FROM event_why('TENANT_001', 'I1', 'billing')") }

$t->topic(exceptions => 1);
$t->topic(invoices => 2);
$t->sql(<<'SQL');
SET search_path = sentinai, public;
CREATE SCHEMA app;
CREATE TABLE app.billing (open boolean NOT NULL);
INSERT INTO app.billing VALUES (false);
CREATE FUNCTION app.on_invoice(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT (SELECT open FROM app.billing) THEN
		PERFORM fail(e, 'validation_error', 'billing is closed');
	END IF;
END $$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT SELECT ON app.billing TO sentinai_handler;
ALTER FUNCTION app.on_invoice SET search_path = sentinai, pg_catalog;
SELECT tenant_add('TENANT_001'), event_type_add('InvoiceFailed');
SELECT worker_type_add('billing', 'invoices'), handler_add('billing', 'InvoiceFailed', 'app.on_invoice');
SQL

# intake only publishes here: what billing doesn't read has to get to the topic without it.
my $intake = $t->worker(WORKER_TYPE => 'intake');
my $billing = $t->worker(WORKER_TYPE => 'billing');
$t->produce(
	invoices => {
		partition => 1,
		key => 'k',
		value => '{"event_id": "I1", "event_type": "InvoiceFailed", "tenant_id": "TENANT_001", "payload": {}}'
	});
wait_sql('SELECT status FROM dead_letter_queue', 'pending', 'it is a dead letter');
my $id = ask('SELECT id FROM dead_letter_queue');
is($billing->stop, 0, 'billing stops');

ask("SELECT dlq_retry($id, 'while nobody reads')");
wait_sql("SELECT topic || '/' || partition || '/' || kafka_offset FROM dlq_receipt WHERE dlq_id = $id", 'invoices/1/1',
	'the publisher has noted where the record of the retry lies');
is( why(),
	"replaying: dead letter $id is being retried: its record is in Kafka at invoices/1/1, group billing is at 1: lag 0",
	'event_why() knows it, too');

$t->kafka('delete-records', 'invoices', 1, 2);
$billing = $t->worker(WORKER_TYPE => 'billing');
$billing->wait_log(qr/to=gapped reason="position_too_old: .*offset_reset/);
is(ask("SELECT status FROM dead_letter_queue WHERE id = $id"), 'retrying', 'nothing is called lost before the group has passed it');

ask("SELECT offset_reset('billing', 'invoices', dry_run => false, reason => 'records were deleted')");
wait_sql("SELECT status || ' ' || error_type || ' ' || retry_count FROM dead_letter_queue WHERE id = $id", 'pending retry_lost 0',
	'maintenance finds the retry lost');
like(why(), qr/^dead_letter: dead letter $id \(pending\) .* retry_lost: the record of the retry at invoices\/1\/1 was passed/,
	'and event_why() says so');

ask('UPDATE app.billing SET open = true');
ask("SELECT dlq_retry($id, 'once more')");
wait_sql("SELECT status FROM dead_letter_queue WHERE id = $id", 'succeeded', 'a new retry succeeds');
is(ask("SELECT string_agg(action, ' ' ORDER BY id) FROM dlq_history WHERE dlq_id = $id"),
	'dead_lettered retry retry_lost retry replay_succeeded', 'its history has all of it');
like(why(), qr/^succeeded: succeeded by the retry of dead letter $id at/, 'and event_why() its end');

done_testing();
