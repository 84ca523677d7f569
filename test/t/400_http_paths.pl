# The runbook's paths, word for word, through nginx and PostgREST, and docs/http.md, each request of which is sent here:
#
#   ```http as=operator             the request, an empty line, the answer, which must be exactly this
#   as=NAME                         whose token: see %token; none: without one
#   until=key:value                 is sent until the answer has it
#   show=N  head=N                  only the first items, or lines, of the answer are on the page
#   varies=a,b                      what these have in the answer is nobody's promise: it only has to be there
#
# Times and UUIDs are those of the page: each real one stands for one there. MEND=1 writes the real answers into the page.
use lib 'test/perl';
use Sentinai::Test;
use Sentinai::Paths;
use JSON::PP;

my $page = 'docs/http.md';
my $text = Sentinai::Test::slurp($page);
my $t = Sentinai::Test->new(settings => 'sentinai.maintenance_interval = 50ms');
$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('TENANT_001'), tenant_add('TENANT_002'), tenant_add('TENANT_003');
INSERT INTO dead_letter_queue (event_id, event_type, tenant_id, exception_id, worker_type, step, error_type, error_message, sqlstate,
							   fingerprint, original_topic, original_partition, original_offset, payload, payload_raw, event_timestamp, created_at)
SELECT 'EVT_' || n, 'ExceptionIngested', CASE WHEN n > 12 THEN 'TENANT_002' ELSE 'TENANT_001' END, 'EXC_00' || n, 'intake', 'handle',
	   'foreign_key_violation', 'insert or update on table "invoice" violates foreign key constraint "invoice_customer"', '23503',
	   '5e0c5a8f0c2b6d11', 'exceptions', n % 6, n, '{"amount": 120}', '\x7b7d', '2026-01-15 10:29:00+00', now() - n * interval '1 minute'
  FROM generate_series(1, 14) n;
SELECT rate_limit_set('TENANT_003', 'api_requests', 2, 86400);
INSERT INTO exception_event (tenant_id, exception_id, event_id, event_type, actor_type, actor_id, payload)
VALUES ('TENANT_001', 'EXC_001', 'EVT_0', 'ExceptionIngested', 'system', 'ledger', '{"amount": 120}');
INSERT INTO outbox_failed (id, topic, tenant_id, event_id, event_type, error, message, record_value, created_at)
SELECT n, 'exceptions', 'TENANT_001', 'EVT_9' || n, 'ExceptionIngested', 'MSG_SIZE_TOO_LARGE', 'Broker: Message size too large', '\x7b7d', now()
  FROM generate_series(1, 2) n;
SQL
my $h = $t->http;
my %token = (
	viewer => $h->token('sentinai_viewer', 'TENANT_001', 'viewer@example.com'),
	operator => $h->token('sentinai_operator', 'TENANT_001', 'operator@example.com'),
	admin => $h->token('sentinai_admin', undef, 'admin@example.com'),
	busy => $h->token('sentinai_viewer', 'TENANT_003', 'busy@example.com'));

# ---------------------------------------------------------------- every path of the runbook

# The method, the path, and the first word of its example on the page; - where no function stands behind it yet.
my @runbook = map { [split] } grep { /\S/ } split /\n/, <<'END';
GET    /ops/dlq?tenant_id=TENANT_001&limit=100&offset=0
GET    /ops/dlq/stats?tenant_id=TENANT_001
GET    /ops/dlq/{dlq_id}?tenant_id=TENANT_001
POST   /ops/dlq/{dlq_id}/retry?tenant_id=TENANT_001
POST   /ops/dlq/retry-batch?tenant_id=TENANT_001
POST   /ops/dlq/{dlq_id}/discard?tenant_id=TENANT_001&actor=operator@example.com
POST   /api/admin/dlq/{dlq_id}/replay
POST   /api/admin/dlq/replay?tenant_id=TENANT_001
GET    /admin/rate-limits/{tenant_id}
PUT    /admin/rate-limits/{tenant_id}
DELETE /admin/rate-limits/{tenant_id}?limit_type=api_requests
GET    /usage/rate-limits?tenant_id=TENANT_001
GET    /usage/summary?tenant_id=TENANT_001&period=day
GET    /usage/details?tenant_id=TENANT_001&metric_type=exceptions
GET    /usage/export?tenant_id=TENANT_001
POST   /audit/reports?tenant_id=TENANT_001&requested_by=operator@example.com
GET    /audit/reports/{report_id}?tenant_id=TENANT_001
GET    /audit/reports/{report_id}/download?tenant_id=TENANT_001
GET    /audit/reports?tenant_id=TENANT_001&status=completed&page=1&page_size=50
GET    /audit/reports/stats?tenant_id=TENANT_001
GET    /metrics
GET    /health
GET    /health/db
GET    /health/workers
GET    /ops/workers/health
GET    /api/exceptions/{tenant_id}/{exception_id}/trace
GET    /api/exceptions/{exception_id}/events
POST   /api/exceptions/{tenant_id}
PUT    /alerts/config/DLQ_GROWTH?tenant_id=TENANT_001 -
GET    /alerts/config/DLQ_GROWTH?tenant_id=TENANT_001 -
DELETE /alerts/config/DLQ_GROWTH?tenant_id=TENANT_001 -
GET    /alerts/config?tenant_id=TENANT_001 -
GET    /alerts/history?tenant_id=TENANT_001 -
GET    /alerts/history/1?tenant_id=TENANT_001 -
POST   /alerts/history/1/acknowledge?acknowledged_by=operator@example.com -
POST   /alerts/history/1/resolve?resolved_by=operator@example.com -
GET    /alerts/counts -
GET    /alerts/active -
GET    /alerts/channels -
POST   /alerts/channels/test -
POST   /admin/config-changes -
GET    /admin/config-changes?status=pending&change_type=tool -
GET    /admin/config-changes/1 -
GET    /admin/config-changes/1/diff -
POST   /admin/config-changes/1/approve -
POST   /admin/config-changes/1/reject -
POST   /admin/config-changes/1/apply -
GET    /admin/config-changes/stats -
GET    /ops/workers/throughput?time_range=1h -
GET    /ops/workers/latency?time_range=5m -
GET    /ops/workers/errors?time_range=24h -
GET    /ops/sla/compliance?period=month -
GET    /ops/sla/breaches -
GET    /ops/sla/at-risk?threshold_percent=80 -
GET    /ops/sla/resolution-time -
END

my @blocks = blocks($text);
my @sent = map { [ $_->{method}, $_->{path} ] } @blocks;
my (%real_of, %page_of);		# UUIDs
my %hidden;

for my $block (@blocks)
{
	my $real = answer_of($block);
	mend($block, $real) if $ENV{MEND};
	is($real, $block->{answer}, "$page:$block->{line}: $block->{method} $block->{path}");
}

for my $row (@runbook)
{
	my ($method, $path, $missing) = @$row;
	my $plain = $path =~ s/\?.*//r;
	my $example = $plain =~ s/\{\w+\}/1/gr;

	if ($missing)
	{
		my $answer = $h->request($method, $path, token => $token{admin}, $method eq 'GET' ? () : (body => {}));
		is_deeply([ $answer->{status}, $answer->{json}{code}, $answer->{json}{message} ], [ 404, 'SN404', 'this part of the platform has not landed' ],
			"$method $path: 404, and says why");
		next;
	}
	# On the page with what the runbook has behind the "?", and well answered
	my $pattern = join '[^/?]+', map { quotemeta } split /\{\w+\}/, $path, -1;
	ok((grep { $_->{method} eq $method && $_->{path} =~ /^$pattern(?:&|$)/ && $_->{answer} =~ m{^HTTP/1.1 20} } @blocks), "$method $path: an example on the page")
	  or diag("none matches $pattern");
	# and what the path does not take
	my $wrong = $h->request('PATCH', $example, token => $token{operator});
	is_deeply([ $wrong->{status}, $wrong->{json}{code} ], [ 405, 'SN405' ], "PATCH $plain: 405");
	like($wrong->{headers}{allow}, qr/\b$method\b/, "$plain: Allow names $method");
	my $options = $h->request('OPTIONS', $example, headers => { Origin => 'https://ops.example.com', 'Access-Control-Request-Method' => $method });
	is($options->{status}, 204, "OPTIONS $plain: a browser may ask before");
	like($options->{headers}{'access-control-allow-methods'}, qr/\b$method\b/, "$plain: and $method is allowed");
}

# ---------------------------------------------------------------- HEAD: as GET, without a body, and nothing is written

my @written = ('sentinai.dlq_history', 'sentinai.report_history', 'sentinai.audit_report', 'sentinai.rate_limit_history', 'sentinai.event_log');
my $rows = join ', ', map { "(SELECT count(*) FROM $_)" } @written;
my $before = $t->sql("SELECT $rows");
for my $block (grep { $_->{method} eq 'GET' && $_->{as} ne 'busy' } @blocks)
{
	my $got = $h->head(to_real($block->{path}), token => $token{ $block->{as} });
	my ($status) = $block->{answer} =~ m{^HTTP/1.1 (\d+)};
	is_deeply([ $got->{status}, $got->{body} ], [ $status, '' ], "HEAD $block->{path}: $status");
}
is($t->sql("SELECT $rows"), $before, 'HEAD has written nothing');

# ---------------------------------------------------------------- downloads

my ($report) = grep { length } map { $real_of{$_} // '' } '00000000-0000-7000-8000-000000000001';
my $downloads = "SELECT count(*) FROM sentinai.report_history WHERE report_id = '$report' AND action = 'download'";
my $n = $t->sql($downloads);
my $file = $h->get("/audit/reports/$report/download?actor=auditor%40example.com", token => $token{operator});
is($file->{status}, 200, 'a completed report is downloaded');
is($file->{headers}{'content-disposition'}, "attachment; filename=\"exception_activity-TENANT_001-2025-01-01T000000Z-$report.csv\"", 'with its name');
is($file->{body}, pack('H*', $t->sql("SELECT encode(string_agg(data, '' ORDER BY n), 'hex') FROM sentinai.report_chunk WHERE report_id = '$report'")), 'byte by byte');
is($t->sql($downloads), $n + 1, 'and noted');
is($t->sql("SELECT actor FROM sentinai.report_history WHERE report_id = '$report' AND action = 'download' ORDER BY id DESC LIMIT 1"), 'auditor@example.com', 'with who claims to have it');
my $head = $h->head("/audit/reports/$report/download", token => $token{operator});
is_deeply([ @{ $head->{headers} }{qw(content-type content-disposition repr-digest)} ], [ @{ $file->{headers} }{qw(content-type content-disposition repr-digest)} ],
	'HEAD has its headers');
my $link = $h->post("/audit/reports/$report/link", token => $token{operator})->{json};
is($h->get($link->{url})->{body}, $file->{body}, 'a link works without a login');
my $link_head = $h->head($link->{url});
is_deeply([ $link_head->{status}, $link_head->{body}, @{ $link_head->{headers} }{qw(content-type content-disposition repr-digest)} ],
	[ 200, '', @{ $file->{headers} }{qw(content-type content-disposition repr-digest)} ], 'HEAD of it, too, has the headers');
is($h->head($link->{url} . '0')->{status}, 403, 'and refuses what is none');
is($h->get($link->{url} =~ s/$report/01949fa2-0000-7000-8000-000000000000/r)->{status}, 403, 'and for its own report only');
is($t->sql($downloads), $n + 2, 'each download is one row');
is($h->get("/audit/reports/$report/download", token => $h->token('sentinai_operator', 'TENANT_002'))->{status}, 404, 'a neighbour\'s report is not there');
$t->sql("UPDATE sentinai.audit_report SET download_expires_at = now() WHERE id = '$report'");
is($h->get("/audit/reports/$report/download", token => $token{operator})->{status}, 410, 'one that has expired is gone');
is($h->get($link->{url})->{status}, 410, 'by its link, too');
is_deeply([ map { $h->head($_->[0], token => $_->[1])->{status} } [ "/audit/reports/$report/download", $token{operator} ], [ $link->{url} ] ], [ 410, 410 ], 'HEAD says so');
is($h->head("/audit/reports/$report/download", token => $token{viewer})->{status}, 403, 'and who may not download it is told no more');

# ---------------------------------------------------------------- paths, functions, and the OpenAPI document

my %function = map { $_ => 1 } Sentinai::Test::slurp('docker/nginx.conf') =~ m{"/rpc/(\w+)}g;
my %described = map { m{^/rpc/(\w+)} ? ($1 => $_) : () } keys %{ Sentinai::Paths::openapi($h, $token{admin})->{paths} };
is_deeply([ sort keys %function ], [ sort keys %described ], 'each function has a path, and each path a function');

my $document = Sentinai::Paths::document($h, $token{admin});
my @operations = operations($document);
my %words = map { (shape("$_->{method} $_->{path}") => join ' ', sort @{ $_->{query} }) } grep { $_->{name} ne 'rest' } Sentinai::Paths::paths();
my %said = map { (shape("$_->{method} $_->{path}") => join ' ', sort map { $_->{in} eq 'query' ? $_->{name} : () } @{ $_->{parameters} }) }
  grep { $_->{path} !~ m{^/rest/} } @operations;
is_deeply([ sort keys %said ], [ sort keys %words ], '/openapi.json: the paths of docker/nginx.conf, and no others');
is_deeply({ map { /^GET (?!.*download)/ ? ($_ => $said{$_}) : () } keys %said }, { map { /^GET (?!.*download)/ ? ($_ => $words{$_}) : () } keys %words },
	'with what each takes behind the "?"');
is_deeply([ map { shape($_->[0]) } $t->rows(q{SELECT method || ' ' || path || ' ' || function_name FROM sentinai.api_path_list() ORDER BY 1}) ],
	[ sort map { shape("$_->{method} $_->{path} ") . ($_->{function} || 'report_download') } grep { $_->{name} ne 'rest' } Sentinai::Paths::paths() ], 'and the functions behind them');
for my $operation (@operations)
{
	my @body = map { values %{ $_->{content}{'application/json'}{schema}{properties} } } $operation->{requestBody} // ();
	my @dumb = grep { !$_->{description} } @{ $operation->{parameters} }, @body;
	my $options = $h->request('OPTIONS', $operation->{path} =~ s/\{\w+\}/1/gr);
	like("$options->{status} $options->{headers}{'access-control-allow-methods'}", qr/^204 .*\b$operation->{method}\b/, "OPTIONS $operation->{path}: $operation->{method}");
	ok($operation->{summary} && $operation->{description} && !@dumb, "$operation->{method} $operation->{path}: all is described") or diag(explain(\@dumb));
}
# An answer on the page has what the description promises.
for my $operation (grep { $_->{path} !~ m{^/rest/} } @operations)
{
	my ($good) = map { $operation->{responses}{$_}{content}{'application/json'} // () } grep { /^20/ } keys %{ $operation->{responses} };
	my $pattern = join '[^/?]+', map { quotemeta } split /\{\w+\}/, $operation->{path}, -1;
	for my $block (grep { $_->{method} eq $operation->{method} && $_->{path} =~ /^$pattern(?:\?|$)/ && $_->{answer} =~ m{^HTTP/1.1 20[012]} } @blocks)
	{
		my @absent = grep { $block->{answer} !~ /"$_":/ } @{ ($good // {})->{schema}{required} // [] };
		is("@absent", '', "$page:$block->{line}: $operation->{method} $operation->{path} has all that it is said to answer");
	}
}
my %times;
$times{ $_->{operationId} }++ for @operations;
is(join(' ', grep { $times{$_} > 1 } sort keys %times), '', 'each operation has a name of its own');

# What a role's document has it may call, and nothing else.
for my $who (qw(operator viewer nobody))
{
	my %has = map { ("$_->{method} $_->{path}" => 1) } operations(Sentinai::Paths::document($h, $token{$who}));
	my @differ;
	for my $operation (@operations)
	{
		my ($method, $path) = @$operation{qw(method path)};
		my $link = $operation->{operationId} eq 'report_download' ? '?token=x' : '';
		my $answer = $h->request($method, $path =~ s/\{(\w+)\}/$1 eq 'tenant_id' ? 'TENANT_001' : 1/ger . $link, token => $token{$who}, $method =~ /^P/ ? (body => {}) : ());
		my $may = !($answer->{status} =~ /^40[13]$/ && $answer->{json}{message} =~ /^permission denied for (?:function|view)/);
		push @differ, "$method $path: $answer->{status} $answer->{body}" if $may != ($has{"$method $path"} // 0);
	}
	is(join("\n", @differ), '', "/openapi.json of the $who: what it may do, " . keys(%has) . ' of ' . @operations);
}

my @views = map { m{^/rest/(\w+)$} ? $1 : () } sort keys %{ $document->{paths} };
is("@views", $t->sql(q{SELECT string_agg(relname, ' ' ORDER BY relname COLLATE "C") FROM pg_class WHERE relnamespace = 'sentinai_api'::regnamespace AND relkind = 'v'}),
	'/rest/: each view');
for my $view (@views)
{
	is($h->get("/rest/$view?limit=1", token => $token{viewer})->{status}, 200, "/rest/$view: a list");
	is($h->get("/rest/$view?limit=1")->{status}, 401, "/rest/$view: for nobody without a token");
	like($text, qr/`$view`/, "/rest/$view: on the page");
}
is($h->post("/rest/dead_letter_queue", token => $token{admin}, body => {})->{status}, 405, 'lists are read only');

# What an operator has in SQL has a path, or stands on the page with the reason why not.
my %has_path = map { $_->[0] => $_->[1] } $t->rows(q{
	SELECT p.proname, bool_or(EXISTS (SELECT FROM pg_proc a WHERE (a.pronamespace = 'sentinai_api'::regnamespace OR a.proname ~ '^api_')
									   AND (a.prosrc ~ ('\msentinai\.' || p.proname || '\(') OR a.prosrc = 'sn_api_' || p.proname)))::int
	  FROM pg_proc p WHERE p.pronamespace = 'sentinai'::regnamespace AND p.proname !~ '^api_' GROUP BY 1});
my @of_operator = map { $_->[0] } $t->rows(q{
	SELECT DISTINCT p.proname FROM pg_proc p
	 WHERE p.pronamespace = 'sentinai'::regnamespace AND p.proname !~ '^api_' AND has_function_privilege('sentinai_operator', p.oid, 'EXECUTE')
	   AND obj_description(p.oid, 'pg_proc') !~ '^Internal'});
my ($section) = $text =~ /^## What only SQL has\n(.*?)(?=^## |\z)/ms or die "$page: what only SQL has?\n";
my ($operators, $admins) = map { [ sort map { /`(\w+)`/g } map { /^\|(.*?)\|/ } split /\n/ ] } split /^And of the admin's:$/m, $section;
my %said_of = map { $_ => 1 } @$operators;
is_deeply([ grep { !$has_path{$_} && !$said_of{$_} } @of_operator ], [], "$page: what of an operator's has no path");
is_deeply([ grep { !exists $has_path{$_} } @$operators, @$admins ], [], "$page: and these are functions");
is_deeply([ grep { $has_path{$_} } @$admins ], [], "$page: of the admin's, without a path");

is($t->sql(q{SELECT string_agg(w.path, ', ') FROM sentinai.api_way_list() w WHERE NOT EXISTS (SELECT FROM sentinai.api_path_list() p WHERE p.method || ' ' || p.path = w.path)}), '',
	'hints name paths that there are');
is($t->sql(q{SELECT string_agg(w.function_name, ', ') FROM sentinai.api_way_list() w WHERE NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'sentinai'::regnamespace AND p.proname = w.function_name)}), '',
	'in place of functions that there are');

# The page has each SQLSTATE with its status, as the function has them.
is_deeply([ $text =~ /^\| `(\w{2,5})` \| (\d+) \| (.*) \|$/mg ],
	[ map { @$_ } $t->rows('SELECT sqlstate, status, meaning FROM sentinai.api_status_list()') ], "$page: all errors");

done_testing();

# Of an OpenAPI document, each with its method and path
sub operations
{
	my ($of) = @_;
	return map { my $path = $_; map { { %{ $of->{paths}{$path}{$_} }, method => uc, path => $path } } sort keys %{ $of->{paths}{$path} } } sort keys %{ $of->{paths} };
}

# Words in a path may have any name.
sub shape { return $_[0] =~ s/\{\w+\}/{}/gr }

# ---------------------------------------------------------------- the page

sub blocks
{
	my ($markdown) = @_;
	my @found;

	while ($markdown =~ /^```http *(.*)\n((?:(?!```).*\n)*)```$/mg)
	{
		my ($attributes, $block) = ($1, $2);
		my ($request, $answer) = split m{^(?=HTTP/1\.1 )}m, $block, 2;
		my ($head, $body) = split /\n\n/, $request, 2;
		my ($first, @headers) = split /\n/, $head;
		my ($method, $path) = split ' ', $first;
		my %attribute = (as => 'nobody', map { split /=/, $_, 2 } split ' ', $attributes);
		push @found, {
			%attribute, method => $method, path => $path, headers => { map { split /: /, $_, 2 } @headers }, body => ($body // '') =~ s/\s+\z//r,
			answer => $answer // '', all => $block, request => $request =~ s/\s+\z//r, line => 1 + (substr($markdown, 0, $-[0]) =~ tr/\n//),
		};
	}
	return @found;
}

sub answer_of
{
	my ($block) = @_;
	my $answer;
	my ($key, $value) = split /:/, $block->{until} // '';

	$t->wait_for("$block->{method} $block->{path}: " . ($block->{until} // 'answer'), sub {
		$answer = $h->request($block->{method}, to_real($block->{path}), token => $token{ $block->{as} }, headers => $block->{headers},
			length $block->{body} ? (body => to_real($block->{body})) : ());
		return !$key || $answer->{status} >= 400 || $answer->{json}{$key} eq $value;
	});
	utf8::decode(my $body = $answer->{body});
	my $shown = "HTTP/1.1 $answer->{status} $answer->{reason}\n";
	for my $name ('Content-Type', 'Content-Disposition', 'Allow', 'Location', 'Idempotency-Replayed', 'WWW-Authenticate', 'Retry-After', 'RateLimit', 'RateLimit-Policy')
	{
		my $is = $answer->{headers}{ lc $name } // next;
		next if $name =~ /^RateLimit/ && $answer->{status} != 429;
		$shown .= "$name: $is\n";
	}
	$shown =~ s/t=\d+/t=45/g;
	$shown =~ s/^Retry-After: \d+/Retry-After: 45/m;
	if ($answer->{headers}{'content-type'} && $answer->{headers}{'content-type'} =~ m{^application/json} && defined $answer->{json})
	{
		my @tokens = $body =~ /("(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+)/g;
		my $tree = tree(\@tokens);
		cut($tree, $block->{show}) if $block->{show};
		vary($tree, { map { $_ => 1 } split /,/, $block->{varies} // '' });
		$body = pretty($tree, '');
	}
	$body = join '', (split /^/, $body)[ 0 .. $block->{head} - 1 ] if $block->{head};
	$body =~ s/\r\n/\n/g;
	return to_page($shown . (length $body ? "\n$body" =~ s/\n?\z/\n/r : ''));
}

sub mend
{
	my ($block, $real) = @_;
	my $markdown = Sentinai::Test::slurp($page);

	$block->{answer} = $real;
	utf8::decode($markdown);
	utf8::decode(my $old = $block->{all});
	utf8::decode(my $request = $block->{request});
	$markdown =~ s/\Q$old\E```/$request\n\n$real```/;
	open my $handle, '>:utf8', $page or die "$page: $!\n";
	print {$handle} $markdown;
	close $handle or die "$page: $!\n";
	$text = Sentinai::Test::slurp($page);
	return;
}

# Real UUIDs and times for those of the page, and back
sub to_real
{
	my ($said) = @_;
	$said =~ s/(0{8}-0000-7000-8000-\d{12})/$real_of{$1} \/\/ $1/ge;
	return $said;
}

sub to_page
{
	my ($said) = @_;
	$said =~ s{((?!0{8})[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})}{
		page_uuid($1) }ge;
	$said =~ s/20(?!25)\d\d-\d\d-\d\d([T ])\d\d:\d\d:\d\d(?:\.\d+)?(\+00(?::00)?|Z)/2026-01-15${1}10:30:00$2/g;
	$said =~ s/\.\d{10}\.[0-9a-f]{64}/.1768559400.6d0c.../g;
	utf8::encode($said) if utf8::is_utf8($said);
	return $said;
}

sub page_uuid
{
	my ($uuid) = @_;
	my $next = sprintf '00000000-0000-7000-8000-%012d', 1 + keys %page_of;

	$real_of{ $page_of{$uuid} = $next } = $uuid if !$page_of{$uuid};
	return $page_of{$uuid};
}

# JSON as it came, in its order: [tokens] of an array, {tokens} of an object, or a scalar's text
sub tree
{
	my ($tokens) = @_;
	my $first = shift @$tokens;

	if ($first eq '[')
	{
		my @items;
		until ($tokens->[0] eq ']') { push @items, tree($tokens); shift @$tokens if $tokens->[0] eq ','; }
		shift @$tokens;
		return { kind => 'array', items => \@items };
	}
	if ($first eq '{')
	{
		my @pairs;
		until ($tokens->[0] eq '}')
		{
			my $key = shift @$tokens;
			shift @$tokens;
			push @pairs, [ $key, tree($tokens) ];
			shift @$tokens if $tokens->[0] eq ',';
		}
		shift @$tokens;
		return { kind => 'object', pairs => \@pairs };
	}
	return { kind => 'scalar', text => $first };
}

sub cut
{
	my ($tree, $n) = @_;
	for my $pair (@{ $tree->{pairs} // [] })
	{
		my $items = $pair->[1]{items} // next;
		splice @$items, $n, @$items - $n, { kind => 'scalar', text => '...' } if @$items > $n;
	}
	return;
}

sub vary
{
	my ($tree, $names) = @_;
	for my $pair (@{ $tree->{pairs} // [] })
	{
		my ($key) = $pair->[0] =~ /"(.*)"/;
		$pair->[1] = { kind => 'scalar', text => '...' } if $names->{$key};
		vary($pair->[1], $names);
	}
	vary($_, $names) for @{ $tree->{items} // [] };
	return;
}

# On one line where it fits
sub pretty
{
	my ($tree, $indent) = @_;
	my $line = line($tree);
	return $line if $tree->{kind} eq 'scalar' || length("$indent$line") <= 120;
	my ($open, $close, @parts) = $tree->{kind} eq 'array'
	  ? ('[', ']', map { pretty($_, "$indent  ") } @{ $tree->{items} })
	  : ('{', '}', map { "$_->[0]: " . pretty($_->[1], "$indent  ") } @{ $tree->{pairs} });
	return "$open\n" . join(",\n", map { "$indent  $_" } @parts) . "\n$indent$close";
}

sub line
{
	my ($tree) = @_;
	return $tree->{text} if $tree->{kind} eq 'scalar';
	return '[' . join(', ', map { line($_) } @{ $tree->{items} }) . ']' if $tree->{kind} eq 'array';
	return '{' . join(', ', map { "$_->[0]: " . line($_->[1]) } @{ $tree->{pairs} }) . '}';
}
