package Sentinai::Bench;

=head1 NAME

Sentinai::Bench - the figures of a bench: noted in each round, shown as a table, kept as JSON

=head1 SYNOPSIS

  use Sentinai::Bench;

  note_figure('load, 2 processors', 'events/s', 25_000);        # once a round
  note_figure('    ratio to COPY', '', 0.5, '>= 0.3');          # with a goal: the table says whether the median meets it
  report($t, 'bench', 'two rounds of 100000 events', rounds => 2);        # and build/bench/bench.json, bench.txt

=cut

use strict;
use warnings;
use Exporter qw(import);
use File::Path qw(make_path);
use JSON::PP;
use POSIX qw(strftime);
use Sentinai::Test;

our @EXPORT = qw(note_figure percentile report);
my @figures;    # { name, of, unit, goal, values }, in the order of the table

# $of tells figures of one name apart: the name of the figure that it is about
sub note_figure
{
	my ($name, $unit, $value, $goal, $of) = @_;
	my ($figure) = grep { $_->{name} eq $name && ($_->{of} // '') eq ($of // '') } @figures;

	push @figures, $figure = { name => $name, of => $of, unit => $unit, goal => $goal, values => [] } if !$figure;
	push @{ $figure->{values} }, 0 + $value;
	return;
}

sub percentile
{
	my ($p, @values) = @_;
	my @sorted = sort { $a <=> $b } @values;
	return $sorted[int($p / 100 * $#sorted + 0.5)];
}

sub shown
{
	my ($value) = @_;
	return sprintf abs $value >= 100 ? '%.0f' : abs $value >= 10 ? '%.1f' : '%.2f', $value;
}

my %meets = (
	'>=' => sub { $_[0] >= $_[1] },
	'<=' => sub { $_[0] <= $_[1] },
	'<' => sub { $_[0] < $_[1] },
);

# What was wanted of a figure, and whether its median is that
sub goal_of
{
	my ($figure) = @_;
	my ($comparison, $value) = split ' ', $figure->{goal} // return '';
	my $met = $meets{$comparison}->($figure->{median}, $value);

	$figure->{met} = $met ? JSON::PP::true : JSON::PP::false;
	return "goal $figure->{goal}, " . ($met ? 'met' : 'missed');
}

sub machine
{
	my ($t) = @_;
	my $cores = () = Sentinai::Test::slurp('/proc/cpuinfo') =~ /^processor/mg;
	my ($model) = Sentinai::Test::slurp('/proc/cpuinfo') =~ /^model name\s*:\s*(.*)$/m;
	return sprintf '%d cores, %s; %s', $cores, $model // 'unknown', $t->sql('SELECT version()') =~ s/ on .*//r;
}

sub write_file
{
	my ($name, $text) = @_;
	open my $file, '>', $name or die "$name: $!";
	print {$file} $text;
	close $file or die "$name: $!";
	return;
}

# A line a figure
sub table
{
	my $table = sprintf "%-52s %10s %10s %10s  %s\n", 'figure', 'min', 'median', 'max', 'unit';

	for my $figure (@figures)
	{
		@$figure{qw(min median max)} = map { percentile($_, @{ $figure->{values} }) } 0, 50, 100;
		my @columns = ((map { shown($_) } @$figure{qw(min median max)}), join ' ', grep { $_ } $figure->{unit}, goal_of($figure));
		$table .= sprintf("%-52s %10s %10s %10s  %s", $figure->{name}, @columns) =~ s/ +$//r . "\n";
	}
	return $table;
}

# The table of all figures; it is in build/bench/NAME.txt too, and in NAME.json with each value and the further arguments
sub report
{
	my ($t, $name, $headline, %more) = @_;
	my $folder = "$t->{build}/bench";
	my $machine = machine($t);
	my $text = "$machine\n$headline\n\n" . table();

	make_path($folder);
	write_file("$folder/$name.txt", $text);
	write_file(
		"$folder/$name.json",
		JSON::PP->new->canonical->pretty->encode(
			{ time => strftime('%Y-%m-%dT%H:%M:%SZ', gmtime), machine => $machine, figures => \@figures, %more }));
	print "\n$text\nalso in $folder/$name.txt and $name.json\n";
	return;
}

1;
