# What HTTP answers when all is not well: bad input, the limit, a key that is used twice, at once, or with the line cut;
# and what it must get right in between: encodings, pages, headers.
use lib 'test/perl';
use Sentinai::Test;
use IO::Socket::INET;
use JSON::PP;
use IO::Uncompress::Gunzip qw(gunzip);

my $t = Sentinai::Test->new(settings => 'sentinai.maintenance_interval = 50ms; timezone = Asia/Kolkata');
$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('TENANT_001'), tenant_add('TENANT_002'), tenant_add('LIMITED'), tenant_add('KEYS'), tenant_add('PAGES');
INSERT INTO dead_letter_queue (event_id, event_type, tenant_id, exception_id, worker_type, step, error_type, error_message,
							   fingerprint, original_topic, original_partition, original_offset, payload, payload_raw, created_at)
SELECT 'EVT_' || n, 'ExceptionIngested', CASE WHEN n > 45 THEN '' WHEN n > 40 THEN 'TENANT_002' ELSE 'TENANT_001' END, 'EXC_' || n, 'intake', 'handle',
	   'timeout', 'downstream timed out', 'f', 'exceptions', 0, n, '{"secret": 1}', '\x7b7d', now() - (n / 3) * interval '1 minute'
  FROM generate_series(1, 46) n;
SELECT rate_limit_set('TENANT_001', 'api_requests', 100000);
SELECT rate_limit_set('LIMITED', 'api_requests', 3, 86400), rate_limit_set('TENANT_002', 'report_generations', 1, 86400);
SQL
my $h = $t->http;
my $operator = $h->token('sentinai_operator', 'TENANT_001', 'ann@example.com');
my $neighbour = $h->token('sentinai_operator', 'TENANT_002', 'bob@example.com');
my $admin = $h->token('sentinai_admin', undef, 'root@example.com');

# ---------------------------------------------------------------- bad input is never our fault

my $long = 'x' x (3 * 1024 * 1024);
my @bad = (
	# method, path, body, status
	[ GET => '/', undef, 404 ],
	[ GET => '/rpc/dlq_list', undef, 404 ],
	[ GET => '/ops', undef, 404 ],
	[ GET => '/ops/dlq/x', undef, 404 ],
	[ GET => '/ops/dlq/1/../2', undef, 404 ],
	[ GET => '/ops//dlq', undef, 404 ],
	[ GET => '/ops/dlq?limit=0', undef, 422 ],
	[ GET => '/ops/dlq?limit=1001', undef, 422 ],
	[ GET => '/ops/dlq?limit=ten', undef, 422 ],
	[ GET => '/ops/dlq?limit=99999999999999999999', undef, 422 ],
	[ GET => '/ops/dlq?offset=-1', undef, 422 ],
	[ GET => '/ops/dlq?order=sideways', undef, 422 ],
	[ GET => '/ops/dlq?after=yesterday', undef, 422 ],
	[ GET => '/audit/reports?after=yesterday', undef, 422 ],
	[ GET => '/usage/details?after=yesterday', undef, 422 ],
	[ GET => '/api/exceptions/EXC_1/events?after=yesterday', undef, 404 ],
	[ GET => '/ops/dlq?after=2025-13-45T99:99:99.000000Z_1', undef, 422 ],
	[ GET => '/ops/dlq?after=2025-01-01T00:00:00.000000Z_x', undef, 422 ],
	[ GET => "/ops/dlq?status=%27%3B--", undef, 422 ],
	[ GET => '/ops/dlq/99999999999999999999', undef, 422 ],
	[ GET => '/ops/dlq/-1', undef, 404 ],
	[ GET => '/ops/dlq?tenant_id=%FF', undef, 400 ],
	[ GET => "/ops/dlq?tenant_id=\xff", undef, 400 ],
	[ GET => '/api/exceptions/TENANT_001/%FF/trace', undef, 400 ],
	[ GET => '/api/exceptions/%C3%28/events', undef, 400 ],
	[ GET => '/api/exceptions/a%00b/events', undef, 400 ],
	[ GET => '/ops/dlq?' . ('a' x 20000), undef, 414 ],
	[ GET => '/=bad', undef, 404 ],
	[ GET => '/=bare', undef, 404 ],
	[ GET => '/=options', undef, 404 ],
	[ TRACE => '/ops/dlq', undef, 405 ],
	[ GET => '/api/exceptions/TENANT_001/EXC_1&x/trace', undef, 404 ],
	[ POST => '/ops/dlq/1/retry', '{"a":' x 20000 . 1 . '}' x 20000, 413 ],
	[ POST => '/ops/dlq/1/retry', '{', 400 ],
	[ POST => '/ops/dlq/1/retry', '[1]', 400 ],
	[ POST => '/ops/dlq/1/retry', '"text"', 400 ],
	[ POST => '/ops/dlq/1/retry', 'null', 400 ],
	[ POST => '/ops/dlq/1/retry', "{\"reason\": \"\xff\"}", [ 400, 422 ] ],
	[ POST => '/ops/dlq/1/retry', '{"reason": "a\u0000b"}', [ 400, 422 ] ],
	[ POST => '/ops/dlq/1/retry', '{"reason": "\ud800"}', [ 400, 422 ] ],
	[ POST => '/ops/dlq/1/retry', '{"reason": 7}', 422 ],
	[ POST => '/ops/dlq/1/retry?actor=%ff', '{}', 400 ],
	[ POST => '/ops/dlq/1/retry?actor=' . 'x' x 256, '{}', 422 ],
	[ POST => '/ops/dlq/1/discard', '{"reason": "r", "actor": "' . 'x' x 100000 . '"}', 422 ],
	[ POST => '/ops/dlq/99999999999999999999/retry', '{}', 422 ],
	[ POST => '/ops/dlq/1/discard', '{}', 422 ],
	[ POST => '/ops/dlq/1/discard', '{"reason": "' . 'x' x 1001 . '"}', 422 ],
	[ POST => '/ops/circuits/open', '{"worker_type": "intake", "event_type": "ExceptionIngested", "reason": "' . 'x' x 1001 . '"}', 422 ],
	[ POST => '/ops/dlq/retry-batch', '{}', 422 ],
	[ POST => '/ops/dlq/retry-batch', '{"dlq_ids": []}', 422 ],
	[ POST => '/ops/dlq/retry-batch', '{"dlq_ids": [1.5]}', 422 ],
	[ POST => '/ops/dlq/retry-batch', '{"dlq_ids": ["1"]}', 422 ],
	[ POST => '/ops/dlq/retry-batch', '{"dlq_ids": {"a": 1}}', 422 ],
	[ POST => '/ops/dlq/retry-batch', '{"dlq_ids": [' . join(',', 1 .. 1001) . ']}', 422 ],
	[ POST => '/ops/dlq/1/retry', "{\"reason\": \"$long\"}", 413 ],
	[ POST => '/audit/reports', '{}', 422 ],
	[ POST => '/audit/reports', '{"report_type": "nonsense", "title": "t", "format": "csv"}', 422 ],
	[ POST => '/audit/reports', '{"report_type": "exception_activity", "title": "t", "format": "xls"}', 422 ],
	[ POST => '/audit/reports', '{"report_type": "exception_activity", "title": "t", "format": "csv", "parameters": []}', 422 ],
	[ POST => '/audit/reports', '{"report_type": "exception_activity", "title": "t", "format": "csv", "parameters": {"from_date": "soon", "to_date": "2025-01-01"}}', 422 ],
	[ GET => '/audit/reports?page=0', undef, 422 ],
	[ GET => '/audit/reports?page_size=9999', undef, 422 ],
	[ GET => '/audit/reports/nothing', undef, 404 ],
	[ GET => '/audit/reports/nothing/download', undef, 404 ],
	[ GET => '/audit/reports/nothing/download?token=x', undef, 403 ],
	[ GET => '/usage/summary?period=century', undef, 422 ],
	[ GET => '/usage/details?from_date=soon', undef, 422 ],
	[ GET => '/usage/details?granularity=second', undef, 422 ],
	[ GET => '/rest/dead_letter_queue?id=eq.x', undef, 400 ],
	[ GET => '/rest/dead_letter_queue?select=event_id::integer', undef, 422 ],
	[ GET => '/usage/export?format=xls', undef, 422 ],
	[ PUT => '/admin/rate-limits/TENANT_001', '{"limit_type": "api_requests", "limit_value": 5}', 403 ],
	[ POST => '/api/exceptions/TENANT_001', '{"severity": "high", "tenant_id": "TENANT_002"}', 422 ],
	[ POST => '/api/exceptions/TENANT_001', '{"event_type": "PlaybookCompleted", "payload": {}}', 422 ],
	[ POST => '/api/exceptions/TENANT_001', '{"payload": {}, "version": "x"}', 422 ],
	[ POST => '/api/exceptions/TENANT_002', '{}', 403 ],
	[ POST => '/api/exceptions/NOBODY', '{}', 403 ]);
for my $case (@bad)
{
	my ($method, $path, $body, $status) = @$case;
	my $shown = substr("$method $path " . ($body // ''), 0, 100) =~ s/[^ -~]/?/gr;
	my $answer = $h->request($method, $path, token => $operator, defined $body ? (body => $body) : ());
	my @may = ref $status ? @$status : $status;
	ok((grep { $_ == $answer->{status} } @may), "$shown: @may") or diag("$answer->{status} $answer->{body}");
	ok($answer->{json} && defined $answer->{json}{code} && exists $answer->{json}{message} && exists $answer->{json}{details} && exists $answer->{json}{hint},
		"$shown: code, message, details, hint") or diag($answer->{body});
}
for my $case (
	[ PUT => '/admin/rate-limits/TENANT_001', '{"limit_type": "api_requests"}', 422 ],
	[ PUT => '/admin/rate-limits/TENANT_001', '{"limit_type": "api_requests", "limit_value": 0}', 422 ],
	[ PUT => '/admin/rate-limits/TENANT_001', '{"limit_type": "api_requests", "limit_value": "many"}', 422 ],
	[ PUT => '/admin/rate-limits/TENANT_001', '{"limit_type": "api_requests", "limit_value": 5, "window_seconds": 9999999999}', 422 ],
	[ PUT => '/admin/rate-limits/TENANT_001', '{"limit_type": "api_requests", "limit_value": 5, "enabled": "maybe"}', 422 ],
	[ PUT => '/admin/rate-limits/TENANT_001', '{"limit_type": "nonsense", "limit_value": 5}', 422 ],
	[ PUT => '/admin/rate-limits/NOBODY', '{"limit_type": "api_requests", "limit_value": 5}', 404 ],
	[ GET => '/admin/rate-limits/NOBODY', undef, 404 ],
	[ DELETE => '/admin/rate-limits/TENANT_001', undef, 422 ],
	[ GET => '/usage/summary', undef, 422 ],
	[ POST => '/api/admin/dlq/replay', '{}', 422 ],
	[ POST => '/api/admin/dlq/replay?tenant_id=NOBODY', '{}', 404 ])
{
	my ($method, $path, $body, $status) = @$case;
	my $answer = $h->request($method, $path, token => $admin, defined $body ? (body => $body) : ());
	is($answer->{status}, $status, "the admin's $method $path " . ($body // '') . ": $status") or diag($answer->{body});
}
# A word behind the "?" that a GET doesn't know
for my $case (
	[ '/ops/dlq?satus=pending', 'satus', 'tenant_id, status, event_type, worker_type, error_type, fingerprint, limit, offset, after, order, count' ],
	[ '/ops/dlq?status=pending&satus=', 'satus' ],
	[ '/ops/dlq?STATUS=pending', 'STATUS' ],
	[ '/ops/dlq?p_limit=1', 'p_limit' ],
	[ '/ops/dlq/5?status=pending', 'status', 'tenant_id' ],
	[ '/ops/dlq/5/history?limit=1', 'limit', 'tenant_id' ],
	[ '/ops/outbox/failed?topics=a', 'topics' ],
	[ '/usage/export?format=csv&from=2025-01-01', 'from', 'tenant_id, from_date, to_date, format, granularity' ],
	[ '/audit/reports?page%5Fsize=5', 'page%5Fsize' ],
	[ '/api/exceptions/TENANT_001/EXC_1/trace?since=1%20day', 'since' ],
	[ '/ops/dlq?a', 'a' ],
	[ '/ops/dlq?' . 'x' x 200 . '=1', 'x' x 100 ])
{
	my ($path, $word, $words) = @$case;
	for my $method ('GET', 'HEAD')
	{
		my $answer = $h->request($method, $path, token => $operator);
		is($answer->{status}, 422, "$method $path: 422") or diag($answer->{body});
		like($answer->{headers}{ratelimit} // '', qr/^"api_requests"/, 'its headers are there, and it is charged');
		next if $method eq 'HEAD';
		is_deeply([ @{ $answer->{json} }{qw(code message)} ], [ 'SN001', "unknown query parameter \"$word\"" ], 'says which word');
		is($answer->{json}{hint}, "This path takes $words.", 'and which there are') if defined $words;
	}
}
is($h->get("$_?now=1")->{status}, 200, "$_ answers whatever a probe or a cache has added") for '/health', '/metrics';
is($h->get("/ops/dlq?tenant_id=TENANT_001&status=pending&event_type=a&worker_type=b&error_type=c&fingerprint=d&limit=1&offset=0&order=asc&count=exact&after=&&", token => $operator)->{status}, 200,
	'all that there are, and none');
is($h->request('HEAD', '/audit/reports/nothing/download?actor=ann', token => $operator)->{status}, 404, 'the HEAD of a download takes what its GET does');
is($h->get('/ops/dlq?satus=1')->{body}, $h->get('/ops/dlq')->{body}, 'who may not ask is told nothing of the words');
my $viewer = $h->token('sentinai_viewer', 'TENANT_001', 'vic@example.com');
is($h->get('/audit/holds?satus=1', token => $viewer)->{body}, $h->get('/audit/holds', token => $viewer)->{body}, 'nor one whose role may not');
# What the client reads as JSON, the server's log has as it was raised.
my $log = $t->cluster('logs');
like($log, qr/ERROR:  there is no dead letter -1$/m, 'the log has the message');
unlike($log, qr/"SN011"|"status": 4/, 'and nothing of the answer');
is($h->get('/ops/dlq', token => 'no.such.token')->{status}, 401, 'a token that is none');
is($h->get('/ops/dlq', token => $h->token('sentinai_viewer', 'TENANT_001', 'ann', seconds => -60))->{status}, 401, 'one that has expired');
is($h->post('/ops/dlq/1/retry', token => $h->token('sentinai_viewer', 'TENANT_001'))->{status}, 403, 'a viewer changes nothing');
is($h->get('/ops/dlq', token => $h->token('sentinai_operator'))->{status}, 403, 'an operator without a tenant sees nothing');

# A token whose tenant isn't one, and a statement that takes too long
my $unknown = $h->get('/ops/dlq', token => $h->token('sentinai_operator', 'NO_SUCH_TENANT'));
is_deeply([ $unknown->{status}, $unknown->{json}{message} ], [ 403, 'permission denied for tenant "NO_SUCH_TENANT"' ], 'a tenant that is none');
$t->sql(q{ALTER ROLE sentinai_viewer SET statement_timeout = '200ms'; NOTIFY pgrst, 'reload config'});
my $locked = $t->session;
my $late;
$t->wait_for('PostgREST to know the new time limit', sub {
	$locked->sql('BEGIN');
	$locked->sql('LOCK TABLE sentinai.dead_letter_queue');
	$late = $h->get('/ops/dlq/stats', token => $h->token('sentinai_viewer', 'TENANT_001'));
	$locked->sql('ROLLBACK');
	return $late->{status} == 504;
});
is($late->{json}{code}, '57014', 'too long: 504, and says why');
$t->sql(q{ALTER ROLE sentinai_viewer RESET statement_timeout; NOTIFY pgrst, 'reload config'});

# Another's answers as none at all, to the letter
for my $path ('/ops/dlq/%s', '/ops/dlq/%s/history')
{
	my ($theirs, $none) = map { $h->get(sprintf($path, $_), token => $operator)->{body} =~ s/\b$_\b/N/gr } 45, 4711;
	is($theirs, $none, "$path: a neighbour's id is one that does not exist");
}
for my $verb ('retry', 'discard')
{
	my ($theirs, $none) = map { $h->post("/ops/dlq/$_/$verb", token => $operator, body => { reason => 'x' })->{body} =~ s/\b$_\b/N/gr } 45, 4711;
	is($theirs, $none, "$verb: the same");
}
is($t->sql("SELECT count(*) FROM sentinai.dead_letter_queue WHERE status <> 'pending'"), 0, 'nothing of all that has changed a dead letter');

# ---------------------------------------------------------------- encodings

my $odd = "EXC/1+2 \x{fc}\x{4e16}\x{1f600}?&#%=\"'";
utf8::encode(my $bytes = $odd);
my $encoded = $bytes =~ s/([^A-Za-z0-9_.~-])/sprintf '%%%02X', ord $1/ger;
my $made = $h->post('/api/exceptions/TENANT_001', token => $operator, body => { exception_id => $odd, severity => 'high', note => $odd });
is_deeply([ $made->{status}, $made->{json}{exception_id} ], [ 202, $odd ], 'an exception with an id of any characters');
is($made->{headers}{location}, "/api/exceptions/TENANT_001/$encoded/trace", 'Location is percent-encoded');
is($h->get($made->{headers}{location}, token => $operator)->{json}{items}[0]{event_id}, $made->{json}{event_id}, 'and leads to it');
is($h->get("/api/exceptions/$encoded/events", token => $operator)->{json}{total}, 1, 'its events, too');
is($t->sql("SELECT payload->>'note' FROM sentinai.event_log WHERE event_id = '$made->{json}{event_id}'"), $bytes, 'the payload is as it was sent');
is($h->get("/api/exceptions/$encoded/events", token => $neighbour)->{status}, 404, 'for its tenant only');
is($h->post("/ops/dlq/1/discard?actor=$encoded", token => $operator, body => { reason => $odd, actor => 'the query counts' })->{json}{discarded_by}, $odd,
	'actor= of any characters');
is(join('|', @{ ($t->rows('SELECT reason, actor FROM sentinai.dlq_history WHERE dlq_id = 1 ORDER BY id DESC LIMIT 1'))[0] }), "$bytes|$bytes", 'stored as claimed');
unlike($t->sql('SELECT authenticated FROM sentinai.dlq_history WHERE dlq_id = 1 ORDER BY id DESC LIMIT 1'), qr/EXC/, 'beside who was authenticated');
is($h->post('/ops/dlq/2/retry', token => $operator, body => '{"reason": "as curl -d sends it"}',
	headers => { 'Content-Type' => 'application/x-www-form-urlencoded' })->{status}, 200, 'a body is JSON, whatever it is called');
like($h->raw("POST /ops/dlq/3/retry HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer $operator\r\n\r\n"), qr{^HTTP/1.1 200 }, 'a POST without a body');
like($h->raw("POST /ops/dlq/4/retry HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer $operator\r\nTransfer-Encoding: chunked\r\n\r\n"
		. "e\r\n{\"reason\": \"in\r\n9\r\n pieces\"}\r\n0\r\n\r\n"), qr{^HTTP/1.1 200 }, 'a body in chunks');

like($h->raw("POST /ops/dlq/6/retry HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer $operator\r\nContent-Length: 00\r\n\r\n"), qr{^HTTP/1.1 200 }, 'a body of nothing');
my $empty = $h->raw("POST /ops/dlq/6/retry HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer $operator\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
like($empty, qr{^HTTP/1.1 400 .*\r\n\r\n.*\{"code":"22P02"}s, 'nothing in chunks is no JSON');

# ---------------------------------------------------------------- what nginx says itself is JSON, too

for my $case ([ 'a chunk that is none', "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400 ], [ 'two lengths', "Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}", 400 ],
	[ 'a length that is none', "Content-Length: -1\r\n\r\n", 400 ], [ 'more than a body may have, in chunks', "Transfer-Encoding: chunked\r\n\r\n300001\r\n" . 'x' x 0x300001, 413 ])
{
	my ($name, $rest, $status) = @$case;
	my $answer = $h->raw("POST /ops/dlq/1/retry HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer $operator\r\n$rest");
	my ($is, $headers, $body) = $answer =~ m{^HTTP/1.1 (\d+) (.*?)\r\n\r\n(.*)}s;
	is($is, $status, $name) or diag($answer);
	like($headers, qr{^Content-Type: application/json\r?$}m, "$name: JSON");
	is(eval { decode_json($body)->{code} }, "SN$status", "$name: with a code");
}

# Times are UTC's, though the server is in India; so are those that say no zone.
for my $path ('/ops/dlq?limit=1', '/ops/dlq/5/history', '/ops/events/EVT_5/why', '/rest/dead_letter_queue?limit=1', '/admin/tenants?status=active', '/usage/summary')
{
	my @times = $h->get($path, token => $operator)->{body} =~ /"(20\d\d-\d\d-\d\dT[^"_]*)"/g;
	is_deeply([ grep { !/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00$/ } @times ], [], "$path: times of UTC");
}
is($h->get('/usage/summary?period=day&at=2025-01-15T00:30:00', token => $operator)->{json}{period_start}, '2025-01-15T00:00:00+00:00', 'a time without a zone is UTC\'s');

# ---------------------------------------------------------------- headers that must not reach PostgREST

like($h->raw("POST /ops/dlq/1/retry HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
	qr/^HTTP\/1.1 501 .*\r\n\r\n\{"code":"SN405"/s, 'a transfer encoding that nobody knows: JSON, too');
like($h->get('/api/exceptions/TENANT_001/EXC_1&x/trace', token => $operator)->{body}, qr/"SN404"/, 'what is behind an & in a path is not left out in silence');

my %evil = ('Accept-Profile' => 'sentinai', 'Content-Profile' => 'sentinai', 'X-Sentinai-Args' => 'id=45&tenant_id=TENANT_002&',
	Prefer => 'params=single-object, tx=rollback', Range => '0-0', Accept => 'application/vnd.pgrst.object+json');
my $plain = $h->get('/ops/dlq/5', token => $operator);
is($h->get('/ops/dlq/5', token => $operator, headers => \%evil)->{body}, $plain->{body}, 'no header changes what a path means');
is($h->post('/ops/dlq/5/retry', token => $operator, body => {}, headers => \%evil)->{json}{id}, 5, 'nor what a POST does');
is($t->sql('SELECT status FROM sentinai.dead_letter_queue WHERE id = 5'), 'retrying', 'nor undoes it');
my $big = $h->get('/ops/dlq?limit=30', token => $operator, headers => { 'Accept-Encoding' => 'gzip', Origin => 'https://ops.example.com' });
is($big->{headers}{'content-encoding'}, 'gzip', 'a long answer is compressed');
gunzip(\$big->{body} => \my $unpacked);
is(scalar @{ decode_json($unpacked)->{items} }, 30, 'and whole');
is($big->{headers}{'access-control-allow-origin'}, '*', 'any page may read it');
like($big->{headers}{'access-control-expose-headers'}, qr/Retry-After/, 'with its headers');

# ---------------------------------------------------------------- pages

my (@seen, $after);
do
{
	my $p = $h->get('/ops/dlq?limit=7' . ($after ? "&after=$after" : ''), token => $operator)->{json};
	push @seen, map { $_->{id} } @{ $p->{items} };
	$after = $p->{next_after};
} while ($after);
is("@seen", $t->sql("SELECT string_agg(id::text, ' ' ORDER BY created_at DESC, id DESC) FROM sentinai.dead_letter_queue WHERE tenant_id = 'TENANT_001'"),
	'page by page, each dead letter once, those of one moment too');
is_deeply([ map { $h->get("/ops/dlq?limit=1&count=$_", token => $operator)->{json}{total_relation} // 'none' } 'exact', 'some' ], [ 'eq', 'none' ], 'count=exact counts, and no other word');
my @offset = map { map { $_->{id} } @{ $h->get("/ops/dlq?limit=13&order=asc&offset=$_", token => $operator)->{json}{items} } } 0, 13, 26, 39, 52;
is("@offset", join(' ', reverse @seen), 'the same by offset, from the other end');

# The other lists that have a next_after: pages of one and of three have the same items as one page of all, in its order,
# those of one moment too; by offset they are the same.
$t->sql(<<'SQL');
SET search_path = sentinai, public;
INSERT INTO event_log (tenant_id, event_id, event_type, exception_id, "timestamp", payload, version, topic, partition, kafka_offset, created_at)
SELECT 'TENANT_001', 'P/' || n, 'ExceptionIngested', 'PAGES', '2025-01-01 00:00:00.5+00'::timestamptz + n / 4 * interval '1 s', '{}', 1, 'exceptions', 0,
	   CASE WHEN n <> 7 THEN 100 - n END, now()
  FROM generate_series(1, 11) n;
INSERT INTO audit_report (id, tenant_id, report_type, title, format, parameters, status, requested_by, requested_role, created_at, bound_at, period_from, period_to)
SELECT gen_random_uuid(), 'PAGES', 'exception_activity', n, 'csv', '{}', 'failed', 'x', 'x', '2025-01-01 00:00:00+00'::timestamptz + n / 4 * interval '1 s',
	   now(), '2025-01-01', '2025-01-02'
  FROM generate_series(1, 11) n;
INSERT INTO outbox_failed (id, topic, tenant_id, event_id, event_type, error, message, record_value, created_at)
SELECT n, 'exceptions', CASE WHEN n > 2 THEN 'PAGES' ELSE 'TENANT_001' END, 'F' || n, 'ExceptionIngested', 'MSG_SIZE_TOO_LARGE', 'too large', '\x7b7d', now()
  FROM generate_series(1, 13) n;
SELECT count(legal_hold_add('PAGES', 'case ' || n)) FROM generate_series(1, 11) n;
SELECT count(usage_correct('PAGES', 'tool_executions', 'tool/' || n % 7, now() - n / 2 * interval '1 hour', 1, 'test')) FROM generate_series(1, 11) n;
SQL
my $pages = $h->token('sentinai_operator', 'PAGES');
my $names = sub { map { join ' ', grep { defined } @$_{qw(event_id id period_start resource)} } @{ $_[0]{items} } };
for my $case (
	[ '/api/exceptions/PAGES/events?tenant_id=TENANT_001', $operator, 'limit' ], [ '/audit/reports?tenant_id=PAGES', $pages, 'page_size' ],
	[ '/usage/details?metric_type=tool_executions', $pages, 'limit' ], [ '/ops/outbox/failed?topic=exceptions', $pages, 'limit' ], [ '/audit/holds?released=true', $pages, 'limit' ])
{
	my ($path, $token, $size) = @$case;
	my $whole = $h->get("$path&$size=1000", token => $token)->{json};
	my @all = $names->($whole);
	is($whole->{next_after}, undef, "$path: the last page has no next_after");
	cmp_ok(scalar @all, '>=', 11, "$path: has items");
	for my $n (1, 3)
	{
		my (@seen, $after);
		do
		{
			my $p = $h->get("$path&$size=$n" . (defined $after ? '&after=' . $after =~ s/([^A-Za-z0-9_.~-])/sprintf '%%%02X', ord $1/ger : ''), token => $token)->{json};
			push @seen, $names->($p);
			is($p->{total}, scalar @all, "$path: and how many there are") if @seen <= $n;
			$after = $p->{next_after};
		} while (defined $after && @seen <= @all);
		is("@seen", "@all", "$path: each once, by pages of $n");
	}
	is(($names->($h->get($path . ($size eq 'limit' ? '&limit=2&offset=4' : '&page=3&page_size=2'), token => $token)->{json}))[0], $all[4], "$path: the same by offset");
}
is(join(' ', $names->($h->get('/api/exceptions/PAGES/events', token => $operator)->{json})), 'P/3 P/2 P/1 P/6 P/5 P/4 P/7 P/11 P/10 P/9 P/8',
	'events of one moment as they lie in Kafka');

# ---------------------------------------------------------------- the limit

my $limited = $h->token('sentinai_viewer', 'LIMITED');
my $first = $h->get('/ops/dlq/stats', token => $limited);
like($first->{headers}{ratelimit}, qr/^"api_requests";r=2;t=\d+$/, 'RateLimit');
is($first->{headers}{'ratelimit-policy'}, '"api_requests";q=3;w=86400', 'RateLimit-Policy');
like($h->get('/ops/dlq?limit=0', token => $limited)->{headers}{ratelimit}, qr/r=1;/, 'an error has them too, and is charged');
$h->post('/api/admin/dlq/replay', token => $limited);
my $refused = $h->get('/ops/dlq/stats', token => $limited);
is_deeply([ $refused->{status}, $refused->{reason} ], [ 429, 'Too Many Requests' ], 'then no more');
is($refused->{body} =~ s/"reset_at": "20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"/RESET/r,
	'{"detail": "Rate limit exceeded: api_requests (3/86400s)", "limit_type": "api_requests", "limit": 3, "current": 4, RESET}', 'with the runbook\'s body');
like($refused->{headers}{'retry-after'}, qr/^[1-9]\d*$/, 'Retry-After in whole seconds');
like($refused->{headers}{ratelimit}, qr/^"api_requests";r=0;t=\d+$/, 'RateLimit says when');
is($refused->{headers}{'cache-control'}, 'no-store', 'nobody keeps it');
is($h->head('/ops/dlq/stats', token => $limited)->{status}, 429, 'HEAD is charged, in its read only transaction');
is($h->post('/ops/dlq/1/retry', token => $limited)->{status}, 429, 'POST is');
for my $path ('/ops/dlq?limit=1', '/ops/dlq/1', '/ops/dlq/1/history', '/rest/dead_letter_queue')
{
	my $own = $h->get($path, token => $limited);
	is_deeply([ $own->{status}, $own->{reason}, $own->{body} =~ s/\d+, "reset_at": "[^"]+"/MORE/r, map { s/\d{2,}/N/gr } @{ $own->{headers} }{qw(retry-after ratelimit ratelimit-policy cache-control content-type)} ],
		[ 429, 'Too Many Requests', '{"detail": "Rate limit exceeded: api_requests (3/86400s)", "limit_type": "api_requests", "limit": 3, "current": MORE}',
		'N', '"api_requests";r=0;t=N', '"api_requests";q=3;w=N', 'no-store', $refused->{headers}{'content-type'} ], "$path: the same 429");
}
is($h->get('/health', token => $limited)->{status}, 429, 'and what would need no token');
is($h->get('/health')->{status}, 200, 'which without one is not');
unlike(Sentinai::Test::slurp("$t->{cluster_dir}/log"), qr/Rate limit exceeded/, 'and none of it is a line in the server\'s log');
is($h->get('/usage/rate-limits?tenant_id=LIMITED', token => $admin)->{json}{statuses}[0]{current}, 11, 'refused ones count, too');
is($h->get('/ops/dlq/stats?tenant_id=LIMITED', token => $admin)->{headers}{ratelimit}, undef, 'the admin has no limit');
is($h->put('/admin/rate-limits/LIMITED', token => $admin, body => { limit_type => 'api_requests', limit_value => 1000, window_seconds => 86400, enabled => \0 })->{status}, 200,
	'the runbook\'s reset: disabled');
is($h->get('/ops/dlq/stats', token => $limited)->{status}, 200, 'nothing is limited');
is($h->put('/admin/rate-limits/LIMITED', token => $admin, body => { limit_type => 'api_requests', limit_value => 1000, window_seconds => 86400, enabled => \1 })->{status}, 200,
	'and enabled');
like($h->get('/ops/dlq/stats', token => $limited)->{headers}{ratelimit}, qr/r=999;/, 'counts from zero');

my $january = { report_type => 'exception_activity', title => 'January', format => 'csv', parameters => { from_date => '2025-01-01', to_date => '2025-01-31' } };
is($h->post('/audit/reports', token => $neighbour, body => $january)->{status}, 202, 'one report a day');
my $second = $h->post('/audit/reports', token => $neighbour, body => $january);
is_deeply([ $second->{status}, $second->{json}{limit_type} ], [ 429, 'report_generations' ], 'not two: the same answer');
like($second->{headers}{'retry-after'}, qr/^[1-9]\d*$/, 'with Retry-After');
$t->wait_for_sql(q{SELECT (sentinai.usage_summary('LIMITED', 'day')->'totals'->>'api_calls')::integer}, '13', name => 'calls are usage');
is($h->get("/rest/$_", token => $neighbour)->{status}, 404, "/rest/$_: there is no such list") for qw(nonsense rubbish);
$t->wait_for_sql(q{SELECT string_agg(DISTINCT resource, ' ') || ' ' || sum(quantity) FROM sentinai.usage_details('TENANT_002', 'api_calls', now() - interval '1 h', now() + interval '1 min')
	WHERE resource !~ '^\w+ /rpc/[a-z_]+$'}, 'GET (unknown) 2', name => 'lists that are none are one resource, whatever they are called');

# ---------------------------------------------------------------- the same event again

my %event = (event_id => 'invoice-1', severity => 'high', amount => 1);
my $bring = sub { my (%more) = @_; return $h->post('/api/exceptions/TENANT_001', token => $operator, body => { %event, %more }) };
my $events = sub { $t->sql("SELECT count(*) || ' ' || (SELECT count(*) FROM sentinai.outbox o WHERE o.event_id = '$_[0]') FROM sentinai.event_log WHERE event_id = '$_[0]'") };
my $new = $bring->();
my $same = $bring->(timestamp => '2025-01-01T00:00:00Z');
is_deeply([ $new->{status}, $new->{headers}{'idempotency-replayed'} ], [ 202, undef ], 'an event with an id of its own');
is_deeply([ @$same{qw(status body)}, @{ $same->{headers} }{qw(location idempotency-replayed)} ], [ @$new{qw(status body)}, $new->{headers}{location}, 'true' ],
	'once more: the same answer, which says so');
is($bring->(exception_id => 'EXC_OTHER')->{json}{exception_id}, 'invoice-1', 'of the exception that it came with');
my $other = $bring->(amount => 2);
is_deeply([ $other->{status}, @{ $other->{json} }{qw(code message)} ], [ 409, 'SN012', 'event "invoice-1" exists already, with another type or payload' ], 'another payload');
is($bring->(event_type => 'ManualExceptionCreated')->{status}, 409, 'another type');
is($events->('invoice-1'), '1 1', 'published once');
# What would be made a text of on its way could not be found again by what came.
for my $id (5, JSON::PP::true, ['a'], { a => 1 })
{
	my $answer = $bring->(event_id => 'odd', exception_id => $id);
	is_deeply([ $answer->{status}, @{ $answer->{json} }{qw(code message)} ], [ 422, 'SN001', 'exception_id must be a text' ], 'an exception_id that is none: ' . JSON::PP->new->allow_nonref->encode($id));
}
is($events->('odd'), '0 0', 'is not published');
is($h->post('/api/exceptions/TENANT_002', token => $neighbour, body => { %event, amount => 3 })->{headers}{'idempotency-replayed'}, undef, 'a neighbour\'s event is another one');
# What was erased is known by its hash: of the log, and later of the claim.
$t->sql(q{INSERT INTO sentinai.subject_salt (tenant_id, salt) VALUES ('TENANT_001', 'salt');
	UPDATE sentinai.event_log l SET payload = jsonb_build_object('sentinai_erased', sentinai.subject_hash('TENANT_001', l.payload))
	 WHERE l.event_id = 'invoice-1' AND l.tenant_id = 'TENANT_001'});
is_deeply([ map { $_->{status} } $bring->(), $bring->(amount => 2) ], [ 202, 409 ], 'an erased one');
$t->sql(q{INSERT INTO sentinai.event_processing_log (generation, tenant_id, event_id, worker_type, status, hash)
	SELECT (SELECT newest FROM sentinai.dedupe_state), 'TENANT_001', 'claimed', 'intake', 'succeeded', p.hash
	  FROM sentinai.event_parse('{"event_id": "claimed", "event_type": "ExceptionIngested", "tenant_id": "TENANT_001", "payload": {"a": 1}}') p});
my $claimed = sub { $h->post('/api/exceptions/TENANT_001', token => $operator, body => { event_id => 'claimed', @_ }) };
is_deeply([ map { $_->{status} } $claimed->(a => 1), $claimed->(a => 2) ], [ 202, 409 ], 'one that a worker has met');
is($events->('claimed'), '0 0', 'is not published either');

# At once: the second waits for the first.
my $first_of_two = $t->session;
$first_of_two->sql('BEGIN');
$first_of_two->sql(q{SELECT sentinai_api.exception_create('{"tenant_id": "TENANT_001", "event_id": "at once", "severity": "high", "amount": 1}')});
my @both = map {
	my $amount = $_;
	my $pid = open(my $from, '-|') // die "fork: $!";
	if (!$pid)
	{
		my $answer = $bring->(event_id => 'at once', amount => $amount);
		print "$answer->{status} ", $answer->{headers}{'idempotency-replayed'} // $answer->{json}{code};
		close STDOUT;
		POSIX::_exit(0);
	}
	$from;
} 1, 2;
$t->wait_for_sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'authenticator' AND wait_event = 'advisory'}, 2, name => 'two more wait');
$first_of_two->sql('COMMIT');
is_deeply([ map { my $from = $_; join '', <$from> } @both ], [ '202 true', '409 SN012' ], 'and then know it');
is($events->('at once'), '1 1', 'published once, too');

# ---------------------------------------------------------------- Idempotency-Key

my $history = sub { $t->sql("SELECT count(*) FROM sentinai.dlq_history WHERE dlq_id = $_[0] AND action = 'retry'") };
my $retry = sub { my ($id, $key, %more) = @_; return $h->post("/ops/dlq/$id/retry", token => $operator, body => { reason => 'once' }, headers => { 'Idempotency-Key' => $key }, %more) };

my $done = $retry->(10, 'twice');
my $again = $retry->(10, 'twice');
is_deeply([ $done->{status}, $done->{headers}{'idempotency-replayed'}, $history->(10) ], [ 200, undef, 1 ], 'a retry with a key');
is_deeply([ @$again{qw(status body)}, $again->{headers}{'idempotency-replayed'} ], [ @$done{qw(status body)}, 'true' ], 'the same request: the same bytes again');
is($history->(10), 1, 'and nothing done');
is($retry->(10, '"twice"')->{body}, $done->{body}, 'a key in quotes is the same key');
is($retry->(11, 'twice')->{json}{code}, 'SN061', 'another path: 422');
is($h->post('/ops/dlq/10/retry', token => $operator, body => { reason => 'another' }, headers => { 'Idempotency-Key' => 'twice' })->{status}, 422, 'another body: 422');
is($h->post('/ops/dlq/43/retry', token => $neighbour, body => { reason => 'once' }, headers => { 'Idempotency-Key' => 'twice' })->{status}, 200, 'another tenant has keys of its own');
is($retry->(10, 'x' x 256)->{status}, 422, 'a key has at most 255 bytes');
is($retry->(10, 'refused')->{status}, 409, 'a refused request');
is($retry->(10, 'refused')->{status}, 409, 'is refused again, and not from memory');
for my $case (
	[ '/ops/dlq/retry-batch', { dlq_ids => [ 20, 21 ] } ], [ '/ops/dlq/22/discard', { reason => 'gone' } ], [ '/api/admin/dlq/23/replay', {} ],
	[ '/audit/reports', $january ], [ '/api/exceptions/TENANT_001', { severity => 'low' } ], [ '/api/admin/dlq/replay?tenant_id=TENANT_002', {}, $neighbour ],
	[ '/ops/circuits/open?tenant_id=TENANT_001', { worker_type => 'intake', event_type => 'ExceptionIngested', reason => 'wait' } ],
	[ '/ops/circuits/close?tenant_id=TENANT_001', { worker_type => 'intake', event_type => 'ExceptionIngested' } ],
	[ '/ops/outbox/failed/1/retry', {} ], [ '/ops/outbox/failed/2/discard', { reason => 'too large' } ],
	[ '/audit/holds', { reason => 'a case', from_date => '2020-01-01', to_date => '2020-01-31' } ], [ '/audit/holds/1/release', { reason => 'it is over' }, $admin ],
	[ '/usage/corrections', { tenant_id => 'KEYS', metric_type => 'api_calls', resource => 'x', minute => '2020-01-01T00:00:00Z', quantity => -1, reason => 'wrong' }, $admin ],
	[ '/ops/dlq/purge', { tenant_id => 'KEYS' }, $admin ],
	[ '/admin/rate-limits/KEYS', { limit_type => 'api_requests', limit_value => 5 }, $admin, 'PUT' ],
	[ '/admin/rate-limits/KEYS/reset', { limit_type => 'api_requests', reason => 'again' }, $admin ],
	[ '/admin/rate-limits/KEYS?limit_type=api_requests', undef, $admin, 'DELETE' ],
	[ '/ops/dlq/46/reassign', { tenant_id => 'KEYS', reason => 'theirs' }, $admin ],
	[ '/admin/tenants/KEYS/erase', { key => 'EXC_ERASED', reason => 'asked for' }, $admin ],
	[ '/admin/tenants/KEYS/suspend', { reason => 'a while' }, $admin ],
	[ '/admin/tenants/KEYS/resume', { reason => 'it is over' }, $admin ])
{
	my ($path, $body, $token, $method) = @$case;
	my @answers = map { $h->request($method // 'POST', $path, token => $token // $operator, defined $body ? (body => $body) : (),
			headers => { 'Idempotency-Key' => "key of $path" }) } 1, 2;
	like($answers[0]{status}, qr/^20[0124]$/, "$path: done") or diag($answers[0]{body});
	is_deeply([ map { $_->{headers}{'idempotency-replayed'} } @answers ], [ undef, 'true' ], "$path: keeps its answer");
	is_deeply([ @{ $answers[1] }{qw(status body)} ], [ @{ $answers[0] }{qw(status body)} ], "$path: and gives it again");
	is($answers[1]{headers}{location}, $answers[0]{headers}{location}, "$path: with Location, where there is one");
}
is($t->sql("SELECT count(*) FROM sentinai.audit_report WHERE tenant_id = 'TENANT_001'"), 1, 'one report');
is($t->sql("SELECT string_agg(action, ' ' ORDER BY id) FROM sentinai.rate_limit_history WHERE tenant_id = 'KEYS'"), 'set reset delete', 'each change of a limit once');

my $report = $t->sql("SELECT id FROM sentinai.audit_report WHERE tenant_id = 'TENANT_001'");
$t->wait_for_sql("SELECT status FROM sentinai.audit_report WHERE id = '$report'", 'completed');

# Where none is kept, or it would be nobody's, a key is refused
for my $case (
	[ '/ops/dlq/rehearse', {}, $operator, 400 ], [ '/admin/tenants', { tenant_id => 'NEW' }, $admin, 400 ], [ '/admin/tenants/NEW/archive', {}, $admin, 400 ], [ "/audit/reports/$report/link", {}, $operator, 400 ],
	[ '/ops/circuits/open', { worker_type => 'intake', event_type => 'ExceptionIngested' }, $admin, 422 ])
{
	my ($path, $body, $token, $status) = @$case;
	my $refused = $h->post($path, token => $token, body => $body, headers => { 'Idempotency-Key' => 'kept?' });
	is_deeply([ @{$refused}{status}, $refused->{json}{code} ], [ $status, $status == 400 ? 'SN064' : 'SN001' ], "$path: no key here");
	like($h->post($path, token => $token, body => $body)->{status}, qr/^20[014]$/, "$path: and without one it works");
}
$t->sql("SELECT sentinai.tenant_archive('KEYS')");
for my $case ([ erase => { key => 'EXC_ERASED', reason => 'asked for' } ], [ resume => {} ])
{
	my ($act, $body) = @$case;
	my @answers = map { $h->post("/admin/tenants/KEYS/$act", token => $admin, body => $body, headers => $_) } { 'Idempotency-Key' => "archived $act" }, {};
	is_deeply([ map { $_->{status} } @answers ], [ 400, 200 ], "$act: an archived tenant has no keys") or diag($answers[0]{body});
}
is($h->post("/audit/reports/$report/link", token => $operator, body => { valid_for_seconds => $_ })->{json}{message}, 'valid_for_seconds must be 1 to 31536000',
	"a link for $_ s") for 0, -1, 31536001, 999999999999999999;

# At once: the first stands at the dead letter's row, which somebody else has locked.
my $lock = sub { my ($id) = @_; my $s = $t->session; $s->sql('BEGIN'); $s->sql("SELECT FROM sentinai.dead_letter_queue WHERE id = $id FOR UPDATE"); return $s };
my $waiting = q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'authenticator' AND wait_event_type = 'Lock'};
my $holder = $lock->(30);
my $child = open(my $from_child, '-|') // die "fork: $!";
if (!$child)
{
	my $answer = $retry->(30, 'at once');
	print "$answer->{status} $answer->{body}";
	close STDOUT;
	POSIX::_exit(0);
}
$t->wait_for_sql($waiting, 1, name => 'the first request is under way');
my $meanwhile = $retry->(30, 'at once');
is_deeply([ $meanwhile->{status}, $meanwhile->{json}{code} ], [ 409, 'SN060' ], 'the second is told so, and does not wait');
$holder->sql('COMMIT');
my $answer_of_first = join '', <$from_child>;
close $from_child;
like($answer_of_first, qr/^200 /, 'the first ends well');
is("200 " . $retry->(30, 'at once')->{body}, $answer_of_first, 'and whoever asks now has its answer');
is($history->(30), 1, 'one retry');

# The line is cut in the middle, at the client's end, and at ours: whoever doesn't know asks again.
for my $end ('the client', 'PostgREST')
{
	my $id = $end eq 'PostgREST' ? 32 : 31;
	my $key = "cut by $end";
	my $body = '{"reason":"once"}';
	$holder = $lock->($id);
	my ($address) = $h->url =~ m{//(.*)};
	my $socket = IO::Socket::INET->new(PeerAddr => $address) or die "$address: $@";
	print {$socket} "POST /ops/dlq/$id/retry HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $operator\r\nIdempotency-Key: $key\r\nContent-Length: "
	  . length($body) . "\r\n\r\n$body";
	$t->wait_for_sql($waiting, 1, name => "a request is under way when $end goes");
	if ($end eq 'PostgREST')
	{
		$h->http('kill');
		ok(!IO::Socket::INET->new(PeerAddr => $address), 'nobody listens any more, nginx\'s children neither');
		$holder->sql('COMMIT');
		$t->wait_for_sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'authenticator'}, 0);
		$h->http('start');
	}
	else
	{
		close $socket;
		$holder->sql('COMMIT');
		$t->wait_for_sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'authenticator' AND state <> 'idle'}, 0);
	}
	is($retry->($id, $key)->{status}, 200, 'asked again it is done, or was');
	is($retry->($id, $key)->{headers}{'idempotency-replayed'}, 'true', 'and known from then on');
	is($history->($id), 1, 'once');
}

# ---------------------------------------------------------------- nginx that can't, and PostgREST that is stuck, or away

chmod 0, "$h->{dir}/tmp/body";
my $broken = $h->post('/ops/dlq/1/discard', token => $operator, body => { reason => 'x' x 100_000 });
chmod 0700, "$h->{dir}/tmp/body";
is_deeply([ $broken->{status}, $broken->{headers}{'content-type'}, $broken->{json}{code} ], [ 500, 'application/json', 'SN500' ], 'nginx can not write a body down');

my ($postgrest) = Sentinai::Test::slurp("$h->{dir}/postgrest.pid") =~ /^(\d+)/;
patient($h, '120s', '1s');
kill STOP => $postgrest;
my $stuck = $h->get('/health/db');
kill CONT => $postgrest;
is_deeply([ $stuck->{status}, $stuck->{headers}{'content-type'}, $stuck->{json}{code} ], [ 504, 'application/json', 'SN504' ], 'PostgREST does not answer in time: nginx says so');
patient($h, '1s', '120s');
kill KILL => $postgrest;
$t->wait_for('nginx to notice', sub { $stuck = $h->get('/health/db'); $stuck->{status} == 503 });
is_deeply([ @{ $stuck->{headers} }{qw(content-type access-control-allow-origin)}, $stuck->{json}{code} ], [ 'application/json', '*', 'SN503' ], 'it is away: JSON, and any page may read it');
is($retry->(33, 'nobody there')->{json}{hint}, 'Ask again in a moment.', 'a POST that has not reached it was not done');
$h->http('start');
$holder = $lock->(33);
($postgrest) = Sentinai::Test::slurp("$h->{dir}/postgrest.pid") =~ /^(\d+)/;
$child = open($from_child, '-|') // die "fork: $!";
if (!$child)
{
	print $retry->(33, 'cut off')->{body};
	close STDOUT;
	POSIX::_exit(0);
}
$t->wait_for_sql($waiting, 1, name => 'a request is under way when PostgREST goes');
kill KILL => $postgrest;
my $cut_off = decode_json(join '', <$from_child>);
is_deeply([ @$cut_off{qw(code details hint)} ], [ 'SN503', 'Whether the request was done is not known.', 'A request with an Idempotency-Key may be sent again.' ],
	'one that has may have been');
$holder->sql('COMMIT');
$h->http('start');
is($h->get('/health/db')->{status}, 200, 'it is back');
done_testing();

# nginx waits that long for PostgREST from now on: until one of its workers has read it
sub patient
{
	my ($surface, $from, $to) = @_;
	my $file = "$surface->{dir}/sentinai.conf";
	my ($master) = Sentinai::Test::slurp("$surface->{dir}/nginx.pid") =~ /^(\d+)/;
	my $workers = sub { join ' ', sort split ' ', Sentinai::Test::run('ps', '-o', 'pid=', '--ppid', $master) };
	my $before = $workers->();
	my $config = Sentinai::Test::slurp($file) =~ s/proxy_read_timeout $from/proxy_read_timeout $to/r;

	open my $handle, '>', $file or die "$file: $!";
	print {$handle} $config;
	close $handle;
	kill HUP => $master;
	$t->wait_for('nginx to have read its configuration', sub { my $now = $workers->(); $now ne '' && !grep { " $before " =~ / $_ / } split ' ', $now });
	return;
}
