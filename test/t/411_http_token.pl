# Who a token makes of whoever sends it, by the real PostgREST: what is signed and in date counts, and nothing else does.
# docs/http-setup.md says the same for production.
use lib 'test/perl';
use Sentinai::Test;
use Digest::SHA qw(hmac_sha256);
use JSON::PP;
use MIME::Base64 qw(encode_base64url);

my $t = Sentinai::Test->new;
$t->sql(q{
	SELECT sentinai.tenant_add('TENANT_001'), sentinai.tenant_add('TENANT_002');
	CREATE ROLE regress_not_granted IN ROLE sentinai_operator;
	CREATE ROLE regress_ann LOGIN IN ROLE sentinai_viewer;
	SELECT sentinai.tenant_role_add('regress_ann', 'TENANT_002')});
my $h = $t->http;
$t->sql('GRANT regress_ann TO authenticator');

my $secret = Sentinai::Test::slurp("$h->{dir}/secret");
my %good = (role => 'sentinai_viewer', tenant_id => 'TENANT_001', aud => 'sentinai', exp => time + 600);
my $json = JSON::PP->new->canonical->utf8->allow_nonref;

subtest 'what is good' => sub {
	is(asks(token => $h->token('sentinai_viewer', 'TENANT_001')), 200, 'HS256');
	is(asks(token => $h->token('sentinai_viewer', 'TENANT_001', undef, alg => 'RS256')), 200, 'RS256, by the key set');
	is(asks(token => signed(\%good)), 200, 'HS256 by another hand');
	is(asks(token => signed({ %good, aud => [ 'another', 'sentinai' ] })), 200, 'one of several audiences');
	is(asks(token => without('aud')), 200, 'no audience: PostgREST asks for none');
	is(asks(token => without('exp')), 200, 'no end: PostgREST asks for none, so whoever signs must say one');
	is(asks(token => signed({ %good, exp => time - 10 })), 200, 'ended within the 30 s by which clocks may differ');
	is(asks(headers => { Authorization => 'bearer ' . signed(\%good) }), 200, 'bearer in small letters');
};

subtest 'what is not: 401, whatever is asked' => sub {
	my ($head, $body, $signature) = split /\./, signed(\%good);
	my $rsa = $h->token('sentinai_viewer', 'TENANT_001', undef, alg => 'RS256');
	my $public = qx(openssl rsa -in $h->{dir}/rsa.pem -pubout 2>/dev/null);
	my $longer = encode_base64url($json->encode({ %good, role => 'sentinai_admin' }));
	my %bad = (
		'no token' => undef,
		'a token that has ended' => $h->token('sentinai_viewer', 'TENANT_001', undef, seconds => -60),
		'the same by RS256' => $h->token('sentinai_viewer', 'TENANT_001', undef, alg => 'RS256', seconds => -60),
		'one that does not count yet' => signed({ %good, nbf => time + 600 }),
		'one that is issued in the future' => signed({ %good, iat => time + 600 }),
		'another secret' => signed(\%good, key => "$secret."),
		'no secret' => signed(\%good, key => ''),
		'another RSA key' => rsa_signed(\%good),
		'no signature' => "$head.$body.",
		'no signature, and no dot' => "$head.$body",
		'a signature that is cut' => "$head.$body." . substr($signature, 0, 40),
		'another body under it' => "$head.$longer.$signature",
		'the signature of an RS256 token under HS256' => join('.', $head, (split /\./, $rsa)[ 1, 2 ]),
		'the public RSA key as the secret' => signed(\%good, key => $public),
		'alg none' => encode_base64url('{"alg":"none","typ":"JWT"}') . ".$body.",
		'alg None' => encode_base64url('{"alg":"None","typ":"JWT"}') . ".$body.",
		'alg none with the signature' => encode_base64url('{"alg":"none"}') . ".$body.$signature",
		'no alg' => encode_base64url('{"typ":"JWT"}') . ".$body.$signature",
		'another audience' => signed({ %good, aud => 'another' }),
		'no audience of several' => signed({ %good, aud => [ 'x', 'y' ] }),
		'no JSON' => signed_bytes('{"role": "sentinai_viewer"'),
		'no object' => signed_bytes('["sentinai_viewer"]'),
		'a word' => 'sentinai_admin',
		'nothing' => '',
	);

	for my $name (sort keys %bad)
	{
		is(asks(token => $bad{$name}), 401, $name);
		is(asks(token => $bad{$name}, path => '/rpc/dlq_list', direct => 1), 401, "$name, to PostgREST itself");
	}
	is(asks(headers => { Authorization => "Basic $head.$body.$signature" }), 401, 'a good token that is called otherwise');
	is(asks(path => '/ops/dlq?tenant_id=TENANT_001&token=' . signed(\%good)), 401, 'a good token in the query');
	is(asks(headers => { Cookie => 'token=' . signed(\%good) }), 401, 'a good token in a cookie');
};

subtest 'roles' => sub {
	my %refused = map { $_ => asks(token => signed({ %good, role => $_ })) }
	  qw(postgres authenticator sentinai_worker sentinai_handler sentinai_platform regress_not_granted nobody_at_all),
	  '', 'sentinai_viewer"; SET ROLE "sentinai_admin', "sentinai_viewer\x{0}", 'SENTINAI_VIEWER', 'none';

	like($refused{$_}, qr/^40[0134]$/, 'refused: ' . ($_ =~ s/\0/\\0/r)) for sort keys %refused;
	is(asks(token => without('role')), 401, 'no role is nobody: sentinai_anon');
	like(asks(token => signed({ %good, role => $_->[1] })), qr/^40[01]$/, "a role that is $_->[0] is none")
	  for [ null => undef ], [ 'an array' => ['sentinai_admin'] ], [ 'an object' => { x => 'sentinai_admin' } ];
	is(asks(token => signed({ %good, role => 'sentinai_anon' })), 401, 'sentinai_anon may not');
	is(asks(token => signed({ %good, role => 'sentinai_admin', tenant_id => undef })), 200, 'sentinai_admin needs no tenant');
};

subtest 'tenants' => sub {
	my %refused = (
		'none' => without('tenant_id'),
		'another' => signed({ %good, tenant_id => 'TENANT_002' }),
		'one that there is not' => signed({ %good, tenant_id => 'TENANT_9' }),
		'null' => signed({ %good, tenant_id => undef }),
		'nothing' => signed({ %good, tenant_id => '' }),
		'*' => signed({ %good, tenant_id => '*' }),
		'an array' => signed({ %good, tenant_id => ['TENANT_001'] }),
		'an object' => signed({ %good, tenant_id => { tenant_id => 'TENANT_001' } }),
		'a number' => signed({ %good, tenant_id => 1 }),
		'true' => signed({ %good, tenant_id => JSON::PP::true }),
		'a blank behind it' => signed({ %good, tenant_id => 'TENANT_001 ' }),
		'a NUL behind it' => signed({ %good, tenant_id => "TENANT_001\x{0}" }),
		'small letters' => signed({ %good, tenant_id => 'tenant_001' }),
		'a longer one' => signed({ %good, tenant_id => 'TENANT_001' x 30 }),
		'one that only lies deeper' => signed({ %good, tenant_id => undef, app => { tenant_id => 'TENANT_001' } }),
		'a role of another tenant' => signed({ %good, role => 'regress_ann' }),
	);

	for my $name (sort keys %refused)
	{
		like(asks(token => $refused{$name}), qr/^40[013]$/, $name);
	}
	my $two = signed({ %good, tenant_id => 'TENANT_002' });
	for my $header ('X-Tenant-Id', 'Tenant-Id', 'X-Sentinai-Args', 'X-Sentinai-Tenant', 'Role', 'X-Role', 'X-Forwarded-User')
	{
		for my $value ('TENANT_001', 'tenant_id=TENANT_001', 'sentinai_admin')
		{
			is(asks(token => $two, headers => { $header => $value }), 403, "$header: $value makes no difference");
		}
	}
	is(asks(token => signed({ %good, role => 'regress_ann' }), path => '/ops/dlq?tenant_id=TENANT_002'), 200,
		'a role that is bound to a tenant is that tenant, whatever its token says');
};

subtest 'who it is' => sub {
	my $said = sub { my ($sub) = @_; return asks(token => signed({ %good, sub => $sub })) };
	is($said->('x' x 255), 200, 'a sub of 255 bytes');
	is($said->("\x{fc}" x 127), 200, 'of 254, whatever JSON makes of them');
	is($said->(undef), 200, 'null is none');
	is($said->($_), 403, 'one that no history could have') for 'x' x 256, "\x{fc}" x 128;
	like($said->($_), qr/^40[13]$/, 'no text, by PostgREST or by us: ' . $json->encode($_)) for 7, JSON::PP::true, ['ann'], { name => 'ann' };
	is(asks(token => signed({ %good, role => 'sentinai_admin', sub => 'x' x 256 }), path => '/health'), 403, 'an admin\'s neither, whatever is asked');
	my $late = $h->put('/admin/rate-limits/TENANT_001', token => signed({ %good, role => 'sentinai_admin', sub => "\x{fc}" x 127 }),
		body => { limit_type => 'api_requests', limit_value => 100000 });
	is($t->sql(q{SELECT authenticated FROM sentinai.rate_limit_history ORDER BY id DESC LIMIT 1}), 'jwt:' . "\xc3\xbc" x 127, 'the history has all of it') or diag($late->{body});
};

subtest 'keys change' => sub {
	my $old = $h->token('sentinai_viewer', 'TENANT_001', 'before');
	$h->http('rotate');
	$t->wait_for('the old key to count no more', sub { asks(token => $old) == 401 });
	is(asks(token => $h->token('sentinai_viewer', 'TENANT_001', 'after')), 200, 'the new one counts, and nothing was restarted');
};
done_testing();

# The status of a question that a viewer of TENANT_001 may ask
sub asks
{
	my (%option) = @_;
	my $path = delete $option{path} // '/ops/dlq?tenant_id=TENANT_001';
	return $h->get($path, %option)->{status};
}

sub without { my ($claim) = @_; my %claims = %good; delete $claims{$claim}; return signed(\%claims) }

sub signed { my ($claims, %option) = @_; return signed_bytes($json->encode($claims), %option) }

sub signed_bytes
{
	my ($bytes, %option) = @_;
	my $text = encode_base64url('{"alg":"HS256","typ":"JWT"}') . '.' . encode_base64url($bytes);
	return "$text." . encode_base64url(hmac_sha256($text, $option{key} // $secret));
}

sub rsa_signed
{
	my ($claims) = @_;
	my $text = encode_base64url('{"alg":"RS256","typ":"JWT"}') . '.' . encode_base64url($json->encode($claims));
	my $key = "$h->{dir}/other.pem";

	Sentinai::Test::run('openssl', 'genrsa', '-out', $key, '2048');
	my ($status, $signature) = Sentinai::Test::capture({ input => $text }, 'openssl', 'dgst', '-sha256', '-sign', $key, '-binary');
	return "$text." . encode_base64url($signature);
}
