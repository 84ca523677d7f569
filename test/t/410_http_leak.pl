# What a tenant finds out about a neighbour over HTTP: every path of docker/nginx.conf, and past nginx every function and
# view that PostgREST shows, with the neighbour's ids in the path, the query, the body and the headers, as the tenant, as
# nobody, and with tokens that nobody signed. No answer may have a word of the neighbour's rows, and each must be the same
# - status, headers, body - as for a tenant and ids that don't exist. The time that it takes is left out.
use lib 'test/perl';
use Sentinai::Test;
use Sentinai::Leak;
use Sentinai::Paths;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);

my $t = Sentinai::Test->new(settings => "sentinai.databases = 'none'");
my $leak = Sentinai::Leak->new($t);
$t->sql(q{SELECT sentinai.rate_limit_type_set('api_requests', 1000, 60, enabled => false)});
my $h = $t->http;
my $operator = $h->token('sentinai_operator', 'LEAKQ', 'bob');
my @views = map { $_->[0] } $t->rows(q{
	SELECT relname FROM pg_class WHERE relnamespace = 'sentinai_api'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') ORDER BY 1});

# Who asks; and what he adds to each request in the hope that it counts
my %asker = (
	'the tenant' => { token => $operator },
	'the tenant, with headers' => { token => $operator, headers => {
		'X-Tenant-Id' => 'LEAKA', 'X-Sentinai-Tenant' => 'LEAKA', 'X-Role' => 'sentinai_admin', Role => 'sentinai_admin',
		Prefer => 'count=exact, return=representation, tx=commit', Range => '0-999', 'Range-Unit' => 'items', 'X-Forwarded-User' => 'postgres',
		Cookie => 'tenant_id=LEAKA', Origin => 'https://leaka.example', 'X-Original-URL' => '/ops/dlq?tenant_id=LEAKA' } },
	'a viewer of the tenant' => { token => $h->token('sentinai_viewer', 'LEAKQ') },
	'an operator of no tenant' => { token => $h->token('sentinai_operator') },
	'one whose token has two kinds of tenant' => { token => $h->token('sentinai_operator', 'LEAKQ', undef,
		claims => { 'tenant_id ' => 'LEAKA', tenant => 'LEAKA', tenants => ['LEAKA'], app_metadata => { tenant_id => 'LEAKA' } }) },
	'one whose tenants are a list' => { token => $h->token('sentinai_operator', undef, undef, claims => { tenant_id => [ 'LEAKQ', 'LEAKA' ] }) },
	'nobody' => {},
	'a forged token' => { token => forged('sentinai_operator', 'LEAKA') },
	'a forged token of an admin' => { token => forged('sentinai_admin') },
);

subtest 'what is asked is there' => sub {
	my $ann = $h->token('sentinai_operator', 'LEAKA', 'ann');
	my %names = map { $_->{path} => 1 } grep { ($_->{method} eq 'GET') } Sentinai::Paths::paths();
	my @shown = grep { my $r = $h->get($_, token => $ann); $r->{status} == 200 && $r->{body} =~ /LEAKA/ }
	  map { $_->{path} } grep { $_->{method} eq 'GET' } requests_of_paths();

	cmp_ok(scalar @shown, '>=', keys(%names) / 3, 'the neighbour himself sees his rows: ' . @shown . ' answers have them');
	like($h->get('/ops/dlq/900000001?tenant_id=LEAKA', token => $ann)->{body}, qr/LEAKA-error_message/, 'his dead letter');
};

my $before = $leak->digest;
for my $name (sort keys %asker)
{
	# Who has no tenant gets no further than the door: a part of the questions is enough to see that it is shut.
	my $some = $name eq 'the tenant' ? 1 : $name =~ /headers|viewer/ ? 5 : 12;

	subtest "$name: the paths" => sub { ask($asker{$name}, 0, every($some, requests_of_paths())) };
	subtest "$name: functions, past nginx" => sub { ask($asker{$name}, 1, every($some, requests_of_functions())) };
	subtest "$name: views" => sub { ask($asker{$name}, 0, every($some, requests_of_views('/rest/'))) };
	subtest "$name: views, past nginx" => sub { ask($asker{$name}, 1, every($some * 3, requests_of_views('/'))) };
}

subtest 'the tables and functions inside are not to be had' => sub {
	my @inside = $t->rows(q{
		SELECT '/' || relname FROM pg_class WHERE relnamespace = 'sentinai'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
		UNION SELECT '/rpc/' || proname FROM pg_proc WHERE pronamespace = 'sentinai'::regnamespace});
	my %outside = map { $_->[0] => 1 } $t->rows(q{
		SELECT '/rpc/' || proname FROM pg_proc WHERE pronamespace = 'sentinai_api'::regnamespace
		UNION SELECT '/' || relname FROM pg_class WHERE relnamespace = 'sentinai_api'::regnamespace});
	my $admin = $h->token('sentinai_admin');
	my (%status, @open);

	# An admin may do all of it in SQL, so PostgREST alone keeps it from HTTP. Each way is tried on every fourth.
	for my $n (0 .. $#inside)
	{
		my ($path) = @{ $inside[$n] };
		my $answer =
		    $n % 4 == 0 ? $h->get($path, token => $operator, direct => 1, headers => { 'Accept-Profile' => 'sentinai' })
		  : $n % 4 == 1 ? $h->get($path, token => $admin, headers => { 'Accept-Profile' => 'sentinai' })
		  : $n % 4 == 2 ? $h->post($path, token => $admin, direct => 1, body => {}, headers => { 'Content-Profile' => 'sentinai' })
		  : $outside{$path} ? next
		  : $h->get($path, token => $admin, direct => 1);
		$status{ $answer->{status} }++;
		push @open, "$path $answer->{status} $answer->{body}" if $answer->{status} !~ /^40[46]$/;
	}
	is(scalar @open, 0, join ', ', map { "$status{$_} times $_" } sort keys %status) or diag(join "\n", @open[ 0 .. ($#open > 9 ? 9 : $#open) ]);
	unlike(JSON::PP->new->encode(Sentinai::Paths::openapi($h, $operator)), qr/LEAKA/, 'the description has no row');
};

is($leak->digest, $before, "LEAKA's rows are as they were");

subtest 'an Idempotency-Key is a tenant\'s' => sub {
	my $ann = $h->token('sentinai_operator', 'LEAKA', 'ann');
	my %key = (headers => { 'Idempotency-Key' => 'the same' });
	my ($his_id, $my_id) = map { $t->sql(qq{
		INSERT INTO sentinai.dead_letter_queue (tenant_id, worker_type, step, error_type, error_message, fingerprint, original_topic)
		VALUES ('$_', 'intake', 'handle', 'timeout', '$_', 'f', 'exceptions') RETURNING id}) } 'LEAKA', 'LEAKQ';
	my $his = $h->post("/ops/dlq/$his_id/discard?tenant_id=LEAKA", token => $ann, body => { reason => 'mine' }, %key);
	my $mine = $h->post("/ops/dlq/$my_id/discard?tenant_id=LEAKQ", token => $operator, body => { reason => 'other' }, %key);

	is($his->{status}, 200, 'the neighbour has used it') or diag($his->{body});
	is($mine->{status}, 200, 'and so may another tenant') or diag($mine->{body});
	unlike($mine->{body}, qr/LEAKA/, 'for what is its own');
};
done_testing();

# ---------------------------------------------------------------- asking

sub ask
{
	my ($asker, $direct, @requests) = @_;
	my (@told, @shown, %status);

	for my $request (@requests)
	{
		my $answer = answer($asker, $direct, $request);
		my $line = join ' ', grep { defined } "$request->{method} $request->{path}", $request->{body}, %{ $request->{headers} // {} };

		$status{ $answer->{status} }++;
		push @shown, "$line\n  " . excerpt($answer) if $answer->{text} =~ /LEAKA|4c45414b41|TEVBS0/ && $line !~ /(?:L|%4C)EAKA/;
		push @shown, "$line\n  $answer->{status} $answer->{text}" if $answer->{status} >= 500;
		# the same question, when it names nothing of the neighbour's
		next if !defined $request->{twin};
		my $twin = answer($asker, $direct, $request->{twin});
		next if same($answer, $twin);
		# what he did to his own rows may have made the difference: then it makes none the second time
		$answer = answer($asker, $direct, $request);
		push @told, "$line\n  " . excerpt($answer) . "\n  and for nobody\n  " . excerpt($twin) if !same($answer, $twin);
	}
	note(join ', ', map { "$status{$_} times $_" } sort keys %status);
	cmp_ok(scalar @requests, '>', 0, 'asked: ' . @requests) if !$direct;
	none(\@told, "what is LEAKA's is answered as what isn't there");
	none(\@shown, "what isn't asked about LEAKA doesn't name it, and nothing is a 5xx");
	return;
}

sub same
{
	my ($answer, $twin) = @_;
	return $answer->{status} eq $twin->{status} && $leak->plain($answer->{text}) eq $leak->plain($twin->{text});
}

# status, and text: body and headers, without those that say when and how long
sub answer
{
	my ($asker, $direct, $request) = @_;
	my $r = $h->request($request->{method}, $request->{path}, token => $asker->{token}, direct => $direct,
		(defined $request->{body} ? (body => $request->{body}) : ()),
		headers => { %{ $asker->{headers} // {} }, %{ $request->{headers} // {} } });
	my %headers = %{ $r->{headers} };

	delete @headers{qw(date connection server content-length transfer-encoding ratelimit)};
	return { status => $r->{status}, text => join "\n", $r->{body}, map { "$_: $headers{$_}" } sort keys %headers };
}

# A request and its twin; without a twin where both would be the same
sub pair
{
	my ($method, $path, $body, $headers) = @_;
	my $request = { method => $method, path => $path, body => $body, headers => $headers };
	my $twin = { method => $method, path => turned($path), body => turned($body),
		headers => { map { $_ => turned($headers->{$_}) } keys %{ $headers // {} } } };
	my $same = join("\0", $path, $body // '', %{ $headers // {} }) eq join("\0", $twin->{path}, $twin->{body} // '', %{ $twin->{headers} });

	$request->{twin} = $twin if !$same;
	return $request;
}

# A text with LEAKA's values in it, about nobody
sub turned
{
	my ($text) = @_;
	return undef if !defined $text;
	$text =~ s/(L|%4C)EAKA/$1EAKB/g;
	$text =~ s/(?:(?<=%28)|\b)900000001\b/970000001/g;
	$text =~ s/(0f0f0f0f-0000-4000-8000-00000000000)a/$1e/g;
	return $text;
}

sub every
{
	my ($n, @list) = @_;
	return @list[ grep { $_ % $n == 0 } 0 .. $#list ];
}

# ---------------------------------------------------------------- what to ask

# Bodies for whoever takes one: nothing; and every word that we know, with LEAKA's values
my $everything = JSON::PP->new->canonical->encode({
	tenant_id => 'LEAKA', id => 900000001, ids => [900000001], dlq_ids => [900000001], reason => 'r', actor => 'bob', report_id => 'LEAKA-id',
	exception_id => 'LEAKA-exception_id', event_id => 'LEAKA-event_id', report_type => 'exception_activity', title => 't', format => 'csv',
	limit_type => 'api_requests', limit_value => 5, window_seconds => 60, event_type => 'ExceptionIngested', payload => {}, key => 'LEAKA-key',
	parameters => { from_date => '2020-01-01', to_date => '2030-01-01' } });
my $turn = 0;
my $own = $everything =~ s/"tenant_id":"LEAKA"/"tenant_id":"LEAKQ"/r;

sub requests_of_paths
{
	my @requests;

	for my $path (Sentinai::Paths::paths())
	{
		my @bodies = $path->{method} =~ /^P/ ? ('{}', $everything, $own) : undef;
		my @filled = filled($path);
		for my $query (queries(@{ $path->{query} }))
		{
			push @requests, pair($path->{method}, $filled[ $turn++ % @filled ] . $query, $_) for @bodies;
		}
		push @requests, pair($path->{method}, $_, $bodies[0]) for @filled;
		push @requests, pair($_, $filled[0], undef) for $path->{method} eq 'GET' ? qw(HEAD OPTIONS DELETE) : ();
	}
	return @requests;
}

# A path with each of LEAKA's values that its words may stand for
sub filled
{
	my ($path) = @_;
	my @paths = $path->{path};

	for my $word (@{ $path->{in_path} })
	{
		my @values =
		    $word =~ /tenant/ ? 'LEAKA'
		  : $word eq 'rest' ? @views
		  : $path->{is_number}{$word} ? 900000001
		  : qw(LEAKA-id LEAKA-exception_id LEAKA-event_id);
		@paths = map { my $value = $_; map { s/\{$word\}/$value/gr } @paths } @values;
	}
	return @paths;
}

# Nothing; LEAKA's tenant; the asker's own; and each word that has a value of LEAKA's
sub queries
{
	my (@words) = @_;
	my %has = map { $_ => 1 } @words;
	my @queries = ('', $has{tenant_id} ? ('?tenant_id=LEAKA', '?tenant_id=LEAKQ', '?tenant_id=LEAKQ&tenant_id=LEAKA', '?tenant_id=%4CEAKA') : ());

	for my $word (grep { !/tenant/ } @words)
	{
		my ($value) = $leak->values_for($word, 'text');
		$value //= { order => 'tenant_id', limit => 1000, offset => 0, after => '2020-01-01T00:00:00.000000Z_900000001' }->{$word} // next;
		# by turns with each kind of tenant
		push @queries, '?' . ($has{tenant_id} ? ('', 'tenant_id=LEAKQ&', 'tenant_id=LEAKA&')[ $turn++ % 3 ] : '') . "$word=$value";
	}
	return @queries;
}

# GET and POST of each function of the schema, whether the asker may call it or not
sub requests_of_functions
{
	my @requests;

	for my $row ($t->rows(q{
		SELECT p.proname, coalesce(array_to_string((p.proargnames)[1:p.pronargs], ','), ''), p.pronargs, p.proretset::int
		  FROM pg_proc p WHERE p.pronamespace = 'sentinai_api'::regnamespace ORDER BY 1}))
	{
		my ($name, $arguments, $count, $set) = @$row;
		my @arguments = grep { $_ ne '' } split /,/, $arguments;
		if ($count && !@arguments)
		{
			# its one argument is the body; nginx puts path and query into a header
			for my $header ('id=900000001&tenant_id=LEAKA', 'id=900000001&tenant_id=LEAKQ', 'id=900000001&tenant_id=', '')
			{
				push @requests, pair('POST', "/rpc/$name", $_, { 'X-Sentinai-Args' => $header }) for '{}', $everything, $own;
			}
			next;
		}
		for my $with (arguments(@arguments))
		{
			my $query = join '&', map { "$_=$with->{$_}" } sort keys %$with;
			push @requests, pair('GET', "/rpc/$name?$query"), pair('POST', "/rpc/$name", JSON::PP->new->canonical->encode($with));
			# and by turns in each of the ways that PostgREST has besides
			my @others = (
				pair('HEAD', "/rpc/$name?$query"), pair('GET', "/rpc/$name?$query", undef, { Prefer => 'count=exact', Range => '0-9' }),
				(map { pair('GET', "/rpc/$name?$query", undef, { Accept => $_ }) }
					qw(text/csv application/vnd.pgrst.object+json application/vnd.pgrst.plan+json application/octet-stream */*)),
				(map { pair('GET', "/rpc/$name?$query&$_") } $set ? ('select=*', 'order=tenant_id', 'tenant_id=eq.LEAKA', 'limit=1&offset=0') : ()));
			push @requests, $others[ $turn++ % @others ];
		}
	}
	return @requests;
}

# Arguments with LEAKA's ids, for LEAKA, for the asker's own tenant, and without one
sub arguments
{
	my (@names) = @_;
	my %ids;

	for my $name (grep { !/tenant/ } @names)
	{
		my ($value) = $leak->values_for($name, 'text');
		$ids{$name} = $value if defined $value && $value =~ /LEAKA|9000/;
	}
	return ({%ids}) if !grep { /^(?:p_)?tenant/ } @names;
	my ($tenant) = grep { /^(?:p_)?tenant/ } @names;
	return ({%ids}, map { ({ $tenant => $_ }, { %ids, $tenant => $_ }) } 'LEAKA', 'LEAKQ');
}

# Filters, embeddings and writes on each view of the schema
sub requests_of_views
{
	my ($before) = @_;
	my %columns;
	my @requests;

	push @{ $columns{ $_->[0] } }, $_->[1] for $t->rows(q{
		SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		 WHERE c.relnamespace = 'sentinai_api'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY 1, a.attnum});
	for my $view (sort keys %columns)
	{
		push @requests, pair('GET', "$before$view"), pair('GET', "$before$view?select=*&order=$columns{$view}[0].desc"),
		  pair('GET', "$before$view", undef, { Prefer => 'count=exact', Range => '0-9' }), pair('HEAD', "$before$view", undef, { Prefer => 'count=exact' }),
		  pair('GET', "$before$view?or=(tenant_id.eq.LEAKA,tenant_id.neq.LEAKQ)"), pair('DELETE', "$before$view?tenant_id=eq.LEAKA"),
		  pair('PATCH', "$before$view?tenant_id=eq.LEAKA", '{"tenant_id":"LEAKQ"}', { Prefer => 'return=representation' }),
		  pair('POST', "$before$view", '{"tenant_id":"LEAKA"}', { Prefer => 'resolution=merge-duplicates,return=representation' }),
		  map { pair('GET', "$before$view?select=*,$_(*)") } sort keys %columns;
		for my $column (@{ $columns{$view} })
		{
			my ($value) = $leak->values_for($column, 'text');
			my @filters = ('like.*LEAKA*', 'not.is.null', defined $value ? ("eq.$value", "neq.$value", "in.($value)") : (),
				# an id below another may be one's own
				defined $value && $value !~ /^\d+$/ ? "lt.$value" : ());
			push @requests, pair('GET', "$before$view?$column=$filters[ $turn++ % @filters ]");
		}
	}
	return @requests;
}

# ---------------------------------------------------------------- the rest

# By a key that PostgREST doesn't have
sub forged
{
	my ($role, $tenant) = @_;
	my $text = join '.', map { encode_base64url($_) } '{"alg":"HS256","typ":"JWT"}',
	  JSON::PP->new->encode({ role => $role, aud => 'sentinai', exp => time + 600, ($tenant ? (tenant_id => $tenant) : ()) });
	return "$text." . encode_base64url('x' x 32);
}

sub none
{
	my ($found, $name) = @_;
	is(scalar @$found, 0, $name) or diag(join "\n", @$found[ 0 .. ($#$found > 40 ? 40 : $#$found) ]);
	return;
}

sub excerpt
{
	my ($answer) = @_;
	return "$answer->{status} " . substr($answer->{text}, 0, 400) =~ s/\n/ /gr;
}
