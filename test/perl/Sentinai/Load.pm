package Sentinai::Load;

=head1 NAME

Sentinai::Load - a topic full of events, the worker that empties it, and an account of what that took

=head1 SYNOPSIS

  use Sentinai::Load;

  my $load = Sentinai::Load->new($t, events => 100_000);
  $load->prepare;                               # topic, tenants, worker type, a handler that does nothing
  $load->fill('load', 'load', 1, 100_000, 'LoadArrived');
  my $run = $load->run(processors => 2);        # { seconds, per_second, client_us, server_us, wal, ... }

Events are logged, claimed, and given to a set-based handler that does nothing. CPU times are those of all threads of the
client (the worker, or who does its work) and of all processes of the server, in microseconds an event.

=cut

use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use POSIX ();
use Sentinai::Test;
use Time::HiRes qw(sleep time);

use constant PARTITIONS => 4;

# No checkpoint falls into one candidate's run and spares the next: empty_tables() makes them.
our $settings = 'max_wal_size = 8GB; checkpoint_timeout = 1h';

# events => of a run; batch => records of a call, by default the worker's own default
sub new
{
	my ($class, $t, %option) = @_;
	my $self = bless { t => $t, watch => $t->session, %option }, $class;

	$self->{watch_pid} = $self->{watch}->sql('SELECT pg_backend_pid()');
	$self->{environment} = defined $self->{batch} ? { BATCH => $self->{batch} } : {};
	$self->{batch} //= default_batch();
	return $self;
}

sub batch { return $_[0]{batch} }
sub watch { return $_[0]{watch} }

sub default_batch
{
	my ($default) = Sentinai::Test::slurp("$Sentinai::Test::top/worker/config.c") =~ /"BATCH",.*?OPTION_INTEGER, "(\d+)"/;
	return $default;
}

sub prepare
{
	my ($self) = @_;
	my $tenants = join ', ', map { sprintf q{tenant_add('TENANT_%03d')}, $_ } 1 .. 8;

	$self->{t}->topic(load => PARTITIONS);
	$self->{t}->sql(<<"SQL");
SET search_path = sentinai, public;
SELECT $tenants;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
CREATE FUNCTION app.nothing(e sentinai.event[]) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
SELECT event_type_add('LoadArrived');
SELECT worker_type_add('load', 'load');
SELECT handler_add('load', 'LoadArrived', 'app.nothing');
SQL
	return;
}

# ---------------------------------------------------------------- events

# An id that says nothing of the order, as a producer's uuid
sub id_of { return substr md5_hex(join ':', @_), 0, 24 }

sub payload
{
	my $note = 'x' x 250;
	return qq({"type": "price_mismatch", "severity": "low", "amount": 1200.50, "source_system": "trading", "note": "$note"});
}

# Events number from .. to of a series, spread over 8 tenants, a millisecond apart
sub fill
{
	my ($self, $topic, $series, $from, $to, $type) = @_;
	my $file = "$self->{t}{dir}/$topic.records";
	my $payload = payload();

	open my $out, '>', $file or die "$file: $!";
	for my $i ($from .. $to)
	{
		my $tenant = sprintf 'TENANT_%03d', 1 + $i % 8;
		my $exception = 'EXC_' . id_of('x', $series, $i);
		my $event = 'EVT_' . id_of('e', $series, $i);
		my $at = POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime(1_736_935_200 + $i / 1000)) . sprintf '.%03dZ', $i % 1000;

		print {$out} qq($tenant:$exception\t{"event_id": "$event", "event_type": "$type", "tenant_id": "$tenant", )
		  . qq("exception_id": "$exception", "timestamp": "$at", "payload": $payload}\n);
	}
	close $out;
	$self->{t}->kcat('', '-P', '-t', $topic, '-K', "\t", '-X', 'topic.partitioner=murmur2_random', '-X', 'linger.ms=20', '-l', $file);
	unlink $file;
	return;
}

# ---------------------------------------------------------------- accounts

# CPU microseconds that each process has used, by its threads' accounts
sub cpu_of
{
	my (@pids) = @_;
	my %used;

	for my $pid (@pids)
	{
		for my $task (glob "/proc/$pid/task/*/schedstat")
		{
			open my $file, '<', $task or next;
			my ($ns) = split ' ', <$file> // '0';
			$used{$pid} += $ns / 1000;
		}
	}
	return \%used;
}

sub postmaster
{
	my ($self) = @_;
	my ($pid) = split /\n/, Sentinai::Test::slurp("$self->{t}{cluster_dir}/data/postmaster.pid");
	return $pid;
}

# CPU microseconds of the server's processes that have ended
sub cpu_of_ended
{
	my ($self) = @_;
	my $postmaster = $self->postmaster;
	my @field = split ' ', Sentinai::Test::slurp("/proc/$postmaster/stat") =~ s/^.*\) //sr;
	return ($field[13] + $field[14]) * 1e6 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# The server's processes but the one that watches
sub server_pids
{
	my ($self) = @_;
	my $postmaster = $self->postmaster;
	return grep { $_ != $self->{watch_pid} } split ' ', `ps -o pid= --ppid $postmaster`;
}

# Until these have ended, and their parent has their account
sub wait_for_end_of
{
	my ($self, @pids) = @_;
	my %pid = map { $_ => 1 } @pids;
	my $end = time + 10;
	sleep 0.01 while time < $end && grep { $pid{$_} } $self->server_pids;
	return;
}

sub wal_position
{
	my ($self) = @_;
	return $self->{watch}->sql(q{SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')});
}

sub account
{
	my ($self, @clients) = @_;
	return { server => cpu_of($self->server_pids), client => cpu_of(@clients), wal => $self->wal_position };
}

sub spent
{
	my ($before, $after, $who) = @_;
	my $sum = 0;

	$sum += $after->{$who}{$_} - ($before->{$who}{$_} // 0) for keys %{ $after->{$who} };
	return $sum;
}

# Polls the counter, a function, until it is at least n
sub reach
{
	my ($what, $n, $pause, $counter) = @_;
	my $end = time + $Sentinai::Test::wait_seconds;
	my $now;

	sleep $pause until ($now = $counter->()) >= $n || time > $end;
	die "only $now of $n $what in time" if $now < $n;
	return $now;
}

# What happens between two values of a counter: from the first that is at least $from until it is $n. $nearly is waited for
# in between, where asking the counter costs something.
sub measure
{
	my ($self, %option) = @_;
	my ($counter, $n) = @option{qw(counter n)};
	my $first = reach('were handled', $option{from} // 1, $option{pause} // 0.005, $counter);
	my $since = time;
	my $before = $self->account(@{ $option{clients} });

	$option{nearly}->($first) if $option{nearly};
	reach('were handled', $n, $option{pause} // 0.005, $counter);
	my $run = { seconds => time - $since, events => $n - $first };
	my $after = $self->account(@{ $option{clients} });
	$run->{per_second} = $run->{events} / $run->{seconds};
	$run->{client_us} = spent($before, $after, 'client') / $run->{events};
	$run->{server_us} = spent($before, $after, 'server') / $run->{events};
	$run->{wal} = ($after->{wal} - $before->{wal}) / $run->{events};
	return $run;
}

# A counter that is a query
sub counter
{
	my ($self, $sql) = @_;
	return sub { $self->{watch}->sql($sql) };
}

# ---------------------------------------------------------------- a run

sub empty_tables
{
	my ($self) = @_;
	$self->{t}->sql('TRUNCATE sentinai.event_log, sentinai.event_processing_log; CHECKPOINT');
	return;
}

sub logged_and_claimed
{
	my ($self, $what) = @_;
	is($self->{t}->sql('SELECT (SELECT count(*) FROM sentinai.event_log), (SELECT count(*) FROM sentinai.event_processing_log)'),
		"$self->{events}|$self->{events}", $what);
	return;
}

# Index entries written an event since pg_stat_reset(), by sessions that have ended; the partial indexes are of what is rare
sub index_entries
{
	my ($self, $n) = @_;
	return $self->{t}->sql(
		"SELECT sum((n_tup_ins + n_tup_upd - n_tup_hot_upd) * (SELECT count(*) FROM pg_index WHERE indrelid = relid AND indpred IS NULL)) / $n.0
		   FROM pg_stat_all_tables WHERE schemaname = 'sentinai'");
}

# All of the topic with an empty log; processors => n, held => beside an open snapshot, from => counted from this event on
sub run
{
	my ($self, %option) = @_;
	my $t = $self->{t};
	my $position = q{SELECT coalesce(sum(next_offset), 0) FROM sentinai.kafka_offset WHERE topic = 'load'};
	my $snapshot;

	$self->empty_tables;
	$t->sql(q{SELECT sentinai.offset_reset('load', 'load', NULL, 0, false)}) if $t->sql($position) > 0;
	$t->sql('SELECT pg_stat_reset()');
	if ($option{held})
	{
		$snapshot = $t->session;
		$snapshot->sql('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current()');
	}
	my $worker = $t->worker(WORKER_TYPE => 'load', CONCURRENCY => $option{processors}, name => 'load', %{ $self->{environment} });
	my $run = $self->measure(
		clients => [ $worker->pid ], counter => $self->counter($position), from => $option{from}, n => $self->{events});
	$worker->stop;
	$snapshot->close if $option{held};
	$self->logged_and_claimed('every event is logged and claimed once');
	$run->{entries} = $self->index_entries($self->{events});
	return $run;
}

1;
