package Torture::Account;

# The account of a round. What a record is owed is read from the topic, so a producer that had to send again changes
# nothing. Records that Kafka takes away are kept before that (kept); those that nobody had read are owed nothing (gone).
use strict;
use warnings;
use Sentinai::Test;
use Digest::MD5 qw(md5_hex);
use List::Util qw(sum0 min);
use Torture::Load;

# ---------------------------------------------------------------- what the topic had

# By place: incarnation of the topic, partition, offset
sub keep_records
{
	my ($h) = @_;
	$h->{kept}{"$h->{incarnation}:$_->{partition}:$_->{offset}"} //= $_ for $h->{t}->records('work');
	return;
}

sub mark_gone
{
	my ($h, $partition, $from, $to) = @_;

	for my $offset (map { /^\Q$h->{incarnation}:$partition\E:(\d+)$/ } keys %{ $h->{kept} })
	{
		$h->{gone}{"$h->{incarnation}:$partition:$offset"} = 1 if $offset >= $from && $offset < $to;
	}
	return;
}

sub by_place
{
	my @x = split /:/, $a;
	my @y = split /:/, $b;
	return $x[0] <=> $y[0] || $x[1] <=> $y[1] || $x[2] <=> $y[2];
}

# What marks a record that is refused: its bytes
sub bytes_of { my ($key, $value) = @_; return md5_hex(($key // '') . "\0" . ($value // '')) }

# What the round is owed: events by identity (the first record decides), the ids of each line (a key in a partition) in
# order, and how many records of each poison and of each conflict; retries of dead letters are not counted
sub read_work
{
	my ($h) = @_;
	my %work = (first => {}, line_of => {}, lines => {}, poison => {}, conflicts => {}, name => {});

	keep_records($h);
	for my $place (sort by_place keys %{ $h->{kept} })
	{
		my $record = $h->{kept}{$place};
		my %header = @{ $record->{headers} };
		my $bytes = bytes_of($record->{key}, $record->{value});
		next if exists $header{'sentinai-dlq-id'} || $h->{gone}{$place};
		if (($record->{key} // '') =~ /^poison:$h->{round}:/)
		{
			$work{poison}{$bytes}++;
			$work{name}{$bytes} = "$record->{key} at $place";
			next;
		}
		my $event = eval { $Torture::Load::json->decode($record->{value} // '') };
		next if ref $event ne 'HASH' || ref $event->{payload} ne 'HASH' || ($event->{payload}{round} // -1) != $h->{round};
		my $id = "$event->{tenant_id}/$event->{event_id}";
		if (my $seen = $work{first}{$id})
		{
			next if $seen->{payload}{n} == $event->{payload}{n};
			$work{conflicts}{$bytes}++;
			$work{name}{$bytes} = "$id at $place";
			next;
		}
		$work{first}{$id} = $event;
		next if !defined $event->{exception_id};
		$work{line_of}{$id} = "$event->{tenant_id}:$event->{exception_id} " . $place =~ s/:\d+$//r;
		push @{ $work{lines}{ $work{line_of}{$id} } }, $id;
	}
	return \%work;
}

# ---------------------------------------------------------------- saying what is wrong

# Where an event was last seen
sub where_is
{
	my ($h, $what, @ids) = @_;

	diag("$what: " . @ids . ' events, such as ' . join ' ', @ids[ 0 .. min($#ids, 9) ]) if @ids;
	for my $id (@ids[ 0 .. min($#ids, 4) ])
	{
		my ($tenant, $event) = split m{/}, $id, 2;
		my $of = "tenant_id = '$tenant' AND event_id = '$event'";
		diag("  $id");
		diag('    topic: ' . join ', ', grep { ($h->{kept}{$_}{value} // '') =~ /"event_id":"\Q$event\E"/ } sort by_place keys %{ $h->{kept} });
		diag("    $_->[0]: " . ($h->{t}->sql("SELECT $_->[1] FROM $_->[2] x WHERE $of ORDER BY 1") =~ s/\n/\n      /gr || 'not there'))
		  for (
			[ 'effects', 'seq, emitted_id', 'app.effect' ],
			[ 'claims', 'tableoid::regclass, status, shadow, processed_at, last_attempt_at, error_type', 'sentinai.event_processing_log' ],
			[ 'pending', 'x::text', 'sentinai.event_pending' ],
			[ 'dead letters', 'id, status, step, error_type, error_message, created_at', 'sentinai.dead_letter_queue' ],
			[ 'event_log', 'partition, kafka_offset, created_at', 'sentinai.event_log' ],
			[ 'outbox', 'id, topic, event_type, dlq_id', 'sentinai.outbox' ]);
	}
	return;
}

sub none_wrong
{
	my ($h, $name, @ids) = @_;
	ok(!@ids, "round $h->{round}: $name") or where_is($h, $name, @ids);
	return;
}

# Numbers by key, which must be the same; names: how keys are called
sub compare_counts
{
	my ($h, $name, $wanted, $found, $names) = @_;
	my %all = (%$wanted, %$found);
	my @wrong = grep { ($wanted->{$_} // 0) != ($found->{$_} // 0) } sort keys %all;

	ok(!@wrong, "round $h->{round}: $name")
	  or diag(join "\n", map { sprintf '%s: %d owed, %d found', $names->{$_} // $_, $wanted->{$_} // 0, $found->{$_} // 0 } @wrong[ 0 .. min($#wrong, 20) ]);
	return;
}

# Those whose place in the list found differs, once what is not in both is left out
sub out_of_order
{
	my ($wanted, $found) = @_;
	my %known = map { $_ => 1 } @$found;
	my %owed = map { $_ => 1 } @$wanted;
	my @wanted = grep { $known{$_} } @$wanted;
	my @found = grep { $owed{$_} } @$found;

	return grep { defined } map { $wanted[$_] ne ($found[$_] // '') ? $wanted[$_] : undef } 0 .. $#wanted;
}

# ---------------------------------------------------------------- the parts of the account

# Returns effects by emitted id, and by line in their order
sub account_effects
{
	my ($h, $work) = @_;
	my (%times, %by_line, %emitted, %dead, %crashed);

	for ($h->{t}->rows(q{SELECT tenant_id, event_id, bool_or(error_type = 'handler_crashed') FROM sentinai.dead_letter_queue WHERE step = 'handle' GROUP BY 1, 2, id}))
	{
		$dead{"$_->[0]/$_->[1]"}++;
		$crashed{"$_->[0]/$_->[1]"} = 1 if $_->[2] eq 't';
	}
	for ($h->{t}->rows("SELECT tenant_id, event_id, emitted_id FROM app.effect WHERE payload->>'round' = '$h->{round}' ORDER BY seq"))
	{
		my ($tenant, $event, $emitted) = @$_;
		my $id = "$tenant/$event";
		my $line = $work->{line_of}{$id};
		$times{$id}++;
		$emitted{$emitted} = $id;
		push @{ $by_line{$line} }, $id if defined $line && !$dead{$id};
	}
	my %first = %{ $work->{first} };
	my %fails = map { ($_ => $first{$_}{payload}{fail} // '') } keys %first;
	my @handled = grep { $first{$_}{event_type} ne 'Logged' } sort keys %first;

	none_wrong($h, 'no event was lost', grep { !$times{$_} } @handled);
	none_wrong($h, 'none was handled twice', grep { $times{$_} > 1 } sort keys %times);
	none_wrong($h, 'nothing else was handled', grep { !$first{$_} || $first{$_}{event_type} eq 'Logged' } sort keys %times);
	none_wrong($h, 'the order of each key held',
		map { out_of_order($work->{lines}{$_}, $by_line{$_} // []) } sort keys %{ $work->{lines} });
	none_wrong($h, 'what fails for good was a dead letter, once',
		grep { $fails{$_} =~ /permanent|crash/ && ($dead{$_} // 0) != 1 } @handled);
	none_wrong($h, 'nothing else was one', grep { defined $fails{$_} && !may_be_dead($h, $fails{$_}, $crashed{$_}) } sort keys %dead);
	$h->{stat}{events} += keys %first;
	return (\%emitted, \%by_line);
}

# A search for what kills the server that is disturbed by kills from outside may convict the wrong one
sub may_be_dead
{
	my ($h, $fail, $crashed) = @_;
	return 1 if $fail =~ /permanent|crash/;
	return $crashed && grep { /^(crash_handler|kill_backend|at_point)$/ } @{ $h->{harms} };
}

sub account_results
{
	my ($h, $work, $emitted, $by_line) = @_;
	my (%seen, %bodies, %order);

	for my $record ($h->{t}->records('results'))
	{
		my $event = $Torture::Load::json->decode($record->{value});
		next if $event->{payload}{of} !~ /^E$h->{round}-/;
		$bodies{ $event->{event_id} }{ $event->{payload}{of} } = 1;
		next if $seen{ $event->{event_id} }++;
		my $id = $emitted->{ $event->{event_id} } // '?';
		push @{ $order{ $work->{line_of}{$id} // '' } }, $id;
	}
	compare_counts($h, 'what was emitted is on the topic, and nothing else',
		{ map { $_ => 1 } keys %$emitted }, { map { $_ => 1 } keys %seen }, $emitted);
	ok(!(grep { keys %{ $bodies{$_} } != 1 } keys %bodies), "round $h->{round}: each id is one event's");
	none_wrong($h, 'it went out in the order of each key', map { out_of_order($by_line->{$_}, $order{$_} // []) } sort keys %$by_line);
	$h->{stat}{repeated} += sum0(map { $_ - 1 } values %seen);
	return;
}

sub account_dead_letters
{
	my ($h, $work) = @_;
	my (%poison, %conflicts);

	for ($h->{t}->rows(q{SELECT encode(record_key, 'hex'), encode(payload_raw, 'hex'), error_type FROM sentinai.dead_letter_queue WHERE step = 'screen'}))
	{
		my ($key, $value, $type) = @$_;
		my $bytes = bytes_of(map { defined $_ ? pack 'H*', $_ : undef } $key, $value);
		$poison{$bytes}++ if $work->{poison}{$bytes};
		$conflicts{$bytes}++ if $work->{conflicts}{$bytes};
	}
	compare_counts($h, 'each poison record is a dead letter', $work->{poison}, \%poison, $work->{name});
	compare_counts($h, q{each event under another's id is a dead letter}, $work->{conflicts}, \%conflicts, $work->{name});
	return;
}

sub account_log
{
	my ($h, $work) = @_;
	my %logged;

	$logged{"$_->[0]/$_->[1]"} = $_->[2] for $h->{t}->rows(
		"SELECT tenant_id, event_id, count(*) FROM sentinai.event_log WHERE topic = 'work' AND event_id LIKE 'E$h->{round}-%' GROUP BY 1, 2");
	none_wrong($h, 'each event is in event_log, once', grep { ($logged{$_} // 0) != 1 } sort keys %{ $work->{first} });
	is($h->{t}->sql(
			"SELECT string_agg(DISTINCT status, ' ') FROM sentinai.event_processing_log WHERE worker_type = 'work' AND event_id LIKE 'E$h->{round}-%'"),
		'succeeded', "round $h->{round}: each has succeeded in the end");
	is($h->{t}->sql(q{SELECT b::text FROM sentinai.books_check(NULL, '2000-01-01', '2100-01-01') b WHERE NOT b.balanced}),
		'', "round $h->{round}: the books balance");
	return;
}

sub account
{
	my ($h) = @_;
	my $work = read_work($h);
	my ($emitted, $by_line) = account_effects($h, $work);

	account_results($h, $work, $emitted, $by_line);
	account_dead_letters($h, $work);
	account_log($h, $work);
	return scalar keys %{ $work->{first} };
}

1;
