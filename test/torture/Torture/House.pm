package Torture::House;

# The house that the torture is done to: cluster, broker, workers and the application in the database. Everything that
# harms and accounts share about a run is a field of the one object: t (Sentinai::Test), workers, round, stat, undo (what
# ends a harm before the round is judged), kept and gone (the records that the topic had; see Torture::Account).
use strict;
use warnings;
use Sentinai::Test;
use File::Basename qw(basename);
use Time::HiRes qw(sleep time);

my %worker = (
	WORKER_TYPE => 'work', CONCURRENCY => 2, BATCH => 40,
	KAFKA_CONF_SESSION_TIMEOUT_MS => 3000, KAFKA_CONF_HEARTBEAT_INTERVAL_MS => 500,
	# partitions that are added are noticed after this time, by default five minutes
	KAFKA_CONF_TOPIC_METADATA_REFRESH_INTERVAL_MS => 1000);

sub new
{
	my ($class, %option) = @_;
	my $h = bless {
		%option, tenants => [qw(T_A T_B T_C)], partitions => 4, incarnation => 0, workers => [], undo => [], stat => {},
		kept => {}, gone => {},
	}, $class;

	$h->unmount(Sentinai::Test::run("$Sentinai::Test::top/scripts/build_dir") . '/check/t/' . basename($0) =~ s/\.\w+$//r . '/disk');
	$h->{t} = Sentinai::Test->new(kafka => 1, settings => 'log_min_messages = warning');
	$h->{points} = $h->is_built_with_points;
	$h->make_application;
	$h->make_small_disk;
	$h->start_worker for 1 .. 2;
	return $h;
}

sub some { return $_[ int rand @_ ] }

# ---------------------------------------------------------------- the database

# Waits for the server, which a harm may have taken away
sub ask
{
	my ($h, $sql) = @_;
	my ($status, $answer, $error);

	return $answer if eval {
		$h->{t}->wait_for(
			"an answer to $sql",
			sub {
				($status, $answer, $error) = $h->{t}->sql_status($sql);
				return !$status;
			});
	};
	die "$@$error";
}

sub is_built_with_points
{
	my ($h) = @_;
	return $h->ask(q{SELECT to_regprocedure('sentinai.points()') IS NOT NULL}) eq 't';
}

# Effects have no unique key: what is done twice is to be seen. emit comes before the failure, so that it has to be undone.
sub make_application
{
	my ($h) = @_;
	my $t = $h->{t};

	Sentinai::Test::run('make', '-s', '-C', "$Sentinai::Test::top/test/modules/crash", 'install', "PG_CONFIG=$t->{bin}/pg_config");
	$t->topic($_ => $h->{partitions}) for qw(work results exceptions);
	$h->ask(<<'SQL');
SET search_path = sentinai, public;
CREATE SCHEMA app;
CREATE TABLE app.effect (seq bigserial, tenant_id text, event_id text, exception_id text, emitted_id text, payload jsonb);
CREATE TABLE app.mended (round integer);
CREATE TABLE app.parent (event_id text PRIMARY KEY);
CREATE TABLE app.child (event_id text REFERENCES app.parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION app.crash() RETURNS void LANGUAGE c AS '$libdir/crash';
-- What is wrong with an event now; NULL: nothing
CREATE FUNCTION app.trouble(e sentinai.event) RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT CASE WHEN e.payload->>'fail' IN ('permanent', 'crash') AND NOT EXISTS (SELECT FROM app.mended WHERE round = (e.payload->>'round')::int)
				THEN e.payload->>'fail'
				WHEN e.payload->>'fail' IN ('transient', 'deferred') AND extract(epoch FROM clock_timestamp()) < (e.payload->>'until')::float8
				THEN e.payload->>'fail' END
$$;
-- The child comes before its parent, which a deferred constraint allows, or without one, which fails behind the handler
CREATE FUNCTION app.done(e sentinai.event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO app.child SELECT e.event_id WHERE e.payload->>'fail' = 'deferred';
	INSERT INTO app.parent SELECT e.event_id WHERE e.payload->>'fail' = 'deferred' AND app.trouble(e) IS NULL;
	INSERT INTO app.effect (tenant_id, event_id, exception_id, emitted_id, payload)
	VALUES (e.tenant_id, e.event_id, e.exception_id,
			sentinai.emit(e, 'StepDone', jsonb_build_object('of', e.event_id), NULL, 'results'), e.payload)
$$;
CREATE FUNCTION app.on_step(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM app.done(e);
	CASE app.trouble(e)
		WHEN 'permanent' THEN RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'will not do';
		WHEN 'transient' THEN RAISE EXCEPTION 'not yet';
		WHEN 'crash' THEN PERFORM app.crash();
		ELSE NULL;
	END CASE;
END $$;
CREATE FUNCTION app.on_bulk(events sentinai.event[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	e	sentinai.event;
BEGIN
	FOREACH e IN ARRAY events LOOP
		PERFORM app.done(e);
		PERFORM sentinai.fail(e, CASE app.trouble(e) WHEN 'permanent' THEN 'validation_error' ELSE 'not_yet' END, 'no')
		  WHERE app.trouble(e) IN ('permanent', 'transient');
	END LOOP;
END $$;
CREATE FUNCTION app.on_other(e sentinai.event) RETURNS void LANGUAGE sql AS 'SELECT';
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA app TO sentinai_handler;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA app TO sentinai_handler;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app TO sentinai_handler;
SELECT event_type_add(name) FROM unnest(ARRAY['Step', 'Bulk', 'Logged', 'Other', 'StepDone']) AS name;
SELECT worker_type_add('work', 'work'), handler_add('work', 'Step', 'app.on_step'), handler_add('work', 'Bulk', 'app.on_bulk');
SELECT retry_policy_set(worker_type => 'work', max_retries => 12, base_delay => '300 ms', factor => 1.5, max_delay => '2 s');
SQL
	$h->ask("SELECT sentinai.tenant_add('$_')") for @{ $h->{tenants} };
	return;
}

# The database on a disk that can be filled without harm to anybody else: a small tmpfs, which only root can mount
sub make_small_disk
{
	my ($h) = @_;
	my $disk = "$h->{t}{dir}/disk";

	mkdir $disk;
	my ($status, undef, $error) = $> == 0
	  ? Sentinai::Test::capture({}, 'mount', '-t', 'tmpfs', '-o', 'size=300m,mode=755', 'sentinai-torture', $disk)
	  : (1, '', 'only root can mount');
	if ($status)
	{
		diag("NOT DONE: no disk will be full: $error");
		return;
	}
	$h->{disk} = $disk;
	mkdir "$disk/space";
	Sentinai::Test::run('chown', 'postgres:', $disk, "$disk/space");
	$h->ask("CREATE TABLESPACE regress_small LOCATION '$disk/space'");
	$h->{t}->sql('ALTER DATABASE sentinai SET TABLESPACE regress_small', database => 'postgres');
	return;
}

# What is open stays so until the server ends
sub unmount
{
	my ($h, $disk) = @_;
	local $? = 0;
	Sentinai::Test::capture({}, 'umount', '-l', $disk) if $disk && -d $disk;
	return;
}

# Of the round
sub effects
{
	my ($h) = @_;
	return $h->ask("SELECT count(*) FROM app.effect WHERE payload->>'round' = '$h->{round}'");
}

sub sessions
{
	my ($h, $condition) = @_;
	return split /\n/,
	  $h->ask("SELECT pid FROM pg_stat_activity WHERE usename = 'regress_worker' AND $condition ORDER BY pid");
}

# ---------------------------------------------------------------- workers

sub start_worker
{
	my ($h) = @_;
	push @{ $h->{workers} }, $h->{t}->worker(%worker);
	return $h->{workers}[-1];
}

sub a_worker { my ($h) = @_; return some(@{ $h->{workers} }) }

sub restart_dead
{
	my ($h) = @_;
	for my $worker (grep { !$_->running } @{ $h->{workers} })
	{
		$worker->start;
	}
	return;
}

sub leave_two_workers
{
	my ($h) = @_;
	while (@{ $h->{workers} } > 2)
	{
		my $leaver = shift @{ $h->{workers} };
		is($leaver->stop, 0, 'a worker that leaves ends with status 0');
	}
	return;
}

# SIGTERM to all: each ends in order and in time
sub stop_workers
{
	my ($h) = @_;
	my $began = time;

	$_->signal('TERM') for @{ $h->{workers} };
	is($_->wait, 0, 'SIGTERM ends a worker with status 0') for @{ $h->{workers} };
	cmp_ok(time - $began, '<', 25, 'within its time');
	return;
}

# ---------------------------------------------------------------- Kafka

# The broker may die meanwhile: then all of it is sent again
sub produce
{
	my ($h, @records) = @_;
	$h->{t}->wait_for('the broker to take the records', sub { eval { $h->{t}->produce(work => @records); 1 } });
	$h->{stat}{records} += @records;
	return;
}

# partition => [first offset, next offset]
sub log_ends
{
	my ($h) = @_;
	return { map { my @f = split /\s+/; ($f[0] => [ @f[ 1, 2 ] ]) } split /\n/, $h->{t}->kafka('offsets', 'work') };
}

sub positions
{
	my ($h) = @_;
	return { map { split /=/ } split / /, $h->ask(
			q{SELECT string_agg(k.partition || '=' || k.next_offset, ' ') FROM sentinai.kafka_offset k WHERE k.group_id = 'work' AND k.topic = 'work'}) };
}

# ---------------------------------------------------------------- quiet

sub close_circuits
{
	my ($h) = @_;
	$h->ask('SELECT count(sentinai.circuit_close(worker_type, event_type, nullif(tenant_id, $$$$))) FROM sentinai.circuit');
	return;
}

sub retry_dead_letters
{
	my ($h, $condition) = @_;
	$h->ask("SELECT count(*) FROM sentinai.dlq_retry_batch(ARRAY(SELECT id FROM sentinai.dead_letter_queue WHERE status = 'pending' AND $condition ORDER BY id), 'torture')");
	return;
}

my $unrest = q{
SELECT concat_ws(', ',
	(SELECT count(*) || ' pending' FROM sentinai.event_pending HAVING count(*) > 0),
	(SELECT count(*) || ' keys blocked' FROM sentinai.key_state HAVING count(*) > 0),
	(SELECT count(*) || ' retrying' FROM sentinai.dead_letter_queue WHERE status = 'retrying' HAVING count(*) > 0),
	(SELECT count(*) || ' unpublished' FROM sentinai.outbox o
	  WHERE o.id > coalesce((SELECT w.id FROM sentinai.outbox_watermark w WHERE w.topic = o.topic), 0) HAVING count(*) > 0))};

# What is not at rest; empty: all is quiet
sub unrest
{
	my ($h) = @_;
	my $ends = $h->log_ends;
	my $positions = $h->positions;

	return join ', ', $h->ask($unrest) || (),
	  map { "partition $_ is at " . ($positions->{$_} // 'no position') . " of $ends->{$_}[1]" }
	  grep { $ends->{$_}[1] != ($positions->{$_} // 0) } sort keys %$ends;
}

sub wait_quiet
{
	my ($h, $what) = @_;
	my $state;

	(pop @{ $h->{undo} })->() while @{ $h->{undo} };
	$h->ask("SELECT count(sentinai.tenant_resume(tenant_id)) FROM sentinai.tenant WHERE status = 'suspended'");
	$h->close_circuits;
	return if eval { $h->{t}->wait_for("all to be quiet $what", sub { ($state = $h->unrest) eq '' }); 1 };
	Torture::Account::where_is($h, 'the pending',
		map { "$_->[0]/$_->[1]" } $h->{t}->rows('SELECT tenant_id, event_id FROM sentinai.event_pending ORDER BY id LIMIT 5'));
	die "not quiet $what: $state\n";
}

1;
