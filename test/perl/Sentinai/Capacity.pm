package Sentinai::Capacity;

=head1 NAME

Sentinai::Capacity - the calculator of docs/capacity.md

=head1 SYNOPSIS

  use Sentinai::Capacity;

  my $said = calculator($t, payload_bytes => 330, intake => 0);   # numbers instead of those that stand in the page
  print $said->{event_log}{row_bytes}, $said->{all}{wal_bytes};   # an event

=cut

use strict;
use warnings;
use Exporter qw(import);
use Sentinai::Test;

our @EXPORT = qw(calculator calculator_output);

sub statement
{
	my ($sql) = Sentinai::Test::slurp("$Sentinai::Test::top/docs/capacity.md") =~ /^```sql\n(WITH given.*?)^```/ms;
	return $sql // die "docs/capacity.md has no calculator\n";
}

# What psql shows for the numbers that stand in the page
sub calculator_output
{
	my ($t) = @_;
	my ($status, $out) = Sentinai::Test::capture({ input => statement() }, $t->psql_command);

	return $out =~ s/[ \t]+$//mgr =~ s/\n+\z/\n/r;
}

# By table, and 'all'; what is emitted into event_log counts for event_log
sub calculator
{
	my ($t, %given) = @_;
	my $sql = statement();
	my %said;

	while (my ($name, $number) = each %given)
	{
		$sql =~ s/[\d.]+(\s+AS $name\b)/$number$1/ or die "the calculator is given no $name\n";
	}
	for my $row ($t->rows($sql))
	{
		my ($what) = $row->[0] =~ /^(\w+)/;
		my @columns = ('row_bytes', 'index_bytes', 'wal_bytes');
		$said{$what}{ $columns[$_] } += $row->[ 1 + $_ ] for 0 .. 2;
	}
	return \%said;
}

1;
