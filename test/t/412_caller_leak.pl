# A tenant's own login in psql, and what it can find out about a neighbour: every relation and every function of both
# schemas, by the catalogue, with the neighbour's ids. It must see none of his rows, change none, and get the same answer
# as for a tenant and ids that don't exist. Settings, claims and roles that it may set itself must not help.
use lib 'test/perl';
use Sentinai::Test;
use Sentinai::Leak;

my $t = Sentinai::Test->new(settings => "sentinai.databases = 'none'");
my $leak = Sentinai::Leak->new($t);
my @schemas = map { $_->[0] } $t->rows(q{SELECT nspname FROM pg_namespace WHERE nspname LIKE 'sentinai%' ORDER BY 1});

$t->sql(q{
	CREATE ROLE regress_operator LOGIN IN ROLE sentinai_operator, sentinai_payload;
	CREATE ROLE regress_viewer LOGIN IN ROLE sentinai_viewer, sentinai_payload;
	CREATE ROLE regress_unbound LOGIN IN ROLE sentinai_operator, sentinai_payload;
	SELECT sentinai.tenant_role_add('regress_operator', 'LEAKQ'), sentinai.tenant_role_add('regress_viewer', 'LEAKQ');
	GRANT CREATE, USAGE ON SCHEMA public TO regress_operator, regress_viewer, regress_unbound;
	ANALYZE});
my @roles = qw(regress_operator regress_viewer regress_unbound);

# What a session may do beforehand, and what must not make a difference
my %trick = (
	'as it logs in' => '',
	'with LEAKA in its settings and claims' => q{
		SET sentinai.tenant_id = 'LEAKA'; SET request.jwt.claims = '{"tenant_id": "LEAKA", "role": "sentinai_admin", "sub": "a"}';
		SET "request.jwt.claim.tenant_id" = 'LEAKA'; SET request.headers = '{"x-tenant-id": "LEAKA"}'; SET ROLE NONE},
	'as the role that it was granted' => q{SET ROLE sentinai_viewer; SET request.jwt.claims = '{"tenant_id": "LEAKA"}'},
	'without row security' => 'SET row_security = off',
);

my $before = $leak->digest;
unlike($before, qr/ 0 $/m, 'LEAKA has rows in each table of tenants: ' . scalar @{ $leak->tables });

for my $role (@roles)
{
	for my $trick (sort keys %trick)
	{
		subtest "$role, $trick: relations" => sub { relations($role, $trick{$trick}) };
	}
	subtest "$role: functions" => sub { functions($role, '') };
	subtest "$role: functions, with LEAKA in its settings and claims" => sub { functions($role, $trick{'with LEAKA in its settings and claims'}) };
	subtest "$role: statistics and other roles" => sub { others($role) };
}
is($leak->digest, $before, "LEAKA's rows are as they were");
done_testing();

# ---------------------------------------------------------------- relations

sub relations
{
	my ($role, $trick) = @_;
	my $session = $t->session(user => $role);
	my (@seen, @written);

	$session->sql("SET client_min_messages = notice; SET statement_timeout = '20s'; $trick");
	$session->sql(q{CREATE OR REPLACE FUNCTION pg_temp.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
		$$BEGIN RAISE NOTICE 'peek %', $1; RETURN true; END$$});
	for my $relation (readable($role))
	{
		my ($name, $columns, $peek, $has_tenant) = @$relation;
		my $answer = join "\n", map { $session->sql($_) }
		  "SELECT $columns FROM $name", "COPY (SELECT $columns FROM $name) TO STDOUT",
		  "SELECT count(*) FROM $name WHERE pg_temp.peek($peek)",
		  ($has_tenant ? "SELECT $columns FROM $name WHERE tenant_id = 'LEAK' || 'A'" : ());
		push @seen, "$name: " . excerpt($answer) if shows($answer);
	}
	for my $relation (writable($role))
	{
		my ($name, $column) = @$relation;
		for my $write (
			"UPDATE $name SET $column = $column WHERE tenant_id = 'LEAKA'", "UPDATE $name SET $column = $column",
			"DELETE FROM $name WHERE tenant_id = 'LEAKA'", "DELETE FROM $name",
			"UPDATE $name SET tenant_id = 'LEAKA'", "INSERT INTO $name (tenant_id) VALUES ('LEAKA')", "TRUNCATE $name")
		{
			# psql is quiet about how many rows it were, and what is written comes back only if it may be read
			my $answer = $session->sql("BEGIN;\n\\set QUIET off\n$write;\n\\set QUIET on\nROLLBACK");
			my $rows = $write =~ /'LEAKA'/ ? '[1-9]' : '[2-9]';
			push @written, "$write: $answer" if $answer =~ /^(?:UPDATE|DELETE|INSERT 0) $rows|^TRUNCATE/m;
		}
	}
	none(\@seen, 'it sees none of them');
	none(\@written, 'it writes none of them');
	$session->close;
	return;
}

# [relation, the columns that the role may read, one of them as text, whether one is tenant_id]
sub readable
{
	my ($role) = @_;
	return $t->rows(qq{
		SELECT c.oid::regclass, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
			string_agg(quote_ident(a.attname) || '::text', ' || ' ORDER BY a.attnum) FILTER (WHERE a.attnotnull OR a.attnum = 1),
			max((a.attname = 'tenant_id')::int)
		  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		 WHERE c.relnamespace = ANY ('@{[ as_array(@schemas) ]}'::regnamespace[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
		   AND has_schema_privilege('$role', c.relnamespace, 'USAGE') AND has_column_privilege('$role', c.oid, a.attnum, 'SELECT')
		 GROUP BY c.oid ORDER BY c.oid::regclass::text});
}

# [table, a column that the role may change or else tenant_id]
sub writable
{
	my ($role) = @_;
	return $t->rows(qq{
		SELECT c.oid::regclass, coalesce(min(quote_ident(a.attname)) FILTER (WHERE has_column_privilege('$role', c.oid, a.attnum, 'UPDATE')), 'tenant_id')
		  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		 WHERE c.relnamespace = ANY ('@{[ as_array(@schemas) ]}'::regnamespace[]) AND c.relkind IN ('r', 'p', 'v')
		   AND EXISTS (SELECT FROM pg_attribute b WHERE b.attrelid = c.oid AND b.attname = 'tenant_id')
		   AND (has_any_column_privilege('$role', c.oid, 'UPDATE, INSERT') OR has_table_privilege('$role', c.oid, 'DELETE, TRUNCATE'))
		 GROUP BY c.oid ORDER BY c.oid::regclass::text});
}

sub as_array { return '{' . join(',', @_) . '}' }

# ---------------------------------------------------------------- functions

sub functions
{
	my ($role, $trick) = @_;
	my $session = $t->session(user => $role);
	my @calls = map { $leak->calls($_, $role) } @schemas;
	my (@shown, @told);

	$session->sql("\\set VERBOSITY verbose\nSET statement_timeout = '20s'; $trick");
	for my $call (@calls)
	{
		my $answer = $session->sql($call->{sql});

		if ($call->{twin} ne $call->{sql})
		{
			my $twin = $session->sql($call->{twin});
			# what it did to its own rows may have made the difference: then it makes none the second time
			my $again = $leak->plain($answer) eq $leak->plain($twin) ? $answer : $session->sql($call->{sql});
			push @told, "$call->{sql}\n  " . excerpt($again) . "\n  and for nobody\n  " . excerpt($twin)
			  if $leak->plain($again) ne $leak->plain($twin);
		}
		push @shown, "$call->{sql}\n  " . excerpt($answer) if shows($answer) && $call->{sql} !~ /LEAKA/;
	}
	cmp_ok(scalar @calls, '>', 20, 'calls: ' . @calls);
	none(\@told, "what is LEAKA's is answered as what isn't there");
	none(\@shown, "what isn't asked about LEAKA doesn't name it");
	$session->close;
	return;
}

# ---------------------------------------------------------------- the rest

sub others
{
	my ($role) = @_;
	my $session = $t->session(user => $role);

	unlike($session->sql('SELECT * FROM pg_stats'), qr/LEAKA/, 'the statistics of columns');
	unlike($session->sql('SELECT * FROM pg_stat_activity'), qr/LEAKA/, 'what others ask');
	for my $other (grep { !member($role, $_) } map { $_->[0] } $t->rows(q{SELECT rolname FROM pg_roles WHERE rolname LIKE 'sentinai%' OR rolsuper}))
	{
		like($session->sql("SET ROLE $other"), qr/permission denied to set role/, "it can't become $other");
	}
	like($session->sql('SET SESSION AUTHORIZATION postgres'), qr/permission denied/, "nor another session's user");
	like($session->sql("SET sentinai.authenticator = '$role'"), qr/cannot be changed now/, 'nor make itself the authenticator');
	$session->close;
	return;
}

sub member
{
	my ($role, $other) = @_;
	return $t->sql("SELECT pg_has_role('$role', '$other', 'MEMBER')") eq 't';
}

sub none
{
	my ($found, $name) = @_;
	is(scalar @$found, 0, $name) or diag(join "\n", @$found);
	return;
}

# As text, or as bytes are shown
sub shows { return $_[0] =~ /LEAKA|4c45414b41/ }

sub excerpt
{
	my ($text) = @_;
	my ($around) = $text =~ /(.{0,80}(?:LEAKA|4c45414b41).{0,80})/s;
	return substr($around // $text, 0, 300) =~ s/\n/ /gr;
}
