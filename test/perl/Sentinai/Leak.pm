package Sentinai::Leak;

=head1 NAME

Sentinai::Leak - two tenants in one database, and what one of them would ask to see the other's rows

=head1 SYNOPSIS

  my $leak = Sentinai::Leak->new($t);     # LEAKA and LEAKQ, with a row each in every table that has tenants' rows
  for my $call ($leak->calls('sentinai', 'regress_operator')) { ... $call->{sql}, $call->{twin}, $call->{function} }
  is($leak->plain($answer), $leak->plain($answer_to_the_twin), 'the same as for what there is none of');
  ok($leak->digest eq $before, "LEAKA's rows are as they were");

Nothing here is a list of tables, views or functions: they come from the catalogue, and the values to ask with come from
LEAKA's rows, by the name of the column. LEAKB is the tenant that does not exist, and a twin is the same question about
it, with ids that nobody has: who may not see LEAKA must not be able to tell the two answers apart.

=cut

use strict;
use warnings;
use Carp qw(croak);
use JSON::PP;

# A twin differs from its value in this one letter, or in the number's first digits.
our ($victim, $own, $nobody) = ('LEAKA', 'LEAKQ', 'LEAKB');

# What the rules below can't know: columns that a CHECK ties to others, and those that must lead to a row. undef: NULL
my %column = (
	'dead_letter_queue.retry_token' => undef,
	'idempotency_key.status' => q{'done'},
	'outbox_failed.discarded_at' => undef,
	'outbox_failed.discarded_by' => undef,
	'audit_report.format' => q{'csv'},
	'audit_report.status' => q{'completed'},
	'rate_limit_config.enabled' => 'false',
);

# Words that every tenant shares, so that a question gets beyond them
my %word = (
	worker_type => 'intake',
	event_type => 'ExceptionIngested',
	limit_type => 'api_requests',
	metric_type => 'api_calls',
	report_type => 'exception_activity',
	topic => 'exceptions',
	original_topic => 'exceptions',
	error => 'MSG_SIZE_TOO_LARGE',
);

# Arguments that are only written down, into rows of the asker's own
my $remark = qr/^(?:p_)?(?:reason|actor|message|title|comment|review_comment|\w+_by|name|description|status|details)$/;

# Arguments and parameters that are called otherwise than the column
my %called = (
	tenant => 'tenant_id',
	exception => 'exception_id',
	event => 'event_id',
	ids => 'id',
	report => 'id',
	dlq => 'dlq_id',
);

sub new
{
	my ($class, $t) = @_;
	my $self = bless { t => $t, values => {} }, $class;

	$t->sql("SELECT sentinai.tenant_add('$_', '$_ Ltd') FROM generate_series(1, 1)") for $victim, $own;
	$self->fill($_) for $victim, $own;
	$self->read_values;
	return $self;
}

# Tables of the schema with a column that says whose a row is; the last two are a report's and a dead letter's parts
sub tables
{
	my ($self) = @_;
	return $self->{tables} //= [
		map { $_->[0] } $self->{t}->rows(q{
			SELECT c.relname FROM pg_class c
			 WHERE c.relnamespace = 'sentinai'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			   AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attnum > 0
						   AND a.attname IN ('tenant_id', 'report_id', 'dlq_id', 'execution_id'))
			 ORDER BY c.relname}) ];
}

# ---------------------------------------------------------------- rows

# Triggers and foreign keys are off: a row in a table is the point, not how it comes there.
sub fill
{
	my ($self, $tenant) = @_;
	my $t = $self->{t};

	for my $table (grep { $_ ne 'tenant' } @{ $self->tables })
	{
		my (@names, @values);
		for my $column ($self->columns($table))
		{
			my $value = value_of($table, $tenant, @$column);
			next if !defined $value;
			push @names, qq{"$column->[0]"};
			push @values, $value;
		}
		my $sql = "SET session_replication_role = replica; INSERT INTO sentinai.$table ("
		  . join(', ', @names) . ') OVERRIDING SYSTEM VALUE VALUES (' . join(', ', @values) . ')';
		my ($status, $out, $err) = $t->sql_status($sql);
		croak "no row for $table: say in Sentinai::Leak what its columns need\n$err\n$sql" if $status;
	}
	return;
}

# [name, type, has a default, the first value that a CHECK names]
sub columns
{
	my ($self, $table) = @_;
	return $self->{t}->rows(qq{
		SELECT a.attname, format_type(a.atttypid, NULL), (a.atthasdef OR a.attidentity <> '')::int,
			(SELECT (regexp_match(pg_get_constraintdef(k.oid), 'ARRAY\\[(''[^'']*'')'))[1]
			   FROM pg_constraint k
			  WHERE k.conrelid = a.attrelid AND k.contype = 'c' AND k.conkey = ARRAY[a.attnum] LIMIT 1),
			(SELECT count(*) FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'c' AND a.attnum = ANY (k.conkey))
		  FROM pg_attribute a
		 WHERE a.attrelid = 'sentinai.$table'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		 ORDER BY a.attnum});
}

sub value_of
{
	my ($table, $tenant, $name, $type, $has_default, $choice, $checks) = @_;

	return $column{"$table.$name"} if exists $column{"$table.$name"};
	return "'$tenant'" if $name eq 'tenant_id';
	return "'$word{$name}'" if $word{$name};
	return "'$tenant-id'" if $name eq 'report_id';
	return number_id($tenant) if $type eq 'bigint' && $name =~ /(?:^|_)id$/;
	return "'" . uuid_id($tenant) . "'" if $type eq 'uuid';
	return $has_default ? undef : $choice if defined $choice;
	return undef if $has_default && ($checks || $type !~ /^(?:text|jsonb|name)$/);
	return "'$tenant-$name'" if $type eq 'text' || $type eq 'name';
	return qq('{"tenant_id": "$tenant", "event_id": "$tenant-event_id", "marker": "$tenant-$name"}') if $type eq 'jsonb';
	return "ARRAY['$tenant-$name']" if $type eq 'text[]';
	return "convert_to('$tenant-$name', 'UTF8')" if $type eq 'bytea';
	return 1 if $type =~ /^(?:smallint|bigint|integer|numeric|double precision|oid)$/;
	return q{now() + '1 day'} if $name =~ /expires|until|next|_to$/;
	return 'now()' if $type =~ /^timestamp/;
	return "'1 s'" if $type eq 'interval';
	return 'false' if $type eq 'boolean';
	return undef;
}

sub number_id { return $_[0] eq $victim ? 900_000_001 : 900_000_002 }
sub uuid_id { return '0f0f0f0f-0000-4000-8000-00000000000' . { $victim => 'a', $own => 'b', $nobody => 'e' }->{ $_[0] } }

# ---------------------------------------------------------------- what to ask with

# {column name}{type} = [values of LEAKA's rows]
sub read_values
{
	my ($self) = @_;

	for my $table (@{ $self->tables })
	{
		for my $column ($self->columns($table))
		{
			my ($name, $type) = @$column;
			next if $type !~ /^(?:text|name|bigint|integer|uuid)$/ || $name eq 'retry_count';
			my $places = $self->{values}{$name}{$type} //= [];
			my $where = $self->belongs($table);
			for my $row ($self->{t}->rows(qq{SELECT DISTINCT "$name"::text FROM sentinai.$table WHERE $where AND "$name" IS NOT NULL}))
			{
				push @$places, $row->[0] if !grep { $_ eq $row->[0] } @$places;
			}
		}
	}
	return;
}

# LEAKA's rows of a table
sub belongs
{
	my ($self, $table) = @_;
	my %has = map { $_->[0] => 1 } $self->columns($table);

	return "tenant_id = '$victim'" if $has{tenant_id};
	return "report_id IN (SELECT id FROM sentinai.audit_report WHERE tenant_id = '$victim')" if $has{report_id};
	return "dlq_id IN (SELECT id FROM sentinai.dead_letter_queue WHERE tenant_id = '$victim')" if $has{dlq_id};
	croak "$table: whose are its rows?";
}

# LEAKA's values for an argument or a column; none where its name says nothing
sub values_for
{
	my ($self, $name, $type) = @_;
	return if $name =~ $remark;
	my $plain = $name =~ s/^p_//r;
	my $column = $called{$plain} // ($self->{values}{$plain} ? $plain : $plain =~ s/s$//r);
	my $of = $self->{values}{$column} // {};
	my @values = @{ $of->{ $type =~ s/\[\]$//r } // [] };

	# a path or a parameter may be text where the column is another thing
	@values = map { @$_ } @$of{ sort keys %$of } if !@values && $type eq 'text';
	return @values > 4 ? @values[ 0 .. 3 ] : @values;
}

# The same question about what there is none of; what is nobody's secret stays
sub twin
{
	my ($self, $value) = @_;

	return undef if !defined $value;
	return $value =~ s/$victim/$nobody/gr if $value =~ /$victim/;
	return uuid_id($nobody) if $value eq uuid_id($victim);
	return 970_000_001 if $value eq number_id($victim);
	return $value;
}

# ---------------------------------------------------------------- functions

# What the role may call, each with LEAKA's values and with their twins: {function, sql, twin}
sub calls
{
	my ($self, $schema, $role) = @_;
	my @calls;

	for my $row ($self->{t}->rows(qq{
		SELECT p.oid::regprocedure, p.proname, p.pronargs, p.pronargdefaults, array_to_json(p.proargnames), p.proretset::int,
			(SELECT json_agg(format_type(t, NULL) ORDER BY o) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS u(t, o)),
			(SELECT array_to_json(array_agg(m)) FROM unnest(p.proargmodes) m)
		  FROM pg_proc p
		 WHERE p.pronamespace = '$schema'::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
		   AND has_function_privilege('$role', p.oid, 'EXECUTE') AND has_schema_privilege('$role', p.pronamespace, 'USAGE')
		 ORDER BY 1::text}))
	{
		my ($signature, $name, $count, $defaults, $names, undef, $types, $modes) = @$row;
		my @types = @{ $types ? decode_json($types) : [] };
		my @names = @{ $names ? decode_json($names) : [] };
		my @modes = @{ $modes ? decode_json($modes) : [] };

		@names = map { $names[$_] } grep { !@modes || $modes[$_] =~ /^[ibv]$/ } 0 .. $#names;
		push @calls, $self->calls_of("$schema.\"$name\"", $signature, $count - $defaults, \@names, \@types);
	}
	return @calls;
}

sub calls_of
{
	my ($self, $name, $signature, $needed, $names, $types) = @_;
	my @known = map { [ $self->values_for($names->[$_] // '', $types->[$_]) ] } 0 .. $#$types;
	my $has_tenant = grep { is_tenant($_) } @$names;
	my ($most) = sort { $b <=> $a } 1, map { scalar @$_ } @known;
	my %calls;

	# Each of LEAKA's values once, with LEAKA's tenant, with the asker's own, and with none
	for my $n (0 .. $most - 1)
	{
		for my $tenant ($has_tenant ? ($victim, $own, undef) : $victim)
		{
			my (@with, @twin);
			for my $i (0 .. $#$types)
			{
				my ($argument, $type, @values) = ($names->[$i] // '', $types->[$i], @{ $known[$i] });
				next if $i >= $needed && !@values;
				my $value = is_tenant($argument) ? $tenant : @values ? $values[ $n % @values ] : $self->any_of($type);
				my $key = $argument ne '' ? qq{"$argument" => } : '';
				push @with, $key . literal($value, $type);
				push @twin, $key . literal($self->twin($value), $type);
			}
			my $sql = "SELECT * FROM $name(" . join(', ', @with) . ')';
			$calls{$sql} //= { function => $signature, sql => $sql, twin => "SELECT * FROM $name(" . join(', ', @twin) . ')' };
		}
	}
	return map { $calls{$_} } sort keys %calls;
}

sub is_tenant { return $_[0] =~ /^(?:p_)?tenant(?:_id|_ids)?$/ }

# For an argument that says nothing about whose a row is
sub any_of
{
	my ($self, $type) = @_;

	return qq({"tenant_id": "$victim", "event_id": "$victim-event_id", "event_type": "ExceptionIngested", "payload": {}}) if $type =~ /^jsonb?$/;
	return 1 if $type =~ /^(?:smallint|bigint|integer|numeric|double precision|oid|xid)$/;
	return '2020-01-01' if $type =~ /^(?:timestamp|date)/;
	return '1 day' if $type eq 'interval';
	return 'true' if $type eq 'boolean';
	return '0f0f0f0f-0000-4000-8000-0000000000ff' if $type eq 'uuid';
	return undef if $type =~ /\./ || $type =~ /\[\]$/ || $type eq 'bytea';
	return 'exceptions';
}

sub literal
{
	my ($value, $type) = @_;

	return "NULL::$type" if !defined $value;
	return "ARRAY['$value']::$type" if $type =~ /\[\]$/;
	return "'$value'::$type";
}

# ---------------------------------------------------------------- answers

# An answer without what differs each time, and with the twins' values taken back
sub plain
{
	my ($self, $answer) = @_;

	$answer =~ s/$nobody/$victim/g;
	$answer =~ s/(?:(?<=%28)|\b)970000001\b/900000001/g;
	$answer =~ s/\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?/TIME/g;
	$answer =~ s/\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/UUID/g;
	return $answer;
}

# All of LEAKA's rows, in every table, as one value
sub digest
{
	my ($self) = @_;
	return join "\n", map {
		my $where = $self->belongs($_);
		"$_ " . $self->{t}->sql(qq{SELECT count(*) || ' ' || coalesce(md5(string_agg(x::text, '|' ORDER BY x::text)), '') FROM sentinai.$_ AS x WHERE $where})
	} @{ $self->tables };
}

1;
