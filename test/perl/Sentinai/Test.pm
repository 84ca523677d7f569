package Sentinai::Test;

=head1 NAME

Sentinai::Test - a cluster, a broker and workers of a test's own

=head1 SYNOPSIS

  use Sentinai::Test;             # brings Test::More's functions, strict and warnings too

  my $t = Sentinai::Test->new(kafka => 1);        # a fresh cluster with the extension, a fresh broker
  $t->topic(exceptions => 6);
  my $w = $t->worker(WORKER_TYPE => 'intake', CONCURRENCY => 2);

  is($t->sql('SELECT 1 + 1'), '2', 'text of psql -XAt; dies when the SQL fails');
  my @rows = $t->rows('SELECT a, b FROM t');      # array references; undef for NULL
  my ($state, $text) = $t->sql_error('SELECT 1/0');        # ('22012', all of the message)

  $t->produce(exceptions => { key => 'T:E', value => $json, headers => [name => 'bytes'], partition => 0 });
  $t->wait_for_sql(q{SELECT count(*) FROM sentinai.exceptions}, '1');
  $t->wait_for('the worker to say so', sub { $w->log =~ /Initialized/ });
  for my $r ($t->records('exceptions')) { ... $r->{partition}, {offset}, {timestamp}, {key}, {value}, {headers} }

  my $s = $t->session;            # a psql that stays connected, for open transactions
  $s->sql('BEGIN'); $s->sql('SELECT ...'); $s->close;

  $w->stop;  $w->kill;  $w->start;                # SIGTERM and its status; SIGKILL; the same once more
  my ($status, $body) = $w->http('/healthz');
  my $h = $t->http;               # PostgREST and nginx on the cluster: see Sentinai::Http
  my $copy = $t->copy_cluster('copy');            # the same, on a base backup of the cluster
  my $s = $t->standby('standby');                 # the same, streaming; $s->cluster('promote'); $t->move_to($s)
  $t->program('pg_dump', '-f', $file, 'sentinai');
  $t->cluster('immediate'); $t->cluster('start'); # a command of test/cluster/cluster
  $t->kafka('kill'); $t->kafka('start');          # a command of test/kafka/kafka

  done_testing();

Nothing here sleeps for a fixed time: everything polls for a condition, at most WAIT_SECONDS (180). All that was started
ends with the test, whatever its end. After a failure the logs stay in build/check/t/NAME.

=cut

use strict;
use warnings;
use Carp qw(croak);
use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use File::Path qw(make_path remove_tree);
use IPC::Open2 qw(open2);
use POSIX qw(:sys_wait_h);
use Sentinai::Http;
use Test::More;
use Time::HiRes qw(sleep time);

our $top = abs_path(dirname(__FILE__) . '/../../..');
our $wait_seconds = $ENV{WAIT_SECONDS} // 180;
my @alive;    # tests whose servers run

# Whoever uses this has Test::More and a strict compiler too.
sub import
{
	strict->import;
	warnings->import;
	Test::More->export_to_level(1);
	binmode(Test::More->builder->$_, ':encoding(UTF-8)')
	  for qw(output failure_output todo_output);
	return;
}

# ---------------------------------------------------------------- the test's own house

# kafka => 1: with a broker; extension => 0: the database is empty; settings => 'a = b; c = d' for postgresql.conf;
# kafka_settings => 'a=b c=d' for the broker; server => 'pg-points': the one with named points (make points); name => where it lies, by default the test's file name
sub new
{
	my ($class, %option) = @_;
	my $build = run($top . '/scripts/build_dir');
	my $name = $option{name} // basename($0) =~ s/\.\w+$//r;
	my $self = bless {
		dir => "$build/check/t/$name",
		build => $build,
		option => \%option,
		workers => [],
		sessions => [],
	}, $class;

	push @alive, $self;
	$self->{cluster_dir} = "$self->{dir}/cluster";
	$self->{kafka_dir} = "$self->{dir}/kafka";
	$self->remove_leftovers;
	make_path($self->{dir});
	$self->start_servers;
	$self->read_environment;
	$self->create_extension if $option{extension} // 1;
	return $self;
}

# What an earlier run that failed has left to be looked at, copies included
sub remove_leftovers
{
	my ($self) = @_;

	for my $dir ("$self->{dir}", glob "$self->{dir}/*")
	{
		local $self->{cluster_dir} = "$dir/cluster";
		local $self->{kafka_dir} = "$dir/kafka";
		$self->destroy_servers;
	}
	remove_tree($self->{dir});
	return;
}

# Workers log in as what they will be in production: a member of sentinai_worker and of nothing else. A test sends as fast as
# it can; one about the rate of tenants sets it.
sub create_extension
{
	my ($self) = @_;
	my $password = unpack 'H*', join '', map { chr int rand 256 } 1 .. 16;

	$self->sql('CREATE EXTENSION sentinai');
	$self->sql(q{SELECT sentinai.rate_limit_type_set('events_ingested', 1000, 60, enabled => false)});
	$self->sql("CREATE ROLE regress_worker LOGIN PASSWORD '$password' IN ROLE sentinai_worker");
	$self->{worker_url} = $self->{url} =~ s{//[^@]*@}{//regress_worker:$password@}r;
	return;
}

# The broker takes longer, so it starts while the cluster does.
sub start_servers
{
	my ($self) = @_;
	my $kafka;

	if ($self->{option}{kafka})
	{
		$kafka = fork() // croak "fork: $!";
		if (!$kafka)
		{
			# the parent learns how it went by the status
			my $ok = eval { $self->kafka('start'); 1 };
			print STDERR $@ if !$ok;
			POSIX::_exit($ok ? 0 : 1);
		}
	}
	my $ok = eval { $self->cluster('start'); 1 };
	my $error = $@;
	if ($kafka)
	{
		waitpid($kafka, 0);
		croak 'the broker did not start' if $?;
		chomp($self->{bootstrap} = $self->kafka('bootstrap'));
	}
	croak $error if !$ok;
	return;
}

sub read_environment
{
	my ($self) = @_;

	chomp($self->{url} = $self->cluster('url'));
	chomp($self->{socket} = slurp("$self->{cluster_dir}/socket"));
	chomp($self->{port} = slurp("$self->{cluster_dir}/port"));
	($self->{bin}) = $self->cluster('env') =~ /^export PATH='([^']+)'/m;
	return;
}

sub cluster
{
	my ($self, @command) = @_;
	local $ENV{CLUSTER_DIR} = $self->{cluster_dir};
	local $ENV{CLUSTER_SETTINGS} = $self->{option}{settings} // '';
	local $ENV{PG_COPY} = $self->{option}{server} // $ENV{PG_COPY} // 'pg';
	make_path($self->{cluster_dir});
	return run("$top/test/cluster/cluster", @command);
}

sub kafka
{
	my ($self, @command) = @_;
	local $ENV{KAFKA_DIR} = $self->{kafka_dir};
	local $ENV{KAFKA_SETTINGS} = $self->{option}{kafka_settings} // '';
	make_path($self->{kafka_dir});
	return run("$top/test/kafka/kafka", @command);
}

# Another test object, on a base backup of this one's cluster
sub copy_cluster
{
	my ($self, $name) = @_;
	return $self->other_cluster($name, 'copy');
}

# The same, streaming from it
sub standby
{
	my ($self, $name) = @_;
	return $self->other_cluster($name, 'standby');
}

sub other_cluster
{
	my ($self, $name, $command) = @_;
	my $copy = bless {
		%$self,
		dir => "$self->{dir}/$name",
		cluster_dir => "$self->{dir}/$name/cluster",
		kafka_dir => "$self->{dir}/$name/kafka",
		http => undef,
		workers => [],
		sessions => [],
	}, ref $self;

	unshift @alive, $copy;		# ends before the one whose folder it lies in
	$copy->cluster($command, $self->{cluster_dir});
	$copy->cluster('start');
	$copy->read_environment;
	return $copy;
}

# From now on this test's cluster is the other's
sub move_to
{
	my ($self, $other) = @_;
	@$self{qw(cluster_dir socket port url)} = @$other{qw(cluster_dir socket port url)};
	return;
}

# A program of the server's (pg_dump, pgbench), as the superuser over the socket
sub program
{
	my ($self, $program, @arguments) = @_;
	return run("$self->{bin}/$program", '-h', $self->{socket}, '-p', $self->{port}, '-U', 'postgres', @arguments);
}

sub url { return $_[0]{url} }
sub bootstrap { return $_[0]{bootstrap} }
sub dir { return $_[0]{dir} }

sub destroy_servers
{
	my ($self) = @_;

	$self->end_http('destroy');
	$self->cluster('destroy') if -d $self->{cluster_dir};
	$self->kafka('destroy') if -d $self->{kafka_dir};
	return;
}

# Each HTTP surface that lies in the test's folder
sub end_http
{
	my ($self, $command) = @_;

	for my $dir (grep { -d } glob "$self->{dir}/http*")
	{
		local $ENV{HTTP_DIR} = $dir;
		run("$top/test/http/http", $command);
	}
	return;
}

sub finish
{
	my ($self, $failed) = @_;

	$_->close for @{ $self->{sessions} };
	for my $worker (@{ $self->{workers} })
	{
		$worker->kill if $worker->running;
	}
	if ($failed)
	{
		$self->show_logs;
		# the folders stay for whoever looks into it; the next run deletes them
		$self->end_http('kill');
		$self->cluster('kill') if -d $self->{cluster_dir};
		$self->kafka('kill') if -d $self->{kafka_dir};
	}
	else
	{
		$self->destroy_servers;
		remove_tree($self->{dir});
	}
	return;
}

sub show_logs
{
	my ($self) = @_;
	my @logs = ((map { $_->{log_file} } @{ $self->{workers} }), glob("$self->{dir}/http/*.log"), "$self->{cluster_dir}/log");

	for my $file (grep { -s } @logs)
	{
		my @lines = split /\n/, slurp($file);
		diag("---- last lines of $file");
		diag($_) for @lines > 40 ? @lines[-40 .. -1] : @lines;
	}
	return;
}

END
{
	my $status = $?;
	my $failed = $status || !Test::More->builder->is_passing;

	for my $test (splice @alive)
	{
		eval { $test->finish($failed); 1 } or do { diag("while ending: $@"); $status ||= 1; };
	}
	$? = $status;
}
$SIG{INT} = $SIG{TERM} = sub { exit 130 };

# ---------------------------------------------------------------- HTTP

# PostgREST and nginx on this cluster, started once; options as in Sentinai::Http::new
sub http
{
	my ($self, %option) = @_;
	return $self->{http} //= Sentinai::Http->new($self, %option);
}

# ---------------------------------------------------------------- SQL

sub psql_command
{
	my ($self, %option) = @_;
	return (
		"$self->{bin}/psql", '-X', '-q', '-h', $self->{socket}, '-p', $self->{port},
		'-U', $option{user} // 'postgres', '-d', $option{database} // 'sentinai');
}

# Both run the SQL as one script over stdin, so that \-commands work too.
sub sql
{
	my ($self, $sql, %option) = @_;
	my ($status, $out, $err) = $self->sql_status($sql, %option);

	croak "SQL failed: $err\n$sql" if $status;
	return $out;
}

sub sql_status
{
	my ($self, $sql, %option) = @_;
	my ($status, $out, $err) = capture(
		{ input => $sql },
		$self->psql_command(%option), '-At', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose',
		@{ $option{args} // [] });

	chomp $out;
	return ($status, $out, $err);
}

sub rows
{
	my ($self, $sql, %option) = @_;
	my $out = $self->sql($sql, %option, args => [ '-F', "\x1f", '-R', "\x1e", '-P', 'null=' . "\x1d" ]);

	return map {
		[ map { $_ eq "\x1d" ? undef : $_ } split /\x1f/, $_, -1 ]
	} split /\x1e/, $out;
}

# (SQLSTATE, the whole message) of what must fail
sub sql_error
{
	my ($self, $sql, %option) = @_;
	my ($status, $out, $err) = $self->sql_status($sql, %option);

	croak "SQL was expected to fail, and answered: $out\n$sql" if !$status;
	my ($state) = $err =~ /(?:ERROR|FATAL):\s+(\w{5}):/;
	return ($state // '', $err);
}

sub session
{
	my ($self, %option) = @_;
	my $session = Sentinai::Test::Session->new($self->psql_command(%option));

	push @{ $self->{sessions} }, $session;
	return $session;
}

# ---------------------------------------------------------------- waiting

# Until the condition holds; that it dies (a server on its way up, a broker that says "not now") counts as not yet.
sub wait_for
{
	my ($self, $what, $condition) = @_;
	my $end = time + $wait_seconds;

	while (1)
	{
		my $answer = eval { $condition->() };
		return $answer if $answer;
		if (time > $end)
		{
			fail("waited $wait_seconds s in vain for $what");
			croak "waited $wait_seconds s in vain for $what", $@ ? ": $@" : '';
		}
		sleep 0.05;
	}
	return;
}

# Until the SQL answers what is wanted. An error counts as another answer, so that a server may be on its way up.
sub wait_for_sql
{
	my ($self, $sql, $wanted, %option) = @_;
	my $end = time + $wait_seconds;
	my $last;

	while (1)
	{
		my ($status, $out, $err) = $self->sql_status($sql, %option);
		$last = $status ? $err : $out;
		return pass($option{name}) && 1 if !$status && $out eq $wanted && $option{name};
		return 1 if !$status && $out eq $wanted;
		last if time > $end;
		sleep 0.05;
	}
	fail($option{name} // 'waited for SQL');
	diag("waited $wait_seconds s in vain for: $sql\nwanted: $wanted\nlast answer: $last");
	croak 'no use in going on';
}

# ---------------------------------------------------------------- Kafka

sub topic
{
	my ($self, $name, $partitions, @settings) = @_;
	$self->kafka('topic', $name, $partitions, @settings);
	return;
}

# Records are { value => bytes, key => bytes, partition => number, headers => [name => bytes, ...] }; undef is null, and
# without a partition the key decides. One call, one producer, in order.
sub produce
{
	my ($self, $topic, @records) = @_;
	my $input = '';

	for my $record (@records)
	{
		my @headers = @{ $record->{headers} // [] };
		my @fields = ($record->{partition} // -1, hex_or_dash($record->{key}), hex_or_dash($record->{value}));
		while (my ($name, $value) = splice @headers, 0, 2)
		{
			push @fields, "$name=" . hex_or_dash($value);
		}
		$input .= join("\t", @fields) . "\n";
	}
	return $self->kafka_with($input, 'produce', $topic);
}

# Until the group has read all that its topic has
sub wait_read
{
	my ($self, $group, $topic) = @_;

	$self->wait_for("$group to have read $topic", sub {
		my %end = $self->kafka('offsets', $topic) =~ /^(\d+)\t\d+\t(\d+)$/mg;
		my %at = map { @$_ } $self->rows("SELECT partition, next_offset FROM sentinai.kafka_offset WHERE group_id = '$group' AND topic = '$topic'");
		return !grep { ($at{$_} // 0) < $end{$_} } keys %end;
	});
	return;
}

# Until it has no members: one that could not say good-bye is missed after its session.timeout.ms
sub wait_left
{
	my ($self, $group) = @_;
	$self->wait_for("$group to be empty", sub { $self->kafka('describe', $group) =~ /(?:Empty|Dead), 0 members/ });
	return;
}

# All records of a topic, by partition and offset
sub records
{
	my ($self, $topic) = @_;
	my @records;

	for my $line (split /\n/, $self->kafka('consume', $topic))
	{
		my ($partition, $offset, $timestamp, $key, $value, @headers) = split /\t/, $line, -1;
		push @records, {
			partition => $partition,
			offset => $offset,
			timestamp => $timestamp,
			key => from_hex($key),
			value => from_hex($value),
			headers => [ map { my ($n, $v) = /^(.*)=(.*)$/s; ($n, from_hex($v)) } @headers ],
		};
	}
	return @records;
}

sub kafka_with
{
	my ($self, $input, @command) = @_;
	local $ENV{KAFKA_DIR} = $self->{kafka_dir};
	my ($status, $out, $err) = capture({ input => $input }, "$top/test/kafka/kafka", @command);

	croak "kafka @command failed: $out$err" if $status;
	return $out;
}

# kcat with the broker's address; standard input from the first argument
sub kcat
{
	my ($self, $input, @arguments) = @_;
	my ($status, $out, $err) = capture({ input => $input }, 'kcat', '-b', $self->{bootstrap}, @arguments);

	croak "kcat @arguments failed: $out$err" if $status;
	return $out;
}

sub hex_or_dash { return defined $_[0] ? unpack('H*', encoded($_[0])) : '-' }
sub from_hex { return $_[0] eq '-' ? undef : pack('H*', $_[0]) }

# Text with characters above 255 can only be meant as UTF-8
sub encoded
{
	my ($bytes) = @_;
	utf8::encode($bytes) if !utf8::downgrade($bytes, 1);
	return $bytes;
}

# ---------------------------------------------------------------- workers

# A running sentinai-worker with these environment variables beside DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS, HTTP_ADDRESS and
# HTTP_PORT. A key "name" gives its log a name.
sub worker
{
	my ($self, %environment) = @_;
	my $name = delete $environment{name} // ($environment{WORKER_TYPE} // 'worker') . '-' . (1 + @{ $self->{workers} });
	my $worker = Sentinai::Test::Worker->new(
		log_file => "$self->{dir}/$name.log",
		environment => {
			DATABASE_URL => $self->{worker_url} // $self->{url},
			HTTP_ADDRESS => '127.0.0.1',
			HTTP_PORT => $self->free_port,
			KAFKA_BOOTSTRAP_SERVERS => $self->{bootstrap},
			%environment,
		});

	push @{ $self->{workers} }, $worker;
	$worker->start;
	return $worker;
}

sub free_port
{
	my ($self) = @_;
	local $ENV{dir} = $self->{dir};
	return run('bash', '-c', "source '$top/test/lib.sh'; free_port") =~ s/\s//gr;
}

# ---------------------------------------------------------------- processes and files

sub slurp
{
	my ($file) = @_;
	open my $handle, '<', $file or croak "$file: $!";
	local $/ = undef;
	return scalar(<$handle>) // '';
}

# Runs a command that must succeed, and returns its output
sub run
{
	my (@command) = @_;
	my ($status, $out, $err) = capture({}, @command);

	croak "@command: status $status\n$out$err" if $status;
	chomp $out if @command == 1;
	return $out;
}

# (status, stdout, stderr) of a command. Files carry the input and the errors, so that no pipe can fill up.
sub capture
{
	my ($option, @command) = @_;
	open my $in, '+>', undef or croak "temporary file: $!";
	open my $out, '+>', undef or croak "temporary file: $!";
	open my $err, '+>', undef or croak "temporary file: $!";

	binmode $_ for $in, $out, $err;
	print {$in} encoded($option->{input} // '');
	seek $in, 0, 0;
	my $pid = fork() // croak "fork: $!";
	if (!$pid)
	{
		open STDIN, '<&', $in or POSIX::_exit(126);
		open STDOUT, '>&', $out or POSIX::_exit(126);
		open STDERR, '>&', $err or POSIX::_exit(126);
		{ no warnings 'exec'; exec { $command[0] } @command; }
		print STDERR "$command[0]: $!\n";
		POSIX::_exit(127);
	}
	waitpid $pid, 0;
	my $status = $?;
	seek $_, 0, 0 for $out, $err;
	local $/ = undef;
	return ($status, scalar(<$out>) // '', scalar(<$err>) // '');
}

# ================================================================ a session that stays

package Sentinai::Test::Session;

use strict;
use warnings;
use Carp qw(croak);

my $serial = 0;

sub new
{
	my ($class, @command) = @_;
	my $pid = IPC::Open2::open2(my $out, my $in, 'sh', '-c', 'exec "$@" 2>&1', 'sh', @command, '-At');

	$in->autoflush(1);
	return bless { pid => $pid, in => $in, out => $out }, $class;
}

# The answer, errors included
sub sql
{
	my ($self, $sql) = @_;
	$self->send($sql);
	return $self->answer;
}

# The two halves, for what is going to wait for a lock
sub send
{
	my ($self, $sql) = @_;
	$self->{marker} = '-- answered ' . ++$serial;
	print { $self->{in} } "$sql\n;\n\\echo '$self->{marker}'\n";
	return;
}

sub answer
{
	my ($self) = @_;
	my @lines;

	while (defined(my $line = readline $self->{out}))
	{
		chomp $line;
		return join "\n", @lines if $line eq $self->{marker};
		push @lines, $line;
	}
	return join "\n", @lines, '(connection closed)';
}

sub close
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	close $self->{in};
	kill KILL => $pid;
	waitpid $pid, 0;
	return;
}

# ================================================================ a worker

package Sentinai::Test::Worker;

use strict;
use warnings;
use Carp qw(croak);
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(sleep time);

sub new
{
	my ($class, %self) = @_;
	return bless {%self}, $class;
}

sub start
{
	my ($self) = @_;
	my $program = "$Sentinai::Test::top/worker/sentinai-worker";

	croak "there is no $program: run 'make'" if !-x $program;
	my $started_at = length $self->log;
	my $pid = fork() // croak "fork: $!";
	if (!$pid)
	{
		%ENV = (%ENV, %{ $self->{environment} });
		open STDIN, '<', '/dev/null' or POSIX::_exit(126);
		open STDOUT, '>>', $self->{log_file} or POSIX::_exit(126);
		open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
		exec {$program} $program or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	$self->{started_at} = $started_at;
	delete $self->{status};
	return;
}

sub pid { return $_[0]{pid} }
sub log { return -e $_[0]{log_file} ? Sentinai::Test::slurp($_[0]{log_file}) : '' }

sub running
{
	my ($self) = @_;
	return 0 if defined $self->{status} || !$self->{pid};
	return 1 if waitpid($self->{pid}, WNOHANG) == 0;
	$self->{status} = $?;
	return 0;
}

# Waits for its end and returns the status as in $?
sub wait
{
	my ($self) = @_;
	my $end = time + $Sentinai::Test::wait_seconds;

	while ($self->running)
	{
		croak "the worker has not ended within $Sentinai::Test::wait_seconds s" if time > $end;
		sleep 0.02;
	}
	return $self->{status};
}

sub signal { my ($self, $name) = @_; return CORE::kill($name => $self->{pid}) }
sub stop { my ($self) = @_; $self->signal('TERM'); return $self->wait }
sub kill { my ($self) = @_; $self->signal('KILL'); return $self->wait }

# Until the log has it, since the last start; the match's first group, or the match
sub wait_log
{
	my ($self, $pattern) = @_;
	my $end = time + $Sentinai::Test::wait_seconds;

	while (1)
	{
		my $running = $self->running;
		return $1 // $& if substr($self->log, $self->{started_at}) =~ $pattern;
		croak "the worker ended (status $self->{status}) before its log had $pattern:\n" . $self->log if !$running;
		croak "waited $Sentinai::Test::wait_seconds s in vain for $pattern in $self->{log_file}" if time > $end;
		sleep 0.05;
	}
}

# (status, body) of its HTTP port, which the log names
sub http
{
	my ($self, $path) = @_;
	my $port = $self->wait_log(qr/http[_ ]port[= ](\d+)/i);
	my ($status, $out, $err) = Sentinai::Test::capture({}, 'curl', '-sS', '-m', 30, '-w', "\n%{http_code}",
		"http://127.0.0.1:$port$path");

	return (0, $err) if $status;
	my ($body, $code) = $out =~ /^(.*)\n(\d+)\z/s;
	return ($code, $body);
}

1;
