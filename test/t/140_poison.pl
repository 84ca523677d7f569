# Poison in the middle of good records, through a real broker: each hostile record is either handled or exactly one dead
# letter that has its bytes, key and headers as they were, whoever else reads the topic; all good ones arrive; and what is
# retried from the dead letters comes back as it was.
use strict;
use warnings;
use lib 'test/perl';
use Sentinai::Test;
use JSON::PP;

my $t = Sentinai::Test->new(kafka => 1);
my $search = 'SET search_path = sentinai, public;';

sub ask { return $t->sql("$search $_[0]") }
sub wait_sql { return $t->wait_for_sql("$search $_[0]", $_[1], name => $_[2]) }

# An event as text, with fields replaced or (undef) left out.
sub event
{
	my (%field) = @_;
	my %event = (
		event_type => 'ExceptionIngested',
		tenant_id => 'TENANT_001',
		exception_id => 'EXC_P',
		timestamp => '2026-01-01T00:00:00Z',
		version => 1,
		payload => { type => 'Mismatch', severity => 'high' },
		%field
	);
	delete @event{ grep { !defined $event{$_} } keys %event };
	return JSON::PP->new->canonical->encode(\%event);
}

# One whose field holds this JSON text, which need not be one.
sub with_raw
{
	my ($field, $text, @more) = @_;
	return event($field => 'HERE', @more) =~ s/"HERE"/$text/r;
}

my @wrong_types = map {
	my $field = $_;
	map { [ "$field is $_", with_raw($field, $_, $field eq 'event_id' ? () : (event_id => "WRONG_${field}_$_")), 'validation_error' ] }
	  grep { $field ne 'exception_id' || $_ ne 'null' } @{ {
		event_id => [ '1', 'true', '[]', '{}', '""' ],
		event_type => [ '1', 'null', '[]', '{}', '""' ],
		tenant_id => [ '1', 'null', '[]', '{}', '""' ],
		exception_id => [ '1', 'false', '[]', '{}', '""' ],
		timestamp => [ '1', 'true', '[]', '"yesterday"' ],
		correlation_id => [ '1', '[]', '{}' ],
		version => [ '"1"', '0', '-1', '1.5', '[]' ],
		payload => [ '1', '"text"', 'null', '[]' ],
		metadata => [ '1', '"text"', '[]' ]
	}->{$field} };
} qw(event_id event_type tenant_id exception_id timestamp correlation_id version payload metadata);

# name, value, error type (undef: is handled), and what else the record has
my @poison = (
	[ 'not JSON', 'hello', 'validation_error' ],
	[ 'half of an event', substr(event(event_id => 'HALF'), 0, 60), 'validation_error' ],
	[ 'two documents', '{} {}', 'validation_error' ],
	[ 'UTF-16', "\xff\xfe" . join('', map { "$_\0" } split //, event(event_id => 'UTF16')), 'validation_error' ],
	[ 'a byte order mark', "\xef\xbb\xbf" . event(event_id => 'BOM'), 'validation_error' ],
	[ 'bad UTF-8', event(event_id => 'HERE') =~ s/HERE/\xc3\x28/r, 'validation_error' ],
	[ 'NUL', event(event_id => 'HERE') =~ s/HERE/a\0b/r, 'validation_error' ],
	[ 'NUL, escaped', event(event_id => 'HERE') =~ s/HERE/a\\u0000b/r, 'validation_error' ],
	[ 'NUL in the payload', with_raw(payload => '{"a": "\\u0000"}', event_id => 'NUL_P'), 'validation_error' ],
	[ 'a high surrogate', event(event_id => 'HERE') =~ s/HERE/\\ud800/r, 'validation_error' ],
	[ 'a low surrogate', with_raw(payload => '{"a": "\\udc00x"}', event_id => 'LOW'), 'validation_error' ],
	[ '10,000 levels', with_raw(payload => '{"a":' x 10_000 . '1' . '}' x 10_000, event_id => 'DEEP'), 'validation_error' ],
	[ '10,000 levels that never end', '[' x 10_000, 'validation_error' ],
	[ '1e400000', with_raw(payload => '{"n": 1e400000}', event_id => 'HUGE'), 'validation_error' ],
	[ '2,000 digits', with_raw(payload => '{"n": ' . '7' x 2_000 . '}', event_id => 'DIGITS'), 'validation_error' ],
	[ '5 MiB', event(event_id => 'BIG', payload => { text => 'x' x (5 * 1024 * 1024) }), 'validation_error' ],
	[ 'empty', '', 'validation_error' ],
	[ 'tombstone', undef, 'validation_error' ],
	[ 'an unknown tenant', event(event_id => 'UNKNOWN', tenant_id => 'TENANT_404'), 'validation_error' ],
	[ 'no tenant', event(event_id => 'NO_TENANT', tenant_id => undef), 'validation_error' ],
	[ 'a tenant that is none', event(event_id => 'ODD_TENANT', tenant_id => q{'; DROP TABLE x; --}), 'validation_error' ],
	[ 'no type', event(event_id => 'NO_TYPE', event_type => undef), 'validation_error' ],
	[ 'no payload', event(event_id => 'NO_PAYLOAD', payload => undef), 'validation_error' ],
	[ 'an id of 300 bytes', event(event_id => 'i' x 300), 'validation_error' ],
	[ 'an exception of 300 bytes', event(event_id => 'LONG_EXCEPTION', exception_id => 'x' x 300), 'validation_error' ],
	[ 'an unknown type', event(event_id => 'NEVER_HEARD', event_type => 'NeverHeard'), 'unknown_event_type' ],
	[ 'a future version', event(event_id => 'FUTURE', version => 2), 'validation_error' ],
	[ 'a header that lies', event(event_id => 'LIES'), 'header_mismatch', headers => [ 'sentinai-event-type' => 'PlaybookMatched' ] ],
	[ 'a header that sends it to triage', event(event_id => 'LIES_TOO'), 'header_mismatch', headers => [ 'sentinai-event-type' => 'TriageRequested' ] ],
	[ 'a header that hides poison', 'hidden', 'validation_error', headers => [ 'sentinai-event-type' => 'TriageRequested' ] ],
	[ 'poison under a forged mark', 'forged', 'validation_error', headers => [ 'sentinai-emitted' => '0' x 64 ] ],
	[ 'poison that claims to be a retry', 'retry', 'validation_error',
		headers => [ 'sentinai-dlq-id' => '1', 'sentinai-dlq-token' => '00000000-0000-0000-0000-000000000000' ] ],
	@wrong_types,
	[ 'a duplicate key: the last counts', with_raw(tenant_id => '"TENANT_404","tenant_id":"TENANT_001"', event_id => 'TWICE'), undef ],
	[ 'a binary key', event(event_id => 'BINARY_KEY', exception_id => 'EXC_BINARY'), undef, key => "\0\xff\xfe:\n" ],
	[ '100 headers', event(event_id => 'HEADERS', exception_id => 'EXC_HEADERS'), undef,
		headers => [ map { ("h$_" => $_ % 3 ? "\0\xff$_" : undef) } 1 .. 100 ] ],
	[ 'a forged mark', event(event_id => 'MARK', exception_id => 'EXC_MARK'), undef, headers => [ 'sentinai-emitted' => 'f' x 64 ] ],
	[ 'a retry of nothing', event(event_id => 'RETRY', exception_id => 'EXC_RETRY'), undef,
		headers => [ 'sentinai-dlq-id' => '99999999999999999999', 'sentinai-dlq-token' => 'x' x 36 ] ],
	[ 'an id of 255 bytes', event(event_id => 'e' x 255, exception_id => 'EXC_LONG'), undef ],
	[ 'no id', event(exception_id => 'EXC_NO_ID'), undef ],
);

# A broken one carries a key and headers that are as bad: they must come through, too.
my $odd = [ "h\xc3\xa4" => "\0\xff", 'twice' => '1', 'twice' => undef, '' => '' ];
my $good = 0;
my @records = map {
	my ($name, $value, $error, %more) = @$_;
	$good++;
	(
		{ key => "TENANT_001:EXC_$good", value => event(event_id => "GOOD_$good", exception_id => "EXC_$good"), partition => $good % 3 },
		{ key => $error ? "\xfe\0:$name" : 'k', headers => $error ? $odd : [], value => $value, partition => $good % 3, %more }
	)
} @poison;
my @bad = grep { defined $_->[2] } @poison;
my $handled = @poison - @bad;

$t->topic(exceptions => 3, 'max.message.bytes=8388608');
$t->sql("SELECT sentinai.tenant_add('TENANT_001')");
my $intake = $t->worker(WORKER_TYPE => 'intake', CONCURRENCY => 2);
# They read the same topic, one with a handler for another type: what the owner refuses they leave alone.
$t->sql(<<'SQL');
CREATE SCHEMA app;
CREATE FUNCTION app.on_triage(sentinai.event) RETURNS void LANGUAGE sql AS 'SELECT';
GRANT USAGE ON SCHEMA app TO sentinai_handler;
SELECT sentinai.worker_type_add('watcher', 'exceptions');
SELECT sentinai.handler_add('watcher', 'TriageRequested', 'app.on_triage');
SQL
my @others = map { $t->worker(WORKER_TYPE => $_) } qw(triage watcher);
$t->produce('exceptions', @records);

wait_sql('SELECT count(*) FROM exception_event WHERE event_id LIKE $$GOOD_%$$', $good, "all $good good events arrive");
wait_sql('SELECT count(*) FROM dead_letter_queue', scalar @bad, 'as many dead letters as there are bad records');
wait_sql("SELECT count(*) FROM event_processing_log WHERE worker_type = 'intake' AND status = 'succeeded' AND event_type = 'ExceptionIngested'",
	$good + $handled, "and the $handled odd ones that are no poison are handled");

# ---------------------------------------------------------------- each exactly once, as it was

my %place;
for my $record ($t->records('exceptions'))
{
	$place{"$record->{partition}/$record->{offset}"} = $record;
}
my @found = $t->rows("$search SELECT original_partition || '/' || original_offset, worker_type, error_type, retry_count, status, step,
	encode(payload_raw, 'hex'), encode(record_key, 'hex'),
	(SELECT string_agg(encode(convert_to(h.name, 'UTF8'), 'hex') || '=' || coalesce(encode(h.value, 'hex'), '-'), ',' ORDER BY n)
	   FROM unnest(record_headers) WITH ORDINALITY AS h(name, value, n)) FROM dead_letter_queue");
is(scalar(keys %{ { map { $_->[0] => 1 } @found } }), scalar @bad, 'no two are of one record');
my %letter = map { $_->[0] => $_ } @found;
my %by_value;
for my $where (keys %place)
{
	my $value = $place{$where}{value};
	push @{ $by_value{ defined $value ? "=$value" : 'null' } }, $where;
}
sub hex_of { return defined $_[0] ? unpack('H*', $_[0]) : undef }

for my $poison (@bad)
{
	my ($name, $value, $error) = @$poison;
	my @where = @{ $by_value{ defined $value ? "=$value" : 'null' } // [] };
	my $at = shift @where // '';
	my ($letter, $record) = ($letter{$at}, $place{$at});
	my @headers = @{ $record->{headers} // [] };
	my @expected;

	while (my ($header, $content) = splice @headers, 0, 2)
	{
		push @expected, hex_of($header) . '=' . (hex_of($content) // '-');
	}
	is_deeply(
		[ scalar(@where), @{ $letter // [] }[ 1 .. 8 ] ],
		[ 0, 'intake', $error, 0, 'pending', 'screen', hex_of($value), hex_of($record->{key}), join ',', @expected ],
		"$name: one dead letter, with its bytes");
}

# ---------------------------------------------------------------- and again by a retry

my $liars = grep { $_->[2] eq 'header_mismatch' } @bad;
is(ask(q{SELECT count(*) FROM dlq_retry_batch(ARRAY(SELECT id FROM dead_letter_queue ORDER BY id), 'once more') b WHERE b.ok}),
	scalar @bad, 'each can be retried');
wait_sql("SELECT count(*) FROM dead_letter_queue WHERE status = 'pending' AND retry_count = 1", @bad - $liars, 'and fails again, once');
wait_sql("SELECT count(*) FROM dead_letter_queue WHERE status = 'succeeded' AND error_type = 'header_mismatch'", $liars,
	'but for those whose header lied: it is left out, and they are good');
is(ask('SELECT count(*) FROM dead_letter_queue'), scalar @bad, 'no retry is a dead letter of its own');
my %again;
$again{ defined $_->{value} ? "=$_->{value}" : 'null' }++ for grep { { @{ $_->{headers} } }->{'sentinai-dlq-id'} && !$place{"$_->{partition}/$_->{offset}"} } $t->records('exceptions');
is_deeply([ map { $again{ defined $_->[1] ? "=$_->[1]" : 'null' } // 0 } @bad ], [ (1) x @bad ], 'its bytes went out as they had come in');

is($_->stop, 0, 'the workers end in order') for $intake, @others;
done_testing();
