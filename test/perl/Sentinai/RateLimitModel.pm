package Sentinai::RateLimitModel;

=head1 NAME

Sentinai::RateLimitModel - what docs/rate-limits.md says of limits, as plain as can be

=head1 SYNOPSIS

  my $model = Sentinai::RateLimitModel->new(midnights => \@microseconds);
  $model->set_type(api_requests => { limit => 1000, seconds => 60, enabled => 1 });
  my $answer = $model->check('TENANT_001', 'api_requests', 1, $now);      # allowed limit current remaining retry_after reset_at

Times are whole microseconds since the start of 2000 in UTC, which windows are aligned to. Counts are kept by the window that
they fell into. Nothing here is clever: when something fits again is searched for, not computed.

=cut

use strict;
use warnings;
use integer;
use Storable qw(dclone);

my $second = 1_000_000;
my $day = 86_400;

sub new
{
	my ($class, %self) = @_;
	return bless { types => {}, configs => {}, slots => {}, %self }, $class;
}

# ---------------------------------------------------------------- windows

sub floor_to
{
	my ($n, $step) = @_;
	my $rest = $n % $step;
	return $n - ($rest < 0 ? $rest + $step : $rest);
}

# (start, end) of the window of this length that has this time; of a day, by the calendar
sub window_of
{
	my ($self, $seconds, $now) = @_;

	if ($seconds == $day)
	{
		my ($low, $high) = (0, $#{ $self->{midnights} });
		while ($low + 1 < $high)
		{
			my $middle = ($low + $high) / 2;
			if ($self->{midnights}[$middle] <= $now) { $low = $middle }
			else { $high = $middle }
		}
		return @{ $self->{midnights} }[ $low, $high ];
	}
	my $start = floor_to($now, $seconds * $second);
	return ($start, $start + $seconds * $second);
}

# Of n counts of the window before, those that are still inside the last length, rounded up
sub faded
{
	my ($slot, $n, $now) = @_;
	my $length = $slot->{end} - $slot->{start};
	my $passed = $now > $slot->{start} ? $now - $slot->{start} : 0;

	return 0 if $slot->{seconds} == $day || $passed >= $length;
	return ($n * ($length - $passed) + $length - 1) / $length;
}

# What counts at a time of the running window or later
sub counted
{
	my ($self, $slot, $what, $now) = @_;

	return $slot->{running}{$what} + faded($slot, $slot->{before}{$what}, $now) if $now < $slot->{end};
	my $later = { %$slot, running => { %{ $slot->{running} } }, before => { %{ $slot->{before} } } };
	$self->roll($later, $now);
	return $self->counted($later, $what, $now);
}

sub open_window
{
	my ($self, $slot, $seconds, $now, $running, $before) = @_;

	@$slot{qw(start end)} = $self->window_of($seconds, $now);
	$slot->{seconds} = $seconds;
	$slot->{running} = $running // { granted => 0, refused => 0 };
	$slot->{before} = $before // { granted => 0, refused => 0 };
	return;
}

# The window of this time becomes the running one, unless the clock has stepped back a little.
sub roll
{
	my ($self, $slot, $now) = @_;
	my $length = $slot->{end} - $slot->{start};

	if ($now >= $slot->{end})
	{
		my $adjacent = $slot->{seconds} != $day && $now < $slot->{end} + $length;
		$self->open_window($slot, $slot->{seconds}, $now, undef, $adjacent ? $slot->{running} : undef);
	}
	elsif ($now < $slot->{start} - $length)
	{
		my %all = map { $_ => $slot->{running}{$_} + $slot->{before}{$_} } qw(granted refused);
		$self->open_window($slot, $slot->{seconds}, $now, \%all);
	}
	return;
}

# ---------------------------------------------------------------- settings

sub config_of
{
	my ($self, $tenant, $type) = @_;
	return $self->{configs}{"$tenant $type"} // $self->{types}{$type};
}

# A type that is enabled again begins at zero, for all tenants without a limit of their own.
sub set_type
{
	my ($self, $type, $config) = @_;
	my $was = $self->{types}{$type};

	$self->{types}{$type} = {%$config};
	return if !$was || $was->{enabled} || !$config->{enabled};
	%$_ = () for map { $self->{slots}{$_} } grep { / \Q$type\E$/ && !$self->{configs}{$_} } keys %{ $self->{slots} };
	return;
}

# A limit of one tenant; without a config it goes by the type again. Enabled again it begins at zero.
sub set_config
{
	my ($self, $tenant, $type, $config) = @_;
	my $was = $self->config_of($tenant, $type);

	if ($config) { $self->{configs}{"$tenant $type"} = {%$config} }
	else { delete $self->{configs}{"$tenant $type"} }
	$self->forget($tenant, $type) if !$was->{enabled} && $self->config_of($tenant, $type)->{enabled};
	return;
}

sub forget
{
	my ($self, $tenant, $type) = @_;
	my $slot = $self->{slots}{"$tenant $type"};

	%$slot = () if $slot;
	return;
}

# ---------------------------------------------------------------- calls

# The counts of a limit as they stand now, by the settings of now. Who only looks leaves everything as it was.
sub slot
{
	my ($self, $tenant, $type, $now, $only_looks) = @_;
	my $config = $self->config_of($tenant, $type);
	my $slot = $self->{slots}{"$tenant $type"} // {};

	if ($only_looks) { $slot = dclone($slot) }
	else { $self->{slots}{"$tenant $type"} = $slot }

	# While it is disabled nothing is counted, and nothing is shown.
	%$slot = () if !$config->{enabled};
	$slot->{limit} = $config->{limit};
	$slot->{enabled} = $config->{enabled};
	$self->open_window($slot, $config->{seconds}, $now) if !$slot->{seconds};
	$self->roll($slot, $now);
	if ($slot->{seconds} != $config->{seconds})
	{
		my %counted = map { $_ => $self->counted($slot, $_, $now) } qw(granted refused);
		$self->open_window($slot, $config->{seconds}, $now, \%counted);
	}
	return $slot;
}

sub remaining
{
	my ($self, $slot, $now) = @_;
	my $left = $slot->{limit} - $self->counted($slot, 'granted', $now);

	return $slot->{limit} if !$slot->{enabled};
	return $left > 0 ? $left : 0;
}

sub fits
{
	my ($self, $slot, $cost, $now) = @_;
	return !$slot->{enabled} || $cost <= $self->remaining($slot, $now);
}

# The first microsecond at which it fits: counts only fade, so it can be searched for by halving.
sub fits_at
{
	my ($self, $slot, $cost, $now) = @_;
	my ($low, $high) = ($now, $slot->{end} + 2 * ($slot->{end} - $slot->{start}));

	return $now if $self->fits($slot, $cost, $now);
	while ($low + 1 < $high)
	{
		my $middle = $low + ($high - $low) / 2;
		if ($self->fits($slot, $cost, $middle)) { $high = $middle }
		else { $low = $middle }
	}
	return $high;
}

sub answer
{
	my ($self, $slot, $cost, $allowed, $now) = @_;
	my $reset_at = $allowed ? $slot->{end} : $self->fits_at($slot, $cost, $now);

	return {
		allowed => $allowed ? 't' : 'f',
		limit => $slot->{limit},
		current => $self->counted($slot, 'granted', $now) + $self->counted($slot, 'refused', $now),
		remaining => $self->remaining($slot, $now),
		retry_after => $allowed ? 0 : ($reset_at - $now + $second - 1) / $second,
		reset_at => $reset_at,
	};
}

sub above { my ($slot, $cost) = @_; return $slot->{enabled} && $cost > $slot->{limit} }

# Nothing, if the cost is above the limit
sub check
{
	my ($self, $tenant, $type, $cost, $now) = @_;
	my $slot = $self->slot($tenant, $type, $now);
	my $allowed = $self->fits($slot, $cost, $now);

	return if above($slot, $cost);

	$slot->{running}{ $allowed ? 'granted' : 'refused' } += $cost if $slot->{enabled};
	return $self->answer($slot, $cost, $allowed, $now);
}

sub peek
{
	my ($self, $tenant, $type, $cost, $now) = @_;
	my $slot = $self->slot($tenant, $type, $now, 1);

	return if above($slot, $cost);
	return $self->answer($slot, $cost, $self->fits($slot, $cost, $now), $now);
}

# A check in a transaction that has changed the limit itself, and is rolled back then, or not. It decides on counts of its
# own, and what it was granted or refused counts for the others too, where they have counts.
sub check_inside
{
	my ($self, $tenant, $type, $config, $cost, $now, $rolled_back) = @_;
	my $inside = dclone($self);
	my $slot = $self->{slots}{"$tenant $type"};

	$inside->set_config($tenant, $type, $config);
	my $answer = $inside->check($tenant, $type, $cost, $now);
	if ($answer && $config->{enabled} && $slot && $slot->{seconds})
	{
		$self->roll($slot, $now);
		$slot->{running}{ $answer->{allowed} eq 't' ? 'granted' : 'refused' } += $cost;
	}
	$self->set_config($tenant, $type, $config) if !$rolled_back;
	return $answer;
}

# All limits or none. The tightest answers: of those that refuse the one that does so longest, else the one with the least
# left. Nothing, if a cost is above its limit.
sub check_all
{
	my ($self, $tenant, $types, $costs, $now) = @_;
	my @slot = map { $self->slot($tenant, $_, $now) } @$types;
	my @fits = map { $self->fits($slot[$_], $costs->[$_], $now) } 0 .. $#slot;
	my $all = !grep { !$_ } @fits;
	my $tightest;

	return if grep { above($slot[$_], $costs->[$_]) } 0 .. $#slot;
	for my $i (0 .. $#slot)
	{
		$slot[$i]{running}{granted} += $costs->[$i] if $all && $slot[$i]{enabled};
		$slot[$i]{running}{refused} += $costs->[$i] if !$fits[$i];
		my $answer = { %{ $self->answer($slot[$i], $costs->[$i], $fits[$i], $now) }, limit_type => $types->[$i] };
		$tightest = $answer if !$tightest || is_tighter($answer, $tightest);
	}
	return $tightest;
}

sub is_tighter
{
	my ($one, $other) = @_;
	return $one->{allowed} eq 'f' if $one->{allowed} ne $other->{allowed};
	return $one->{allowed} eq 't' ? $one->{remaining} < $other->{remaining} : $one->{reset_at} > $other->{reset_at};
}

# What was granted is given back, of the running window first.
sub refund
{
	my ($self, $tenant, $type, $cost, $now) = @_;
	my $slot = $self->slot($tenant, $type, $now);

	for my $window (qw(running before))
	{
		my $n = $cost < $slot->{$window}{granted} ? $cost : $slot->{$window}{granted};
		$slot->{$window}{granted} -= $n;
		$cost -= $n;
	}
	return;
}

1;
