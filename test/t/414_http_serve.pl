# `make http`, as somebody has it who types it: the lines that it prints work as they are printed, and Ctrl-C ends all
# that was started.
use lib 'test/perl';
use Sentinai::Test;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep);

my $build = Sentinai::Test::run('scripts/build_dir');
my $dir = "$build/check/t/414_http_serve";
my $output = "$dir.out";
chomp(my $port = Sentinai::Test::run('bash', '-c', 'me=serve; source test/lib.sh; free_port'));
my ($pid, $status);

Sentinai::Test::run('mkdir', '-p', "$build/check/t");
unlink $output;		# an earlier run's would be read for this one's
$pid = fork() // die "fork: $!";
if (!$pid)
{
	POSIX::setpgid(0, 0);
	$SIG{$_} = 'DEFAULT' for qw(INT TERM);
	%ENV = (%ENV, SERVE_DIR => $dir, HTTP_PORT => $port);
	open STDIN, '<', '/dev/null';
	open STDOUT, '>', $output;
	open STDERR, '>&', \*STDOUT;
	exec 'test/http/serve' or POSIX::_exit(127);
}
wait_for(sub { said() =~ /Ctrl-C ends it/ || ended() }) || BAIL_OUT('it does not start');
ok(!ended(), 'it runs') or diag(said());

my @lines = grep { /^(?:export|curl) / } split /\n/, said();
my @curls = grep { /^curl/ } @lines;
cmp_ok(scalar @curls, '>=', 15, 'lines to try: ' . @curls);
my @exports = grep { /^export/ } @lines;
my @answers;
for my $line (@curls)
{
	my ($failed, $out, $err) = Sentinai::Test::capture({ input => join("\n",
		'curl() { command curl -sS --fail-with-body "$@"; }', @exports, $line) . "\n" }, 'bash', '-s');
	is($failed, 0, $line) or diag($out, $err);
	push @answers, $out;
}
like(join("\n", @answers), qr/$_/, "an answer has $_") for '"healthy"', 'events_processed_total', 'EVT_123', '"retrying"', '"discarded"', 'price_mismatch|severity is urgent';
is(scalar(grep { /^[{\[]/ } @answers), @curls - 2, 'each is JSON but the metrics and the report');

my @pids = map { (Sentinai::Test::slurp($_) =~ /^(\d+)/)[0] } "$dir/cluster/data/postmaster.pid", "$dir/kafka/kafka.pid", glob("$dir/http/*.pid");
is(scalar(grep { kill 0 => $_ } @pids), 4, 'four servers run');
kill INT => -$pid;
ok(wait_for(sub { ended() }), 'Ctrl-C ends it');
is($status >> 8, 130, 'with the status that says so') or diag(said());
ok(wait_for(sub { !grep { kill 0 => $_ } @pids }), 'no server is left');
ok(!-e "$dir/$_", "nor its folder: $_") for qw(cluster kafka http);

END { kill KILL => -$pid if $pid && !defined $status; }
done_testing();

sub said { return -e $output ? Sentinai::Test::slurp($output) : '' }

sub ended
{
	$status = $? if !defined $status && waitpid($pid, WNOHANG) == $pid;
	return defined $status;
}

sub wait_for
{
	my ($condition) = @_;
	my $end = time + $Sentinai::Test::wait_seconds;

	while (time < $end)
	{
		return 1 if $condition->();
		sleep 0.1;
	}
	diag(said());
	return 0;
}
