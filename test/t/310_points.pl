# At every named point of the build with points (extension/point.h) something goes wrong once: an error of each class, a
# cancelled query, the end of the session, SIGKILL, another session that takes the partitions over. Then all goes on, and
# every event is accounted for. The list of points is read from the build, and each must have been passed.
#
# One story, in SQL, passes all of them: records of all kinds, retries, dead letters, circuits, publishing, rotation. Kafka is
# a table of its own commits here (app.record); the worker and the broker under the same harm are test/torture's.
#
# POINTS=all does every action at every point, and SIGKILL behind every statement of ours; without it each point gets
# SIGKILL, one of the errors in turn, and a take-over. POINTS="NAME ..." does every action at these.
use Sentinai::Test;
use JSON::PP ();
use Time::HiRes qw(sleep time);

my $t = Sentinai::Test->new(
	server => 'pg-points',
	# maintenance stands still: what it does is part of the story
	settings => 'sentinai.maintenance_interval = 1h; fsync = off; autovacuum = off; shared_buffers = 16MB; max_connections = 20; log_min_messages = log');
my $json = JSON::PP->new->canonical;
my @errors = qw(retry permanent stop broken cancel terminate);

# ---------------------------------------------------------------- the application, and a table for a broker

$t->sql(<<'SQL');
SET search_path = sentinai, public;
CREATE SCHEMA app;
CREATE TABLE app.effect (seq bigserial, n integer, tenant_id text, event_id text, exception_id text, emitted_id text);
CREATE TABLE app.mended (n integer);
CREATE TABLE app.record (topic text, partition integer, kafka_offset bigint, key bytea, headers sentinai.header[], value bytea,
						 PRIMARY KEY (topic, partition, kafka_offset));
CREATE TABLE app.expected (n integer, place integer, tenant_id text, event_id text, exception_id text, handled boolean);
CREATE TABLE app.delivery (id bigint, topic text, partition integer, kafka_offset bigint, dlq_id bigint, token uuid);
CREATE TABLE app.lost (n integer);

-- What an event does, until its case is mended: error_type of its failure, or NULL
CREATE FUNCTION app.trouble(e sentinai.event) RETURNS text LANGUAGE sql AS $$
	SELECT e.payload->>'fail' WHERE NOT EXISTS (SELECT FROM app.mended m WHERE m.n = (e.payload->>'n')::integer)
$$;
CREATE FUNCTION app.done(e sentinai.event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO app.effect (n, tenant_id, event_id, exception_id, emitted_id)
	VALUES ((e.payload->>'n')::integer, e.tenant_id, e.event_id, e.exception_id,
			sentinai.emit(e, 'StepDone', jsonb_build_object('n', e.payload->'n'), NULL, coalesce(e.payload->>'to', 'results')))
$$;
CREATE FUNCTION app.on_step(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM app.done(e);
	CASE app.trouble(e)
		WHEN 'transient' THEN RAISE EXCEPTION 'not yet';
		WHEN 'broken' THEN RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'broken';
		ELSE NULL;
	END CASE;
END $$;
CREATE FUNCTION app.on_bulk(events sentinai.event[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	e	sentinai.event;
BEGIN
	FOREACH e IN ARRAY events LOOP
		PERFORM app.done(e);
		PERFORM sentinai.fail(e, 'validation_error', 'no') WHERE app.trouble(e) = 'permanent';
	END LOOP;
END $$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA app TO sentinai_handler;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA app TO sentinai_handler;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app TO sentinai_handler;

-- ---- the broker
CREATE FUNCTION app.log_end(topic text, partition integer) RETURNS bigint LANGUAGE sql AS $$
	SELECT coalesce(max(r.kafka_offset) + 1, 0) FROM app.record r WHERE r.topic = $1 AND r.partition = $2
$$;
CREATE FUNCTION app.append(topic text, partition integer, key bytea, headers sentinai.header[], value bytea) RETURNS bigint LANGUAGE sql AS $$
	INSERT INTO app.record VALUES ($1, $2, app.log_end($1, $2), $3, $4, $5) RETURNING kafka_offset
$$;

-- ---- the worker's three moves
CREATE FUNCTION app.take(partition integer) RETURNS void LANGUAGE sql AS $$
	SELECT sentinai.assign('work', 'work', 'work', $1, 2, 'cluster', 0, app.log_end('work', $1))
$$;
CREATE FUNCTION app.batch() RETURNS sentinai.record[] LANGUAGE sql AS $$
	SELECT array_agg(x::sentinai.record) FROM (
		SELECT r.topic, r.partition, r.kafka_offset, k.epoch, now(), r.key, r.headers, r.value
		  FROM sentinai.kafka_offset k JOIN app.record r USING (topic, partition)
		 WHERE k.group_id = 'work' AND r.kafka_offset >= k.next_offset AND (r.key, r.value) IS DISTINCT FROM (NULL, NULL)
		UNION ALL
		SELECT k.topic, k.partition, app.log_end(k.topic, k.partition), k.epoch, NULL, NULL, NULL, NULL
		  FROM sentinai.kafka_offset k WHERE k.group_id = 'work'
		ORDER BY 2, 3) AS x
$$;
CREATE FUNCTION app.consume() RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', c.stop, 'split ' || c.split) FROM sentinai.consume('work', 'work', app.batch()) AS c
$$;
-- What topic "refusing" is sent it refuses until the case is mended; the first retry of a case's event "-lost" gets lost in Kafka.
CREATE FUNCTION app.deliver(case_n integer, skip text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	o		record;
	place	integer;
BEGIN
	DELETE FROM app.delivery;
	PERFORM sentinai.outbox_rewind();
	FOR o IN SELECT w.* FROM sentinai.outbox_read(1000, 1000000, skip) r JOIN sentinai.outbox w USING (id) ORDER BY id LOOP
		place := coalesce(o.partition, 0);
		IF o.topic = 'refusing' AND NOT EXISTS (SELECT FROM app.mended m WHERE m.n = case_n) THEN
			INSERT INTO app.delivery VALUES (o.id, o.topic);
		ELSIF o.event_id LIKE '%-lost' AND o.dlq_id IS NOT NULL AND NOT EXISTS (SELECT FROM app.lost l WHERE l.n = case_n) THEN
			INSERT INTO app.lost VALUES (case_n);
			INSERT INTO app.delivery VALUES (o.id, o.topic, place, app.append(o.topic, place, NULL, NULL, NULL), o.dlq_id, o.dlq_token);
		ELSE
			INSERT INTO app.delivery VALUES (o.id, o.topic, place, app.append(o.topic, place, o.key, o.headers, o.value), o.dlq_id, o.dlq_token);
		END IF;
	END LOOP;
END $$;
CREATE FUNCTION app.acknowledge() RETURNS void LANGUAGE sql AS $$
	SELECT sentinai.outbox_advance(array_agg(topic), array_agg(id),
		array_agg(dlq_id) FILTER (WHERE dlq_id IS NOT NULL), array_agg(token) FILTER (WHERE dlq_id IS NOT NULL),
		array_agg(topic) FILTER (WHERE dlq_id IS NOT NULL), array_agg(partition) FILTER (WHERE dlq_id IS NOT NULL),
		array_agg(kafka_offset) FILTER (WHERE dlq_id IS NOT NULL),
		coalesce(array_agg(id) FILTER (WHERE kafka_offset IS NULL), '{}'),
		coalesce(array_agg('MSG_SIZE_TOO_LARGE'::text) FILTER (WHERE kafka_offset IS NULL), '{}'),
		coalesce(array_agg('too large'::text) FILTER (WHERE kafka_offset IS NULL), '{}'))
	  FROM app.delivery HAVING count(*) > 0
$$;

SELECT tenant_add('T'), tenant_add('S'), tenant_add('L');
SELECT event_type_add(name) FROM unnest(ARRAY['Step', 'Bulk', 'Odd', 'Logged', 'StepDone']) AS name;
SELECT worker_type_add('work', 'work');
SELECT handler_add('work', 'Step', 'app.on_step'), handler_add('work', 'Odd', 'app.on_step'), handler_add('work', 'Bulk', 'app.on_bulk');
SELECT retry_policy_set(worker_type => 'work', max_retries => 1000, base_delay => '0', max_delay => '0', jitter => 0);
SQL

# ---------------------------------------------------------------- the story

# [partition, tenant, event, type, exception, payload]; without a type it is poison
my @first = (
	[ 0, 'T', 'plain', 'Step', 'X1' ],
	[ 0, 'T', 'bulk', 'Bulk', 'X1', to => 'refusing' ],
	[ 0, 'T', 'again', 'Step', 'X1', to => 'blocked' ],
	[ 0, 'T', 'transient', 'Step', 'X2', fail => 'transient' ],
	[ 0, 'T', 'behind', 'Step', 'X2' ],
	[ 0, 'T', 'plain', 'Step', 'X1' ],
	[ 0, 'T', 'odd', 'Odd', 'X5', fail => 'broken' ],
	[ 0, 'T', 'keyless', 'Step', undef ],
	[ 1, 'T', 'permanent', 'Bulk', 'X3', fail => 'permanent' ],
	[ 1, 'T', 'lost', 'Bulk', 'X6', fail => 'permanent' ],
	[ 1, 'T', 'beside', 'Bulk', 'X3' ],
	[ 1, 'T', 'poison' ],
	[ 1, 'S', 'suspended', 'Step', 'X4' ],
	(map { [ 1, 'L', "limited$_", 'Bulk', 'X7' ] } 1 .. 3),
	[ 1, 'T', 'logged', 'Logged', 'X4' ]);
my @second = ([ 0, 'T', 'late', 'Step', 'X1' ], [ 1, 'T', 'later', 'Bulk', 'X3' ]);

sub literal { return defined $_[0] ? q{'} . ($_[0] =~ s/'/''/gr) . q{'} : 'NULL' }

sub append
{
	my ($n, @records) = @_;
	my @sql;

	for (@records)
	{
		my ($partition, $tenant, $event, $type, $exception, %payload) = @$_;
		my $id = "E$n-$event";
		$exception = "X$n-$exception" if defined $exception;
		my $value = !$type ? "not JSON $n" : $json->encode({
			event_id => $id, event_type => $type, tenant_id => $tenant, exception_id => $exception, payload => { %payload, n => $n } });
		push @sql, sprintf "SELECT app.append('work', %d, %s, NULL, convert_to(%s, 'UTF8'));", $partition, literal($tenant), literal($value);
		push @sql, sprintf q{INSERT INTO app.expected SELECT %d, (SELECT count(*) FROM app.expected), %s, %s, %s, %s}
		  . q{ WHERE NOT EXISTS (SELECT FROM app.expected WHERE event_id = %3$s);},
		  $n, literal($tenant), literal($id), literal($exception), $type eq 'Logged' ? 'false' : 'true' if $type;
	}
	return join "\n", 'BEGIN;', @sql, 'COMMIT;';
}

my $publish = sub {
	my ($n, $skip) = @_;
	return "SELECT sentinai.outbox_lock();\nSELECT app.deliver($n, '$skip');\nSELECT app.acknowledge();\n";
};
my $rotate_outbox = sub {
	my ($n) = @_;
	return join '', map {
		qq{SELECT sentinai.event_publish('results', jsonb_build_object('event_id', 'F$n-$_-' || clock_timestamp(), 'event_type', 'StepDone', 'tenant_id', 'T', 'payload', '{}'::jsonb));\n}
		  . $publish->($n, '{blocked}')
		  . "SELECT sentinai.outbox_rotate(true);\nSELECT sentinai.outbox_rotate(true);\n"
	} 1 .. 4;
};
my $due = "UPDATE sentinai.event_pending SET next_attempt_at = now() WHERE status = 'retrying';\nUPDATE sentinai.circuit SET probe_at = now();\n";
my $consume = "SELECT 'answer: ' || app.consume();\n";

# All of it may be told again: what is done already is found done.
sub story
{
	my ($n) = @_;
	return join '',
	  "SELECT sentinai.tenant_suspend('S');\n",
	  "SELECT sentinai.rate_limit_set('L', 'events_ingested', 1, 3600), sentinai.rate_limit_reset('L', 'events_ingested', 'points');\n",
	  "SELECT app.take(0);\nSELECT app.take(1);\n",
	  # one event by itself, as the search for what kills the server does it
	  "SELECT sentinai.suspect_begin('work');\n",
	  "SELECT sentinai.suspect_next('work', 'work', 0, k.next_offset) FROM sentinai.kafka_offset k WHERE k.group_id = 'work' AND k.partition = 0;\n",
	  $consume, "SELECT sentinai.suspect_end();\n",
	  $consume, $publish->($n, '{blocked}'),
	  "SELECT sentinai.rate_limit_set('L', 'events_ingested', 2, 3600);\n", $due, $consume,
	  "SELECT * FROM sentinai.offset_reset('work', 'work', 0, (SELECT min(kafka_offset) FROM app.record WHERE topic = 'work' AND partition = 0"
	  . " AND convert_from(value, 'UTF8') LIKE '%\"E$n-%'), dry_run => false);\n",
	  $consume,
	  # two open generations, then one again
	  "SELECT sentinai.dedupe_rotate(true);\n", append($n, @second) . "\n", $consume,
	  "SELECT sentinai.dedupe_rotate();\nSELECT sentinai.dedupe_rotate();\n",
	  "UPDATE sentinai.dedupe_generation SET closed_at = now() - interval '30 days' WHERE closed_at IS NOT NULL AND generation <"
	  . " (SELECT min(p.generation) FROM sentinai.event_processing_log p WHERE p.event_id LIKE 'E$n-%');\n",
	  "SELECT sentinai.dedupe_rotate();\n" x 3,
	  $rotate_outbox->($n),
	  "INSERT INTO app.mended SELECT $n WHERE NOT EXISTS (SELECT FROM app.mended WHERE n = $n);\n",
	  "SELECT sentinai.outbox_failed_retry(id) FROM sentinai.outbox_failed;\n",
	  "SELECT sentinai.tenant_resume('S');\n", "SELECT sentinai.rate_limit_delete('L', 'events_ingested');\n", $due, $consume, $due, $consume,
	  ("SELECT ok, error FROM sentinai.dlq_retry_batch(ARRAY(SELECT id FROM sentinai.dead_letter_queue WHERE status = 'pending' AND step = 'handle' ORDER BY id), 'points');\n",
		$publish->($n, '{}'), $consume, "SELECT sentinai.dlq_lost_check();\n") x 2,
	  $due, $consume, "SELECT count(sentinai.circuit_close(worker_type, event_type)) FROM sentinai.circuit;\n", $consume,
	  $publish->($n, '{}'), "SELECT sentinai.outbox_rotate(true);\n" x 2;
}

my $unrest = q{
SELECT concat_ws(', ',
	(SELECT count(*) || ' pending' FROM sentinai.event_pending HAVING count(*) > 0),
	(SELECT count(*) || ' keys blocked' FROM sentinai.key_state HAVING count(*) > 0),
	(SELECT count(*) || ' dead letters' FROM sentinai.dead_letter_queue WHERE status = 'retrying' OR status = 'pending' AND step = 'handle' HAVING count(*) > 0),
	(SELECT count(*) || ' refused' FROM sentinai.outbox_failed HAVING count(*) > 0),
	(SELECT count(*) || ' unpublished' FROM sentinai.outbox o
	  WHERE o.id > coalesce((SELECT w.id FROM sentinai.outbox_watermark w WHERE w.topic = o.topic), 0) HAVING count(*) > 0),
	(SELECT count(*) || ' unread' FROM app.record r JOIN sentinai.kafka_offset k USING (topic, partition)
	  WHERE k.group_id = 'work' AND r.kafka_offset >= k.next_offset HAVING count(*) > 0))};

# What is wrong with a case, a line each
sub account
{
	my ($n) = @_;
	return $t->sql(<<"SQL");
WITH expected AS (SELECT * FROM app.expected WHERE n = $n),
	effect AS (SELECT * FROM app.effect WHERE n = $n),
	published AS (SELECT convert_from(r.value, 'UTF8')::jsonb AS event FROM app.record r WHERE r.topic <> 'work'),
	dead AS (SELECT d.* FROM sentinai.dead_letter_queue d WHERE d.event_id LIKE 'E$n-%'),
	by_key AS (SELECT e.event_id, x.place, lag(x.place) OVER (PARTITION BY e.tenant_id, e.exception_id ORDER BY e.seq) AS before
				 FROM effect e JOIN expected x USING (tenant_id, event_id)
				WHERE e.exception_id IS NOT NULL AND NOT EXISTS (SELECT FROM dead d WHERE d.event_id = e.event_id))
SELECT x.event_id || ' was handled ' || (SELECT count(*) FROM effect e WHERE e.tenant_id = x.tenant_id AND e.event_id = x.event_id) || ' times'
  FROM expected x WHERE (SELECT count(*) FROM effect e WHERE e.tenant_id = x.tenant_id AND e.event_id = x.event_id) <> x.handled::int
UNION ALL SELECT e.event_id || ' was handled and not sent' FROM effect e WHERE NOT EXISTS (SELECT FROM expected x WHERE x.event_id = e.event_id)
UNION ALL SELECT 'what ' || e.event_id || ' emitted is not published' FROM effect e WHERE NOT EXISTS (SELECT FROM published p WHERE p.event->>'event_id' = e.emitted_id)
UNION ALL SELECT (p.event->>'event_id') || ' is published and of no effect' FROM published p
  WHERE p.event->'payload'->>'n' = '$n' AND p.event->>'event_type' = 'StepDone' AND NOT EXISTS (SELECT FROM effect e WHERE e.emitted_id = p.event->>'event_id')
UNION ALL SELECT event_id || ' came too late' FROM by_key WHERE place < before
UNION ALL SELECT event_id || ' is a dead letter, ' || status || ', ' || error_type FROM dead WHERE status <> 'succeeded'
UNION ALL SELECT event_id || ' is ' || count(*) || ' dead letters' FROM dead GROUP BY event_id HAVING count(*) > 1
UNION ALL SELECT 'poison is ' || count(*) || ' dead letters' FROM sentinai.dead_letter_queue WHERE payload_raw = convert_to('not JSON $n', 'UTF8') HAVING count(*) <> 1
UNION ALL SELECT x.event_id || ' is in event_log ' || (SELECT count(*) FROM sentinai.event_log l WHERE l.tenant_id = x.tenant_id AND l.event_id = x.event_id) || ' times'
  FROM expected x WHERE (SELECT count(*) FROM sentinai.event_log l WHERE l.tenant_id = x.tenant_id AND l.event_id = x.event_id) <> 1
UNION ALL SELECT x.event_id || ' is claimed as ' || coalesce((SELECT string_agg(p.status, ',') FROM sentinai.event_processing_log p
														WHERE p.tenant_id = x.tenant_id AND p.event_id = x.event_id AND NOT p.shadow), 'nothing')
  FROM expected x WHERE (SELECT string_agg(p.status, ',') FROM sentinai.event_processing_log p
						  WHERE p.tenant_id = x.tenant_id AND p.event_id = x.event_id AND NOT p.shadow) IS DISTINCT FROM 'succeeded'
UNION ALL SELECT 'the books of ' || b.event_type || ' don''t balance: ' || b::text FROM sentinai.books_check(NULL, '2000-01-01', '2100-01-01') b
  WHERE NOT b.balanced
SQL
}

# ---------------------------------------------------------------- a case

my $n = 0;
my %passed;

# Psql goes on behind an error, unless the session is gone
sub play
{
	my (@sql) = @_;
	my ($status, $out, $err) = Sentinai::Test::capture({ input => join '', @sql }, $t->psql_command, '-At', '-v', 'VERBOSITY=verbose');
	return ($out . $err);
}

sub server_log { return Sentinai::Test::slurp("$t->{cluster_dir}/log") }

sub fired
{
	my ($point) = @_;
	return server_log() =~ /point \Q$point\E: /;
}

sub server_is_up
{
	$t->wait_for('the server to be back', sub { !($t->sql_status('SELECT 1'))[0] });
	return;
}

# Tells the story with the harm done, then again until it is over
sub visit
{
	my ($name, $harm) = @_;
	my $out = '';
	my $calm = '';

	$n++;
	truncate "$t->{cluster_dir}/log", 0;
	play(append($n, @first));
	my $hit = $harm->();
	for (1 .. 4)
	{
		server_is_up();
		$out .= play(story($n));
		(my $away, $calm) = $t->sql_status($unrest);
		$calm = 'the server is away' if $away;
		last if $calm eq '';
	}
	return 0 if !$hit;
	my $wrong = join "\n", grep { $_ ne '' } $calm, account($n);
	ok($wrong eq '', $name) or diag("$wrong\n" . join "\n", grep { /ERROR|answer: \w/ } split /\n/, $out);
	if ($wrong ne '')
	{
		diag(Sentinai::Test::slurp("$t->{cluster_dir}/log"));
		BAIL_OUT('what is wrong here would be wrong in every later case') if $calm ne '';
	}
	return 1;
}

sub visit_with
{
	my ($point, $action, $pass) = @_;
	return visit("$point: $action" . ($pass ? " at pass $pass" : ''), sub {
		play("SET sentinai.point = '$point $action " . ($pass // 1) . "';\n", story($n));
		return 0 if !fired($point);
		# before it knows, the postmaster would still let the next session in
		$t->wait_for('the postmaster to miss the session', sub { server_log() =~ /was terminated by signal 9/ }) if $action eq 'kill';
		return 1;
	});
}

# Another session takes the partitions over while one stands there, in the first consume()
sub visit_with_heir
{
	my ($point) = @_;
	return visit("$point: another session takes over", sub {
		my $pid = fork() // die "fork: $!";
		if (!$pid)
		{
			play("SET sentinai.point = '$point wait';\n", story($n));
			POSIX::_exit(0);
		}
		$t->wait_for("a session to stand at $point", sub { fired($point) || waitpid($pid, POSIX::WNOHANG()) > 0 });
		return 0 if !fired($point);
		$t->wait_for("the heir to end the session", sub {
			play("SELECT app.take(0), app.take(1);\n");
			return waitpid($pid, POSIX::WNOHANG()) > 0;
		});
		return 1;
	});
}

# ---------------------------------------------------------------- all of them

my @points = $t->rows('SELECT name, late FROM sentinai.points() ORDER BY name');
my %chosen = map { $_ => 1 } split ' ', ($ENV{POINTS} // '') eq 'all' ? '' : $ENV{POINTS} // '';
my $all = ($ENV{POINTS} // '') ne '';
my $turn = 0;
my $began = time;

cmp_ok(scalar(@points), '>', 40, 'the build has points');
visit('nothing goes wrong', sub { unlike(play(story($n)), qr/ERROR|answer: \w/, 'the story has no errors of its own'); return 1 });
for (@points)
{
	my ($point, $late) = @$_;
	next if $point eq 'statement' || (%chosen && !$chosen{$point});
	my @actions = ('kill', $late eq 't' ? () : $all ? @errors : $errors[ $turn++ % @errors ]);

	ok(visit_with($point, $_), "$point was passed ($_)") for @actions;
}
for my $point (grep { !%chosen || $chosen{$_} } qw(consume.fenced consume.claimed consume.handled settle.outbox outbox.committing consume.done))
{
	ok(visit_with_heir($point), "$point was passed (take-over)");
}

# Behind every statement that our C code runs
my $step = $all && !%chosen ? 1 : 29;
for (my $pass = 1 + int($step / 2); !%chosen || $chosen{statement}; $pass += $step)
{
	visit_with('statement', $pass % 2 ? 'kill' : 'retry', $pass) or last;
}
note(sprintf '%d cases, %.0f s', $n, time - $began);
done_testing();
