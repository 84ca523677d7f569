package Torture::Harm;

# What is done to the house while events flow: a function a harm, which may leave in undo what ends it. Harms whose name
# begins like a group's below are one kind with several ways.
use strict;
use warnings;
use Sentinai::Test;
use List::Util qw(shuffle);
use Time::HiRes qw(sleep time);
use Torture::Load;

sub some { return $_[ int rand @_ ] }

# Waits for a condition, but not for ever: what a harm waits for may not come, and that is no failure
sub wait_a_little
{
	my ($seconds, $condition) = @_;
	my $end = time + $seconds;

	sleep 0.05 until $condition->() || time > $end;
	return;
}

my %harm;

# ---------------------------------------------------------------- processes

$harm{kill_worker} = sub { $_[0]->a_worker->kill; return };
$harm{kill_all_workers} = sub {
	my ($h) = @_;
	$_->signal('KILL') for @{ $h->{workers} };
	$_->wait for @{ $h->{workers} };
	return;
};
$harm{term_worker} = sub { is($_[0]->a_worker->stop, 0, 'SIGTERM under load ends a worker with status 0'); return };
$harm{join} = sub { $_[0]->start_worker; return };

# Nobody left: what the workers have told Kafka is what the database says. What no worker was reading, since the partition
# had just changed hands, nobody commits.
$harm{term_all} = sub {
	my ($h) = @_;

	$h->stop_workers;
	my $positions = $h->positions;
	my %committed = $h->{t}->kafka('describe', 'work') =~ /^work\s+(\d+)\s+(\d+)/mg;
	my %read = map { $_ => 1 } map { (split /msg="stopping/, $_->log)[-1] =~ /partition=(\d+) from=active to=revoking/g } @{ $h->{workers} };
	my @wrong = grep { ($committed{$_} // 0) != ($positions->{$_} // 0) } sort keys %read;
	is("@wrong", '', 'offsets committed are the positions')
	  or diag(join "\n", map { "partition $_: committed " . ($committed{$_} // 'nothing') . ", position $positions->{$_}" } @wrong);
	return;
};

# Out of its group for longer than its session lasts, while an heir takes over: what it still does is fenced off
$harm{zombie} = sub {
	my ($h) = @_;
	my $zombie = $h->a_worker;
	my $heir = $h->start_worker;
	$zombie->signal('STOP');
	$heir->wait_log(qr/from=located to=active/);
	$zombie->signal('CONT');
	return;
};

# ---------------------------------------------------------------- the server

$harm{immediate} = sub { my ($h) = @_; $h->{t}->cluster($_) for 'immediate', 'start'; return };
$harm{power_loss} = sub { my ($h) = @_; $h->{t}->cluster($_) for 'kill', 'start'; return };
$harm{kill_backend} = sub {
	my ($h) = @_;
	my @pids = $h->sessions("state = 'active' AND query LIKE '%consume%'");
	@pids = $h->sessions('true') if !@pids;
	kill KILL => some(@pids) if @pids;
	return;
};
$harm{end_session} = sub {
	my ($h) = @_;
	my @pids = $h->sessions('true');
	$h->ask('SELECT pg_terminate_backend(' . some(@pids) . ')') if @pids;
	return;
};
$harm{crash_handler} = sub { my ($h) = @_; $h->produce(Torture::Load::killer($h)); return };

# A session stands at a point, and is killed or ended right there
$harm{at_point} = sub {
	my ($h) = @_;
	my $point = some(sort map { $_->[0] } $h->{t}->rows(q{SELECT name FROM sentinai.points() WHERE name ~ '^(consume|claim|key|slice|handler|session|settle|outbox|advance|statement)'}));
	my $pass = $point eq 'statement' ? ' ' . int 1 + rand 40 : '';
	my @pids;

	$h->ask("ALTER SYSTEM SET sentinai.point = '$point wait$pass'; SELECT pg_reload_conf()");
	wait_a_little(5, sub { @pids = $h->sessions("application_name = 'at point $point'") });
	$h->ask('ALTER SYSTEM RESET sentinai.point; SELECT pg_reload_conf()');
	note("    $point: " . scalar(@pids) . ' sessions');
	kill +(rand() < 0.7 ? 'KILL' : 'TERM') => $_ for @pids;
	return;
};

# Whatever falls due, and circuits' probes, as if the clock were set
$harm{clock_ahead} = sub { move_clock($_[0], "interval '-1 hour'"); return };
$harm{clock_back} = sub { move_clock($_[0], "interval '3 s'"); return };

# The clock that limits and counts go by stands still, up to an hour away, and comes back with a jump
$harm{freeze_clock} = sub {
	my ($h) = @_;
	my $seconds = int rand(7200) - 3600;

	my $then = $h->ask("SELECT now() + interval '$seconds s'");
	$h->ask("ALTER SYSTEM SET sentinai.test_clock = '$then'; SELECT pg_reload_conf()");
	push @{ $h->{undo} }, sub { $h->ask('ALTER SYSTEM RESET sentinai.test_clock; SELECT pg_reload_conf()') };
	return;
};

sub move_clock
{
	my ($h, $by) = @_;
	$h->ask("UPDATE sentinai.event_pending SET next_attempt_at = next_attempt_at + $by WHERE isfinite(next_attempt_at);"
		  . "UPDATE sentinai.circuit SET probe_at = probe_at + $by WHERE isfinite(probe_at)");
	return;
}

$harm{held_snapshot} = sub {
	my ($h) = @_;
	my $session = $h->{t}->session;
	$session->sql('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM app.effect');
	push @{ $h->{undo} }, sub { $session->close };
	return;
};

# Until a call has met it, or nothing came
$harm{disk_full} = sub {
	my ($h) = @_;
	my $stopped = sub { scalar(() = join('', map { $_->log } @{ $h->{workers} }) =~ /No space left on device/g) };
	my $before = $stopped->();

	Sentinai::Test::capture({}, 'dd', 'if=/dev/zero', "of=$h->{disk}/filler", 'bs=4k');
	$h->produce(Torture::Load::more_records($h, 100));
	wait_a_little(8, sub { $stopped->() > $before });
	$h->{stat}{full} += $stopped->() - $before;
	unlink "$h->{disk}/filler" or die "filler: $!";
	return;
};

# ---------------------------------------------------------------- a standby

# Synchronous: what has been committed is there. Asynchronous: the standby has fallen behind, and the last moments are
# taken back, effects and positions together; they are done again, under the same ids.
$harm{switch_over_sync} = sub { switch_over($_[0], 1); return };
$harm{switch_over_async} = sub { switch_over($_[0], 0); return };

sub switch_over
{
	my ($h, $synchronous) = @_;
	my $t = $h->{t};

	$h->stop_workers;
	$h->ask('SELECT 1');
	my $standby = $t->standby('standby-' . ++$h->{standbys});
	# workers know both, and take the one that can be written to
	$t->{worker_url} =~ s{\@[^/]+/}{\@127.0.0.1:$t->{port},127.0.0.1:$standby->{port}/};
	$_->{environment}{DATABASE_URL} = $t->{worker_url} for @{ $h->{workers} };
	if ($synchronous)
	{
		$h->ask(q{ALTER SYSTEM SET synchronous_standby_names = '*'});
		$h->ask(q{SELECT pg_reload_conf()});
		$t->wait_for_sql('SELECT count(*) FROM pg_stat_replication WHERE sync_state = $$sync$$', 1);
	}
	my $receiver = $standby->sql('SELECT pid FROM pg_stat_wal_receiver');
	kill STOP => $receiver if !$synchronous;
	my $before = $h->effects;
	$h->restart_dead;
	$h->produce(Torture::Load::more_records($h, 100));
	wait_a_little(10, sub { $h->effects > $before + 30 });
	$before = $h->effects;
	$t->cluster('destroy');
	kill KILL => $receiver if !$synchronous;
	$standby->cluster('promote');
	$t->move_to($standby);
	note_difference($h, $before, $synchronous);
	return;
}

sub note_difference
{
	my ($h, $before, $synchronous) = @_;
	my $taken_back = $before - $h->effects;

	note("    $before effects before, $taken_back of them taken back");
	cmp_ok($taken_back, '<=', 0, 'a synchronous standby has all that was committed') if $synchronous;
	$h->{stat}{taken_back} += $taken_back if $taken_back > 0;
	return;
}

# ---------------------------------------------------------------- the broker, and what lies there

$harm{kill_broker} = sub { my ($h) = @_; $h->{t}->kafka($_) for 'kill', 'start'; return };
$harm{grow_topic} = sub {
	my ($h) = @_;
	return if $h->{partitions} >= 8;
	$h->{t}->kafka('grow-topic', 'work', ++$h->{partitions});
	return;
};

# Kafka's retention overtakes the workers: what they had not read is gone, and they stop until somebody says so
$harm{delete_records} = sub {
	my ($h) = @_;
	my @more = Torture::Load::more_records($h, 40);

	$h->stop_workers;
	$h->produce(@more);
	Torture::Account::keep_records($h);
	my $ends = $h->log_ends;
	my $positions = $h->positions;
	my @behind = grep { $ends->{$_}[1] > ($positions->{$_} // 0) } sort keys %$ends;
	for my $partition ((shuffle @behind)[ 0 .. int rand @behind ])
	{
		my ($from, $to) = ($positions->{$partition} // 0, $ends->{$partition}[1]);
		my $upto = $from + 1 + int rand($to - $from);
		$h->{t}->kafka('delete-records', 'work', $partition, $upto);
		Torture::Account::mark_gone($h, $partition, $from, $upto);
	}
	$h->restart_dead;
	mend_gaps($h);
	return;
};

$harm{recreate_topic} = sub {
	my ($h) = @_;

	$h->stop_workers;
	Torture::Account::keep_records($h);
	my $positions = $h->positions;
	Torture::Account::mark_gone($h, $_, $positions->{$_} // 0, 1e15) for 0 .. $h->{partitions} - 1;
	$h->{t}->kafka('delete-topic', 'work');
	$h->{t}->wait_for('the topic to be made again', sub { eval { $h->{t}->topic(work => $h->{partitions}); 1 } });
	$h->{incarnation}++;
	$h->restart_dead;
	mend_gaps($h);
	return;
};

# As an operator would: gaps are open until offset_reset() closes them
sub mend_gaps
{
	my ($h) = @_;
	my $open = 'SELECT count(*) FROM sentinai.offset_gap WHERE resolved_at IS NULL';

	$h->{t}->wait_for('the gaps to be seen and mended', sub {
		$h->ask(q{SELECT count(*) FROM sentinai.offset_reset('work', 'work', dry_run => false, reason => 'torture')}) if $h->ask($open) > 0;
		my $ends = $h->log_ends;
		my $positions = $h->positions;
		return !grep { my $p = $positions->{$_} // 0; $p < $ends->{$_}[0] || $p > $ends->{$_}[1] } keys %$ends;
	});
	return;
}

# ---------------------------------------------------------------- operators

$harm{rotate_generations} = sub { my ($h) = @_; $h->ask('SELECT sentinai.dedupe_rotate(true)') for 1 .. 4; return };
$harm{forget_generations} = sub {
	my ($h) = @_;
	# as when the window is over; what is open must stay known
	$h->ask(q{UPDATE sentinai.dedupe_generation SET closed_at = now() - interval '30 days'
				WHERE closed_at IS NOT NULL AND generation < (SELECT newest - 2 FROM sentinai.dedupe_state)});
	$h->ask('SELECT sentinai.dedupe_rotate(false)') for 1 .. 2;
	return;
};
$harm{rotate_outbox} = sub { my ($h) = @_; $h->ask('SELECT sentinai.outbox_rotate(true)') for 1 .. 4; return };
$harm{bulk_retry} = sub { my ($h) = @_; $h->retry_dead_letters('true'); return };
$harm{suspend} = sub {
	my ($h) = @_;
	$h->ask("SELECT sentinai.tenant_suspend('" . some(@{ $h->{tenants} }) . "', 'torture')");
	return;
};
# More than the limit waits for its appointment, until the limit is lifted
$harm{limit_tenant} = sub {
	my ($h) = @_;
	my $tenant = some(@{ $h->{tenants} });
	$h->ask("SELECT sentinai.rate_limit_set('$tenant', 'events_ingested', 20, 1, reason => 'torture')");
	push @{ $h->{undo} }, sub { $h->ask("SELECT sentinai.rate_limit_delete('$tenant', 'events_ingested', 'torture')") };
	$h->produce(Torture::Load::more_records($h, 150));
	return;
};
$harm{open_circuit} = sub {
	my ($h) = @_;
	$h->ask(q{SELECT sentinai.circuit_open('work', '} . some(qw(Step Bulk)) . q{')});
	return;
};
$harm{close_circuits} = sub { $_[0]->close_circuits; return };
$harm{new_handler} = sub { $_[0]->ask(q{SELECT sentinai.handler_add('work', 'Other', 'app.on_other')}); return };
$harm{less_handlers} = sub {
	$_[0]->ask(q{SELECT count(sentinai.handler_remove(worker_type, event_type)) FROM sentinai.handler WHERE worker_type = 'work' AND event_type = 'Other'});
	return;
};

# The active publisher loses its session while its records are on their way: another one begins at the watermarks
$harm{two_publishers} = sub {
	my ($h) = @_;
	$h->ask(q{SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			   WHERE l.locktype = 'advisory' AND a.application_name LIKE 'sentinai-worker % publish%'});
	return;
};

# ---------------------------------------------------------------- the list

# Those that this house can be done
sub names
{
	my ($h) = @_;
	return grep { ($_ ne 'disk_full' || $h->{disk}) && ($_ ne 'at_point' || $h->{points}) } sort keys %harm;
}

sub do_harm
{
	my ($h, $name) = @_;

	die "there is no harm $name: @{[ names($h) ]}\n" if !$harm{$name};
	$harm{$name}->($h);
	$h->restart_dead;
	$h->{stat}{harms}++;
	$h->{stat}{by}{$name}++;
	return;
}

1;
