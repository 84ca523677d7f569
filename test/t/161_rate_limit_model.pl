# Random calls to rate limits, at random times (the clock steps back too), between random changes of settings, answer as a plain
# model of what docs/rate-limits.md says (test/perl/Sentinai/RateLimitModel.pm). A difference is shrunk to few calls and printed.
#
# MODEL_SEEDS="1 2 3"  which sequences
# MODEL_CALLS          how many calls each has, 2000
use Sentinai::RateLimitModel;
use Sentinai::Test;
use POSIX qw(strftime);

my $t = Sentinai::Test->new(settings => 'sentinai.rate_limit_time_zone = Europe/Berlin');
my @seeds = split ' ', $ENV{MODEL_SEEDS} // '1 2 3';
my $calls = $ENV{MODEL_CALLS} // 2000;
my $second = 1_000_000;
my $epoch = 946_684_800;    # 2000 in UTC, which our microseconds count from
my $begin = (1_774_656_000 - $epoch) * $second;    # 2026-03-28, the day before one with 23 hours
my @midnights = map { $_->[0] } $t->rows(
	"SELECT (extract(epoch FROM d AT TIME ZONE 'Europe/Berlin') * 1000000)::bigint - ${epoch}000000"
	  . q{ FROM generate_series(timestamp '2025-01-01', timestamp '2029-01-01', '1 day') d});
my @lengths = (1, 2, 7, 60, 60, 60, 3600, 5000, 86_399, 86_400, 86_400);
my @limits = (1, 2, 3, 5, 10, 10, 100, 1000, 1_000_000);
my $runs = 0;

# ---------------------------------------------------------------- random calls

sub one_of { return $_[ int rand @_ ] }

sub next_time
{
	my ($now) = @_;
	my $way = rand;

	return $now if $way < 0.2;
	return $now + int rand(3 * $second) if $way < 0.5;
	return $now + int rand(90 * $second) if $way < 0.65;
	return edge_after($now) + one_of(-1, 0, 1) if $way < 0.85;
	return $now + int rand(5 * 3600 * $second) if $way < 0.9;
	return $now + int rand(50 * 3600 * $second) if $way < 0.92;
	return $now - int rand(3 * $second) if $way < 0.96;
	return $now - int rand(200 * $second) if $way < 0.985;
	return $now - int rand(60 * 3600 * $second);
}

# Where a window ends, of a length that limits have
sub edge_after
{
	my ($now) = @_;
	my $length = one_of(@lengths);

	return (grep { $_ > $now } @midnights)[0] if $length == 86_400;
	return $now - $now % ($length * $second) + $length * $second;
}

sub random_config
{
	return { limit => one_of(@limits), seconds => one_of(@lengths), enabled => rand() < 0.85 ? 1 : 0 };
}

sub random_cost { return one_of(1, 1, 1, 1, 1, 2, 3, 5, 10, 11, 100, 1_000, 1_000_001, 0, -1) }

# Tenants and types are numbers: a run gives them names of its own.
sub random_call
{
	my ($now) = @_;
	my %call = (now => $now, tenant => int rand 4, type => int rand 3, cost => random_cost());
	my $way = rand;

	$call{what} =
		$way < 0.45 ? 'check'
	  : $way < 0.55 ? 'allowed'
	  : $way < 0.7 ? 'peek'
	  : $way < 0.78 ? 'check_all'
	  : $way < 0.85 ? 'refund'
	  : $way < 0.88 ? 'check_batch'
	  : $way < 0.90 ? 'reset'
	  : $way < 0.95 ? 'set'
	  : $way < 0.965 ? 'delete'
	  : $way < 0.98 ? 'type_set'
	  : 'inside';
	$call{config} = random_config();
	$call{costs} = [ map { random_cost() } 0 .. 2 ];
	return \%call;
}

sub random_calls
{
	my ($seed) = @_;
	my $now = $begin;
	my @list;

	srand $seed;
	for (1 .. $calls)
	{
		$now = next_time($now);
		push @list, random_call($now);
	}
	return @list;
}

# ---------------------------------------------------------------- what the server answers

sub shown_time
{
	my ($now) = @_;
	my $seconds = int($now / $second);
	return sprintf '%s.%06d+00', strftime('%Y-%m-%d %H:%M:%S', gmtime($seconds + $epoch)), $now - $seconds * $second;
}

my $columns = 'allowed, "limit", current, remaining, retry_after, '
  . "(extract(epoch FROM reset_at) * 1000000)::bigint - ${epoch}000000";

sub settings_of { my ($config) = @_; return "$config->{limit}, $config->{seconds}, " . ($config->{enabled} ? 'true' : 'false') }

my %sql = (
	check => sub { my ($c, $tenant, $type) = @_; "SELECT $columns FROM rate_limit_check('$tenant', '$type', $c->{cost});" },
	allowed => sub { my ($c, $tenant, $type) = @_; "SELECT rate_limit_allowed('$tenant', '$type', $c->{cost});" },
	peek => sub { my ($c, $tenant, $type) = @_; "SELECT $columns FROM rate_limit_peek('$tenant', '$type', $c->{cost});" },
	refund => sub { my ($c, $tenant, $type) = @_; "SELECT 'done' FROM rate_limit_refund('$tenant', '$type', $c->{cost});" },
	reset => sub { my ($c, $tenant, $type) = @_; "SELECT 'done' FROM rate_limit_reset('$tenant', '$type', 'model');" },
	delete => sub { my ($c, $tenant, $type) = @_; "SELECT 'done' FROM rate_limit_delete('$tenant', '$type');" },
	set => sub { my ($c, $tenant, $type) = @_; "SELECT 'done' FROM rate_limit_set('$tenant', '$type', @{[ settings_of($c->{config}) ]});" },
	type_set => sub { my ($c, $tenant, $type) = @_; "SELECT 'done' FROM rate_limit_type_set('$type', @{[ settings_of($c->{config}) ]});" },
	inside => sub {
		my ($c, $tenant, $type) = @_;
		my $set = "SELECT 'done' FROM rate_limit_set('$tenant', '$type', @{[ settings_of($c->{config}) ]});";
		my $check = "SELECT $columns FROM rate_limit_check('$tenant', '$type', @{[ abs $c->{cost} || 1 ]});";
		return "BEGIN; $set SAVEPOINT s; $check ROLLBACK TO s; " . ($c->{cost} % 2 ? 'COMMIT;' : 'ROLLBACK;');
	},
	check_all => sub {
		my ($c, $tenant, $type, $names) = @_;
		my ($types, $costs) = map { join ',', @$_ } $names->{types}, $c->{costs};
		return "SELECT limit_type, $columns FROM rate_limit_check_all('$tenant', '{$types}', '{$costs}');";
	},
	check_batch => sub {
		my ($c, $tenant, $type, $names) = @_;
		my ($tenants, $costs) = map { join ',', @$_ } [ @{ $names->{tenants} }[ 0 .. 2 ] ], [ map { abs || 1 } @{ $c->{costs} } ];
		return "SELECT n, $columns FROM rate_limit_check_batch('{$tenants}', '$type', '{$costs}') ORDER BY n;";
	},
);

# One answer a call: its lines, errors as their SQLSTATE
sub server_answers
{
	my ($names, @list) = @_;
	my $script = "SET search_path = sentinai, public;\n\\set VERBOSITY sqlstate\n";

	for my $call (@list)
	{
		my $time = shown_time($call->{now});
		my $sql = $sql{ $call->{what} }->($call, $names->{tenants}[ $call->{tenant} ], $names->{types}[ $call->{type} ], $names);
		$script .= "SET sentinai.test_clock = '$time';\n\\echo \@\n$sql\n";
	}
	my ($status, $out) = Sentinai::Test::capture({ input => $script }, 'sh', '-c', 'exec "$@" 2>&1', 'sh', $t->psql_command, '-At');
	my (undef, @answers) = split /^\@\n/m, $out;
	return map { s/^ERROR:  (\w+).*/$1/mgr =~ s/\n\z//r } @answers;
}

# ---------------------------------------------------------------- what the model answers

my @fields = qw(allowed limit current remaining retry_after reset_at);

sub line_of { my ($answer, @first) = @_; return join '|', @first, @$answer{@fields} }

sub decide
{
	my ($model, $how, $tenant, $type, $cost, $now) = @_;

	return 'SN001' if $cost < 1;
	my $answer = $model->$how($tenant, $type, $cost, $now) // return 'SN042';
	return line_of($answer);
}

my %model = (
	check => sub { my ($m, $c, $tenant, $type) = @_; decide($m, 'check', $tenant, $type, $c->{cost}, $c->{now}) },
	allowed => sub { my ($m, $c, $tenant, $type) = @_; decide($m, 'check', $tenant, $type, $c->{cost}, $c->{now}) =~ s/\|.*//r },
	peek => sub { my ($m, $c, $tenant, $type) = @_; decide($m, 'peek', $tenant, $type, $c->{cost}, $c->{now}) },
	refund => sub {
		my ($m, $c, $tenant, $type) = @_;
		return 'SN001' if $c->{cost} < 1;
		$m->refund($tenant, $type, $c->{cost}, $c->{now});
		return 'done';
	},
	reset => sub { my ($m, $c, $tenant, $type) = @_; $m->forget($tenant, $type); 'done' },
	set => sub { my ($m, $c, $tenant, $type) = @_; $m->set_config($tenant, $type, $c->{config}); 'done' },
	delete => sub { my ($m, $c, $tenant, $type) = @_; $m->set_config($tenant, $type, undef); 'done' },
	type_set => sub { my ($m, $c, $tenant, $type) = @_; $m->set_type($type, $c->{config}); 'done' },
	inside => sub {
		my ($m, $c, $tenant, $type) = @_;
		my $answer = $m->check_inside($tenant, $type, $c->{config}, abs $c->{cost} || 1, $c->{now}, $c->{cost} % 2 == 0);
		return "done\n" . ($answer ? line_of($answer) : 'SN042');
	},
	check_all => sub {
		my ($m, $c, $tenant, $type, $names) = @_;
		my @types = @{ $names->{types} };

		return 'SN001' if grep { $_ < 1 } @{ $c->{costs} };
		my $answer = $m->check_all($tenant, \@types, $c->{costs}, $c->{now}) // return 'SN042';
		return line_of($answer, $answer->{limit_type});
	},
	check_batch => sub {
		my ($m, $c, $tenant, $type, $names) = @_;
		my @lines;

		for my $i (0 .. 2)
		{
			my $line = decide($m, 'check', $names->{tenants}[$i], $type, abs($c->{costs}[$i]) || 1, $c->{now});
			return $line if $line =~ /^SN/;
			push @lines, $i + 1 . "|$line";
		}
		return join "\n", @lines;
	},
);

sub model_answers
{
	my ($names, @list) = @_;
	my $model = Sentinai::RateLimitModel->new(midnights => \@midnights);

	$model->set_type($_ => { limit => 10, seconds => 60, enabled => 1 }) for @{ $names->{types} };
	return map {
		$model{ $_->{what} }->($model, $_, $names->{tenants}[ $_->{tenant} ], $names->{types}[ $_->{type} ], $names)
	} @list;
}

# ---------------------------------------------------------------- comparing

# Names that no run had before, so that it begins at zero
sub new_names
{
	my $run = ++$runs;
	my $names = { tenants => [ map { "m${run}_$_" } 'a' .. 'd' ], types => [ map { "m${run}_$_" } 'x' .. 'z' ] };
	my $sql = join ', ', (map { "tenant_add('$_')" } @{ $names->{tenants} }), map { "rate_limit_type_set('$_', 10)" } @{ $names->{types} };

	$t->sql("SET search_path = sentinai, public; SELECT $sql");
	return $names;
}

# (number of the first call that differs, both answers), or nothing
sub difference
{
	my (@list) = @_;
	my $names = new_names();
	my @server = server_answers($names, @list);
	my @model = model_answers($names, @list);

	for my $i (0 .. $#list)
	{
		return ($i, $server[$i] // 'nothing', $model[$i]) if ($server[$i] // '') ne $model[$i];
	}
	return;
}

# Leaves calls out, larger parts first, as long as a difference stays
sub shrink
{
	my (@list) = @_;
	my $part = int(@list / 2);

	while ($part >= 1)
	{
		for (my $i = 0; $i < @list && $runs < 600;)
		{
			my @fewer = @list;
			splice @fewer, $i, $part;
			my ($at) = difference(@fewer);
			if (defined $at) { @list = @fewer[ 0 .. $at ] }
			else { $i += $part }
		}
		$part = int($part / 2);
	}
	return @list;
}

sub show
{
	my ($seed, @list) = @_;
	my $names = new_names();
	my @server = server_answers($names, @list);
	my @model = model_answers($names, @list);

	diag("seed $seed, shrunk to " . @list . ' calls (limits are 10/60 s at first):');
	for my $i (0 .. $#list)
	{
		my $call = $list[$i];
		diag(shown_time($call->{now}) . ' '
			  . $sql{ $call->{what} }->($call, $names->{tenants}[ $call->{tenant} ], $names->{types}[ $call->{type} ], $names) =~ s/SELECT .*? FROM rate/rate/sr);
		diag("    server: $server[$i]\n    model:  $model[$i]");
	}
	return;
}

for my $seed (@seeds)
{
	my @list = random_calls($seed);
	my ($at) = difference(@list);

	ok(!defined $at, "seed $seed: $calls calls answer as the model");
	show($seed, shrink(@list[ 0 .. $at ])) if defined $at;
}
done_testing();
