# Each component is killed once while events flow, by SIGKILL: a worker, the broker, the database. Nothing is lost, and
# nothing is done twice.
use Sentinai::Test;

my $t = Sentinai::Test->new(kafka => 1);
my $search = 'SET search_path = sentinai, public;';
my $partitions = 6;
my $each = 500;    # events a round
my $sent = 0;

$t->topic(exceptions => $partitions);
$t->sql("$search SELECT tenant_add('TENANT_001')");

my %worker = (WORKER_TYPE => 'intake', CONCURRENCY => 2, GROUP_ID => 'intake-workers', BATCH => 20,
	KAFKA_CONF_SESSION_TIMEOUT_MS => 6000);
my $worker = $t->worker(%worker);

sub send_events
{
	my ($count) = @_;
	my @records;

	for (1 .. $count)
	{
		$sent++;
		push @records, {
			key => "TENANT_001:EXC_$sent",
			value => qq({"event_id": "EVT_$sent", "event_type": "ExceptionIngested", "tenant_id": "TENANT_001",)
			  . qq( "exception_id": "EXC_$sent", "payload": {"severity": "low", "amount": $sent}}) };
	}
	$t->produce(exceptions => @records);
	return;
}

# The server may be away
sub handled
{
	my ($status, $out) = $t->sql_status('SELECT count(*) FROM sentinai.exceptions');
	return $status ? -1 : $out;
}

sub all_handled
{
	my ($what) = @_;
	$t->wait_for("all events to be handled after $what", sub { handled() == $sent });
	pass("every event is handled after $what");
	return;
}

# while: the kill falls into the middle of a round
sub in_the_middle
{
	my $before = $sent;
	send_events($each);
	$t->wait_for('the first of the round', sub { handled() > $before });
	return;
}

in_the_middle();
$worker->kill;
$worker->start;
all_handled('the worker was killed');

in_the_middle();
$t->kafka('kill');
$t->kafka('start');
all_handled('the broker was killed');
ok($worker->running, 'the worker outlives its broker');

in_the_middle();
$t->cluster('kill');
$t->cluster('start');
all_handled('the database was killed');
ok($worker->running, 'the worker outlives its database');

is($t->sql('SELECT count(*) || $$ $$ || count(DISTINCT event_id) FROM sentinai.exception_event'),
	"$sent $sent", 'each event has left its mark once');
is($t->sql(q{SELECT count(*) FROM sentinai.event_processing_log WHERE worker_type = 'intake' AND status = 'succeeded'}),
	$sent, 'each has succeeded once');
is($t->sql('SELECT count(*) FROM sentinai.dead_letter_queue'), 0, 'none is a dead letter');

# The publisher may send an event again after a crash, but always under the same id
my $emitted = sub {
	my %ids;
	for my $record ($t->records('exceptions'))
	{
		next if ($record->{value} // '') !~ /"ExceptionNormalized"/;
		my ($id) = $record->{value} =~ /"event_id":\s*"([^"]+)"/;
		$ids{$id}++;
	}
	return \%ids;
};
$t->wait_for('everything emitted to be on the topic', sub { keys %{ $emitted->() } >= $sent });
is(scalar(keys %{ $emitted->() }), $sent, 'what was emitted is on the topic, under one id an event');

is($worker->stop, 0, 'SIGTERM ends the worker with status 0');

done_testing();
