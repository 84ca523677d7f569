package Torture::Load;

# The events of a round, all from the seed: several tenants, keys with many events each, some that fail for a while or for
# good, copies, two payloads under one id, and poison.
use strict;
use warnings;
use JSON::PP ();

our $json = JSON::PP->new->utf8->canonical;
my $serial = 0;

sub some { return $_[ int rand @_ ] }

sub envelope
{
	my ($type, $tenant, $exception, $id, $payload) = @_;
	return $json->encode({
		event_id => $id, event_type => $type, tenant_id => $tenant, exception_id => $exception,
		payload => { %$payload, n => ++$serial } });
}

sub trouble
{
	my $dice = rand;

	return (fail => 'transient', until => time + rand 4) if $dice < 0.05;
	return (fail => 'deferred', until => time + rand 4) if $dice < 0.07;
	return (fail => 'permanent') if $dice < 0.10;
	return ();
}

# One event of an exception, or of none; every so often one that fails, is sent twice, or conflicts
sub event_records
{
	my ($h, $i) = @_;
	my $round = $h->{round};
	my $tenant = some(@{ $h->{tenants} });
	my $keyless = rand() < 0.1;
	my $exception = $keyless ? undef : sprintf 'X%d-%d', $round, int rand 30;
	my $id = "E$round-$i";
	my $type = rand() < 0.03 ? 'Logged' : rand() < 0.4 ? 'Bulk' : 'Step';
	my %payload = (round => $round, trouble());
	my $record = { key => $keyless ? "none:$id" : "$tenant:$exception", value => envelope($type, $tenant, $exception, $id, \%payload) };
	my @records = ($record);

	push @records, $record if rand() < 0.08;
	push @records, map { { %$record, partition => $_ } } 0 .. $h->{partitions} - 1 if $keyless && rand() < 0.3;
	push @records, { %$record, value => envelope($type, $tenant, $exception, $id, { %payload, other => 1 }) }
	  if !$keyless && rand() < 0.02;
	return @records;
}

# What a harm sends beside the load
sub more_records
{
	my ($h, $n) = @_;
	return map { event_records($h, 'more' . ++$serial) } 1 .. $n;
}

# One whose handler kills its backend
sub killer
{
	my ($h) = @_;
	my $id = "E$h->{round}-killer" . ++$serial;
	return { key => "T_A:X$h->{round}-$id", value => envelope('Step', 'T_A', "X$h->{round}-$id", $id, { round => $h->{round}, fail => 'crash' }) };
}

my @poison = (
	sub { "\xff\xfe not JSON" }, sub { undef }, sub { '{"event_id": "' . "\\ud800" . '"}' },
	sub { envelope('Step', 'T_NOBODY', 'X', $_[0], {}) }, sub { envelope('Unheard', 'T_A', 'X', $_[0], {}) },
	sub { '{"event_type": "Step", "tenant_id": "T_A", "payload": []}' }, sub { '[' x 500 }, sub { '{"event_type": "Step"}' });

sub round_records
{
	my ($h) = @_;
	my @records = map { event_records($h, $_) } 1 .. $h->{events};

	for my $i (1 .. 12)
	{
		my $record = { key => "poison:$h->{round}:$i", value => some(@poison)->("P$h->{round}-$i") };
		splice @records, int rand @records, 0, $record;
	}
	return @records;
}

1;
