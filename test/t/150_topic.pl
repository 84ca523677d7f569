# The topics under the workers: all seven worker types of the runbook on theirs, partitions that are added, a topic that is
# deleted and made anew, and another cluster under the same name. What the database can't go on from is loud, and
# offset_reset() mends it.
use strict;
use warnings;
use lib 'test/perl';
use Sentinai::Test;
use JSON::PP;

my $t = Sentinai::Test->new(kafka => 1);
my $search = 'SET search_path = sentinai, public;';

sub ask { return $t->sql("$search $_[0]") }
sub wait_sql { return $t->wait_for_sql("$search $_[0]", $_[1], name => $_[2]) }

sub event
{
	my (%field) = @_;
	my %event = (event_type => 'ExceptionIngested', tenant_id => 'TENANT_001', payload => { severity => 'high' }, %field);
	return { value => JSON::PP->new->canonical->encode(\%event), key => "TENANT_001:" . ($event{exception_id} // '') };
}

sub gaps { return "SELECT string_agg(partition || ' ' || reason, ', ' ORDER BY partition) FROM offset_gap WHERE group_id = 'intake-workers' AND resolved_at IS NULL" }

# ---------------------------------------------------------------- as the runbook starts them

my @started = (
	[ intake => 'IntakeWorker', 2, 'intake-workers', 'exceptions' ],
	[ triage => 'TriageWorker', 4, 'triage-workers', 'exceptions' ],
	[ policy => 'PolicyWorker', 2, 'policy-workers', 'exceptions' ],
	[ playbook => 'PlaybookWorker', 2, 'playbook-workers', 'exceptions' ],
	[ tool => 'ToolWorker', 4, 'tool-workers', 'exceptions' ],
	[ feedback => 'FeedbackWorker', 2, 'feedback-workers', 'exceptions' ],
	[ sla_monitor => 'SLAMonitorWorker', 1, 'sla-monitors', 'sla' ],
);
my %soon = (KAFKA_CONF_TOPIC_METADATA_REFRESH_INTERVAL_MS => 500);

$t->topic(exceptions => 3);
$t->topic(sla => 1);
$t->sql("SELECT sentinai.tenant_add('TENANT_001')");
my %worker = map {
	my ($type, undef, $concurrency, $group) = @$_;
	($type => $t->worker(%soon, WORKER_TYPE => $type, CONCURRENCY => $concurrency, GROUP_ID => $group))
} @started;
for my $start (@started)
{
	my ($type, $name, $concurrency, $group, $topic) = @$start;
	$worker{$type}->wait_log(qr/Initialized $name worker: topics=\['$topic'\], group_id=$group, concurrency=$concurrency"/);
	$t->wait_for("$type to join its group", sub { $t->kafka('describe', $group) =~ /^member \S+ on \S+: $topic/m });
	pass("$type starts as in the runbook, says so and joins its group");
}
$t->produce('exceptions', map { { %{ event(event_id => "E$_", exception_id => "X$_") }, partition => $_ % 3 } } 1 .. 30);
$t->produce('exceptions', { %{ event() }, partition => 0 });	# its id is made from its place
wait_sql('SELECT count(*) FROM exception_event', '31', 'intake handles its events');
wait_sql(q{SELECT string_agg(group_id, ' ' ORDER BY group_id) FROM
	(SELECT group_id FROM kafka_offset GROUP BY 1 HAVING sum(next_offset) = 62) g},
	'feedback-workers intake-workers playbook-workers policy-workers tool-workers triage-workers',
	'the others skip what they have no handler for, and what intake has emitted');
is(ask('SELECT count(*) FROM dead_letter_queue'), '0', 'an event without a handler is no dead letter');
is($worker{$_}->stop, 0, "$_ stops") for grep { $_ ne 'intake' } map { $_->[0] } @started;

# ---------------------------------------------------------------- more partitions

$t->kafka('grow-topic', 'exceptions', 5);
$t->produce('exceptions', map { { %{ event(event_id => "F$_", exception_id => "X$_") }, partition => $_ % 5 } } 1 .. 20);
wait_sql('SELECT count(*) FROM exception_event', '51', 'records in new partitions are read, from their beginning');
is(ask(q{SELECT partition_count FROM kafka_topic WHERE topic = 'exceptions'}), '5', 'the database knows how many there are');
is(ask('SELECT count(*) FROM offset_gap'), '0', 'nothing was loud');

# ---------------------------------------------------------------- the topic is made anew

wait_sql('SELECT count(*) FROM outbox o WHERE o.id > (SELECT w.id FROM outbox_watermark w WHERE w.topic = o.topic)', '0', 'all is published');
is($worker{intake}->stop, 0, 'intake stops');
$t->wait_left('intake-workers');
$t->kafka('commit', 'intake-workers', 'exceptions', 2, 3);
$worker{intake}->start;
$worker{intake}->wait_log(qr/msg="the group's commit at the broker is not the position[^"]*" .*partition=2 committed=3 position=\d+ hint=/);
$t->wait_for('our commit to be back', sub { $t->kafka('describe', 'intake-workers') !~ /^exceptions\s+2\s+3\s/m });
is(ask(q{SELECT count(*) FROM event_processing_log WHERE worker_type = 'intake' AND event_type = 'ExceptionIngested'}), '51',
	'a commit that was moved at the broker moves nothing, and the log says so');
is($worker{intake}->stop, 0, 'intake stops again');
my $next = ask(q{SELECT next_offset FROM kafka_offset WHERE group_id = 'intake-workers' AND partition = 0});
$t->kafka('delete-topic', 'exceptions');
$t->wait_for('the topic to be gone', sub { $t->kafka('topics') !~ /^exceptions\b/m });
$t->topic(exceptions => 5);
# the first one again lies where one lay before, and is another event
$t->produce('exceptions', { %{ event() }, partition => 0 });
$worker{intake}->start;
wait_sql(gaps(), join(', ', map { "$_ topic_recreated" } 0 .. 4), 'a log that ends below the position is a gap');
$worker{intake}->wait_log(qr/to=gapped reason="topic_recreated: .*offset_reset/);
is(ask(q{SELECT next_offset FROM kafka_offset WHERE group_id = 'intake-workers' AND partition = 0}), $next, 'and nothing is read');
is(ask(q{SELECT count(*) FROM offset_reset('intake-workers', 'exceptions')}), '5', 'offset_reset() shows what it would do');
is(ask(q{SELECT count(*) FROM offset_reset('intake-workers', 'exceptions', dry_run => false, reason => 'topic made anew') WHERE done}), '5', 'and does it');
wait_sql('SELECT count(*) FROM exception_event', '52', 'the worker goes on, and what lies at an old place is a new event');
is(ask(q{SELECT count(*) FROM offset_gap WHERE resolved_at IS NULL}), '0', 'no gap is open');

# ---------------------------------------------------------------- another cluster

is($worker{intake}->stop, 0, 'intake stops');
$t->kafka('destroy');
$t->kafka('start');
chomp($t->{bootstrap} = $t->kafka('bootstrap'));
$t->topic(exceptions => 5);
$t->produce('exceptions', map { { %{ event(event_id => "G$_", exception_id => "X$_") }, partition => $_ % 5 } } 1 .. 100);
my $intake = $t->worker(%soon, WORKER_TYPE => 'intake');
wait_sql(gaps(), join(', ', map { "$_ other_cluster" } 0 .. 4), 'another cluster is a gap, whatever its offsets are');
is(ask('SELECT count(*) FROM exception_event'), '52', 'and nothing is read');
ask(q{SELECT offset_reset('intake-workers', 'exceptions', dry_run => false)});
wait_sql('SELECT count(*) FROM exception_event', '152', 'after offset_reset() all of its records are');
is(ask(q{SELECT incarnation FROM kafka_topic WHERE topic = 'exceptions'}), '3', 'each time the topic is another one');
is(ask('SELECT count(*) FROM dead_letter_queue'), '0', 'no dead letter in all of this');
is($intake->stop, 0, 'intake stops');
done_testing();
