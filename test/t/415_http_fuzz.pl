# Whatever is sent, no answer is a 5xx, no error of the server's is one that should not happen, and nobody falls over:
# requests that schemathesis makes from descriptions - /openapi.json, which answers must keep to, and PostgREST's own - and
# values that parsers trip over, in every path, word of a query and body.
#
# In check schemathesis makes the same few requests each time. FUZZ_SECONDS gives it that long instead, and SEED is another
# beginning: `make fuzz` takes a minute and a new one.
use lib 'test/perl';
use Sentinai::Test;
use Sentinai::Paths;
use JSON::PP;

my $seconds = $ENV{FUZZ_SECONDS} // 0;
my $seed = $ENV{SEED} // 1;
my $t = Sentinai::Test->new;
my $program = "$t->{build}/schemathesis/bin/schemathesis";
my $json = JSON::PP->new->canonical->utf8;
my (%seen, $turn);

$t->sql(q{
	SELECT sentinai.tenant_add('TENANT_001'), sentinai.tenant_add('TENANT_002'), sentinai.tenant_add('TENANT_003'),
		sentinai.rate_limit_type_set('api_requests', 1000, 60, enabled => false),
		sentinai.rate_limit_type_set('report_generations', 1000, 60, enabled => false);
	INSERT INTO sentinai.dead_letter_queue (event_id, event_type, tenant_id, exception_id, worker_type, step, error_type, error_message,
		fingerprint, original_topic, original_partition, original_offset, payload, payload_raw)
	SELECT 'EVT_' || n, 'ExceptionIngested', 'TENANT_001', 'EXC_' || n, 'intake', 'handle', 'timeout', 'it took too long',
		'f', 'exceptions', 0, n, '{"amount": 1}', '\x7b7d' FROM generate_series(1, 50) n});
my $h = $t->http;
my %token = (operator => $h->token('sentinai_operator', 'TENANT_001', 'ann'), admin => $h->token('sentinai_admin', undef, 'bob'));

subtest 'values that parsers trip over' => \&odd_values;
subtest 'bodies that parsers trip over' => \&odd_bodies;
subtest 'requests that are none' => \&odd_requests;
my @keeps_to_it = qw(status_code_conformance content_type_conformance response_schema_conformance unsupported_method ignored_auth);
my ($operators, $admins) = map { with_tenants(Sentinai::Paths::document($h, $_)) } @token{qw(operator admin)};
schemathesis('the paths', $h->url, $operators, 'operator', @keeps_to_it);
is($t->sql(q{SELECT string_agg(DISTINCT status, ' ') FROM sentinai.tenant WHERE tenant_id IN ('TENANT_001', 'TENANT_002')}), 'active', 'for tenants that were there to the end');
# Whoever is archived has nothing more to be asked.
delete @{ $admins->{paths} }{ '/admin/tenants/{tenant_id}/archive', grep { $operators->{paths}{$_} } keys %{ $admins->{paths} } };
schemathesis('the admin\'s paths', $h->url, $admins, 'admin', @keeps_to_it);
schemathesis('functions and views, past nginx', $h->postgrest, Sentinai::Paths::openapi($h, $token{admin}), 'admin');

is($h->get('/health')->{status}, 200, 'it answers as before');
my $log = Sentinai::Test::slurp("$t->{cluster_dir}/log");
my @wrong = grep { /PANIC|FATAL(?!:  terminating)|was terminated by signal|XX00\d|unexpected|cache lookup failed|could not find/ && !/STATEMENT|DETAIL|CONTEXT/ } split /\n/, $log;
is(scalar @wrong, 0, 'no error of the server should not have happened') or diag(join "\n", @wrong[ 0 .. ($#wrong > 20 ? 20 : $#wrong) ]);
is($t->sql('SELECT count(*) FROM pg_stat_activity WHERE usename = \'authenticator\' AND state ~ \'transaction\''), '0', 'no transaction was left open');
done_testing();

# ---------------------------------------------------------------- schemathesis

sub schemathesis
{
	my ($name, $url, $document, $who, @checks) = @_;
	my $file = "$t->{dir}/" . ($name =~ s/\W+/-/gr) . '.json';

	open my $handle, '>', $file or die "$file: $!";
	print {$handle} $json->encode($document);
	close $handle;
	my ($status, $out, $err) = Sentinai::Test::capture({}, 'env', "HOME=$t->{dir}", 'sh', '-c', 'cd "$0" && exec "$@"', $t->{dir},
		$program, 'run', $file, '--url', $url, '-H', "Authorization: Bearer $token{$who}", '--checks', join(',', 'not_a_server_error', @checks),
		($seconds ? ('--phases', 'coverage,fuzzing', '--max-time', int($seconds / 2), '-n', 20) : ('--phases', 'fuzzing', '-n', 4)), '--seed', $seed, '--continue-on-failure', '--no-shrink',
		'--generation-database', 'none', '--warnings', 'off', '--no-color', '--request-timeout', 30);
	my ($cases) = $out =~ /^\s+(\d+) generated/m;

	is($status, 0, "schemathesis: $name, seed $seed") or diag($out, $err);
	cmp_ok($cases // 0, '>', 20, "$name: " . ($cases // 0) . ' requests');
	return;
}

# Next to no text that it could think of is a tenant.
sub with_tenants
{
	my ($document) = @_;
	for my $operation (map { values %$_ } values %{ $document->{paths} })
	{
		$_->{schema}{enum} = [qw(TENANT_001 TENANT_002 TENANT_9)] for grep { $_->{name} eq 'tenant_id' && $operation->{operationId} !~ /^rest_/ } @{ $operation->{parameters} };
	}
	return $document;
}

# ---------------------------------------------------------------- by hand

# As they stand in an address
sub values_by_hand
{
	return (
		'%00', 'a%00b', '%ff', '%C3%28', '%ED%A0%80', '%F0%9F%92%A9', '%', '%zz', '%25', '%2525', '%2F..%2F', '%0A', '%0D%0AX-A:%20b', '%22', '%27', "'", '%5C', '*',
		'-1', '0', '00', '1.5', '1e400', '9223372036854775807', '9223372036854775808', '99999999999999999999999', '-9223372036854775808', '2147483648', 'NaN', 'infinity',
		'-infinity', '2025-13-45', '294277-01-01', '0000-00-00', '2025-01-01T00:00:00%2B99:99', 'null', 'true', '%7B%7D', '%5B%5D', '{1,2}', '(a,b)', 'eq.x', 'x' x 300, 'x' x 5000,
		'%E2%80%AE', 'a=b', 'a%26b%3Dc', '+', '%20', ';', '$1', '%24%24', '\\x00', 'DEFAULT');
}

# Who is archived is asked nothing more.
sub tenant_for { return $_[0]{name} eq 'tenant_archive' ? 'TENANT_003' : 'TENANT_001' }

sub odd_values
{
	my (%status, @wrong);
	my $n = 0;

	for my $path (Sentinai::Paths::paths())
	{
		for my $word (@{ $path->{in_path} }, @{ $path->{query} })
		{
			for my $value (values_by_hand())
			{
				# each pair of word and value somewhere, and a sixth of them everywhere
				next if $n++ % 6 && $seen{"$word $value"}++;
				my ($address, @query) = $path->{path} =~ s/\{(\w+)\}/$1 eq $word ? $value : $1 =~ m{tenant} ? tenant_for($path) : 1/ger;
				push @query, "$word=$value" if !grep { $_ eq $word } @{ $path->{in_path} };
				push @query, 'tenant_id=TENANT_001' if $word ne 'tenant_id' && grep { $_ eq 'tenant_id' } @{ $path->{query} };
				note_answer(\%status, \@wrong, $path->{method}, join('?', $address, @query ? join('&', @query) : ()),
					$path->{method} =~ /^P/ ? (body => '{}') : ());
			}
		}
	}
	return report(\%status, \@wrong);
}

sub odd_bodies
{
	my (%status, @wrong);
	my @bodies = (
		'', ' ', '{', '}', 'null', '[]', '"x"', '1', 'true', '[{}]', '{"id":1e999999}', '{"id":-0}', '{"id":"1"}', '{"id":[1]}', '{"id":{}}', "{\"reason\":\"\x{0}\"}",
		'{"reason":"\u0000"}', '{"reason":"\ud800"}', "{\"reason\":\"\xff\xfe\"}", '{"a":1,"a":2}', '{"":""}', '[' x 100_000, '{"a":' x 5_000, '{"reason":' . '[' x 3_000 . ']' x 3_000 . '}',
		'{"dlq_ids":"1"}', '{"dlq_ids":{}}', '{"dlq_ids":[null]}', '{"dlq_ids":[1.5]}', '{"dlq_ids":[99999999999999999999]}', '{"dlq_ids":[[1]]}', '{"dlq_ids":[' . join(',', (1) x 20_000) . ']}',
		'{"ids":["a"]}', '{"limit_value":1e308}', '{"limit_type":"api_requests","limit_value":0}', '{"limit_type":"api_requests","limit_value":"many","window_seconds":-1}',
		'{"limit_type":{},"limit_value":[]}', '{"enabled":"maybe","limit_type":"api_requests","limit_value":5}', '{"report_type":null,"format":1,"parameters":[]}',
		'{"report_type":"exception_activity","title":"t","format":"csv","parameters":{"from_date":"infinity","to_date":"-infinity"}}',
		'{"report_type":"exception_activity","title":"t","format":"csv","parameters":{"from_date":"2025-02-30","to_date":5}}',
		'{"report_type":"exception_activity","title":{"a":1},"format":["csv"],"parameters":{"from_date":null}}', '{"payload":' . '9' x 2_000 . '}', '{"payload":1e5000}',
		'{"event_id":"' . 'x' x 10_000 . '"}', '{"exception_id":"\\n\\t","severity":5,"amount":"NaN"}', '{"exception_id":"E","amount":1e400}', '{"tenant_id":["TENANT_001"]}',
		'{"actor":{"a":[]},"reason":false}', 'x' x 3_000_000, "\xef\xbb\xbf{}", '{"valid_for":"1000000 years"}', '{"valid_for":{}}', "{}\n{}", '{"timestamp":"yesterday"}');

	for my $path (grep { $_->{method} =~ /^P/ } Sentinai::Paths::paths())
	{
		my $address = $path->{path} =~ s/\{(\w+)\}/$1 =~ m{tenant} ? tenant_for($path) : 2/ger . '?tenant_id=TENANT_001';
		for my $body (@bodies)
		{
			next if length $body > 1_000_000 && $path->{name} !~ /^(?:dlq_retry|exceptions)$/;
			note_answer(\%status, \@wrong, $path->{method}, $address, body => $body,
				headers => { 'Content-Type' => (length $body) % 7 ? 'application/json' : 'text/plain', 'Idempotency-Key' => "k$path->{name}" . length $body });
		}
	}
	return report(\%status, \@wrong);
}

sub note_answer
{
	my ($status, $wrong, $method, $path, %option) = @_;
	my $answer = $h->request($method, $path, token => $token{ ++$turn % 3 ? 'operator' : 'admin' }, %option);

	# nginx closes the connection on what is too large, and may do so while it is still being sent
	my $large = length($option{body} // '') > 2_000_000;
	$status->{ $answer->{status} }++;
	push @$wrong, "$method $path " . substr($option{body} // '', 0, 200) . "\n  $answer->{status} " . substr($answer->{body}, 0, 400)
	  if $answer->{status} >= 500 && !($large && $answer->{status} == 599);
	return;
}

sub report
{
	my ($status, $wrong) = @_;
	my $all = 0;

	$all += $_ for values %$status;
	is(scalar @$wrong, 0, "$all requests: " . join ', ', map { "$status->{$_} times $_" } sort keys %$status)
	  or diag(join "\n", @$wrong[ 0 .. ($#$wrong > 30 ? 30 : $#$wrong) ]);
	return;
}

# Bytes that are no HTTP, or too much of it
sub odd_requests
{
	my %requests = (
		'empty lines before it' => "\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		'no version' => "GET /health\r\n\r\n",
		'a method that is none' => "BREW /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		'TRACE' => "TRACE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		'a blank in the address' => "GET /ops/dlq x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		'an absolute address' => "GET http://other/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		'climbing out' => "GET /health/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		'a NUL' => "GET /health\x{0} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		'two lengths' => "POST /ops/dlq/1/retry HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 30\r\nConnection: close\r\n\r\n{}",
		'length and chunks' => "POST /ops/dlq/1/retry HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n",
		'chunks that are none' => "POST /ops/dlq/1/retry HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n",
		'a length below nothing' => "POST /ops/dlq/1/retry HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
		'a long address' => 'GET /' . 'a' x 100_000 . " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		'a long header' => "GET /health HTTP/1.1\r\nHost: x\r\nX: " . 'a' x 100_000 . "\r\nConnection: close\r\n\r\n",
		'many headers' => "GET /health HTTP/1.1\r\nHost: x\r\n" . join('', map { "X-$_: y\r\n" } 1 .. 2_000) . "Connection: close\r\n\r\n",
		'no host' => "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
		'high bytes in a key' => "POST /ops/dlq/1/retry?tenant_id=TENANT_001 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $token{operator}\r\n"
		  . "Idempotency-Key: \xff\xfe\xed\xa0\x80\r\nX-Custom: \xc3\x28\r\nCookie: a=\xff\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
		'a cookie of odd words' => "GET /ops/dlq?tenant_id=TENANT_001 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $token{operator}\r\n"
		  . "Cookie: =; ;;a=b=c; \"\r\nPrefer: ;;=,,\r\nRange: items=9-1\r\nAccept: */;q=x\r\nContent-Type: \xff\r\nConnection: close\r\n\r\n",
		'high bytes' => "GET /\xff\xfe HTTP/1.1\r\nHost: \xff\r\nAuthorization: Bearer \xff\r\nConnection: close\r\n\r\n",
	);

	for my $name (sort keys %requests)
	{
		my $answer = $h->raw($requests{$name});
		my ($status) = $answer =~ m{^HTTP/1\.\d (\d+)};
		ok(!defined $status || $status < 500 && $answer !~ /<html/i, "$name: " . ($status // 'no answer') . ', no page') or diag(substr $answer, 0, 300);
	}
	return;
}
