package Sentinai::Http;

=head1 NAME

Sentinai::Http - PostgREST and nginx on a test's cluster, and a client for them

=head1 SYNOPSIS

  my $t = Sentinai::Test->new;
  my $h = $t->http;                               # starts both; they end with the test
  my $ann = $h->token('sentinai_viewer', 'TENANT_001', 'ann@example.com');

  my $r = $h->get('/ops/dlq?tenant_id=TENANT_001', token => $ann);
  is($r->{status}, 200);                          # {status, reason, headers (names in small letters), body, json}
  $h->post('/ops/dlq/7/retry', token => $ann, body => { reason => 'fixed' }, headers => { 'Idempotency-Key' => 'k1' });
  $h->put(...); $h->delete(...); $h->head(...); $h->request('OPTIONS', ...);

  $h->get('/dlq', direct => 1);                   # PostgREST itself, past nginx
  my $bytes = $h->raw("GET / HTTP/1.0\r\n\r\n");  # whatever comes back until the server closes
  $h->token('sentinai_viewer', 'T', 'ann', alg => 'RS256', seconds => -60, claims => { aud => 'another' });
  $h->http('restart');                            # a command of test/http/http

A body that is a reference goes out as JSON, one that is text as it is, in UTF-8; json is undef where the answer is none.
Nothing is followed, and nothing is tried twice: a connection that breaks is status 599 with the reason in body.

=cut

use strict;
use warnings;
use Carp qw(croak);
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP;
use Socket qw(IPPROTO_TCP TCP_NODELAY);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

# Sentinai::Test::http calls it. settings => 'a = b; c = d' for PostgREST's configuration; port => nginx's; dir => where
# another one lies
sub new
{
	my ($class, $t, %option) = @_;
	my $self = bless { t => $t, dir => $option{dir} // "$t->{dir}/http", option => \%option, tokens => {} }, $class;

	$self->http('start');
	$self->read_environment;
	return $self;
}

sub read_environment
{
	my ($self) = @_;

	chomp(my $url = $self->http('url'));
	chomp(my $postgrest = $self->http('postgrest'));
	@$self{qw(url postgrest)} = ($url, $postgrest);
	return;
}

sub url { return $_[0]{url} }
sub postgrest { return $_[0]{postgrest} }

# A command of test/http/http
sub http
{
	my ($self, @command) = @_;
	local $ENV{HTTP_DIR} = $self->{dir};
	local $ENV{HTTP_SETTINGS} = $self->{option}{settings} // '';
	local $ENV{HTTP_PORT} = $self->{option}{port} // '';
	local $ENV{CLUSTER_DIR} = $self->{t}{cluster_dir};
	return Sentinai::Test::run("$Sentinai::Test::top/test/http/http", @command);
}

# alg, seconds, claims: see the script. The same question has the same answer.
sub token
{
	my ($self, $role, $tenant, $actor, %option) = @_;
	local $ENV{TOKEN_ALG} = $option{alg} // 'HS256';
	local $ENV{TOKEN_SECONDS} = $option{seconds} // 3600;
	local $ENV{TOKEN_CLAIMS} = $json->encode($option{claims} // {});
	my @command = ('token', $role, $tenant // '', $actor // '');

	return $self->{tokens}{ join "\0", @command, @ENV{qw(TOKEN_ALG TOKEN_SECONDS TOKEN_CLAIMS)} } //=
	  $self->http(@command) =~ s/\s+\z//r;
}

sub get { my ($self, @rest) = @_; return $self->request('GET', @rest) }
sub head { my ($self, @rest) = @_; return $self->request('HEAD', @rest) }
sub post { my ($self, @rest) = @_; return $self->request('POST', @rest) }
sub put { my ($self, @rest) = @_; return $self->request('PUT', @rest) }
sub patch { my ($self, @rest) = @_; return $self->request('PATCH', @rest) }
sub delete { my ($self, @rest) = @_; return $self->request('DELETE', @rest) }

# token => text; headers => {name => value}; body => reference or text; direct => 1: not through nginx
sub request
{
	my ($self, $method, $path, %option) = @_;
	my %headers = %{ $option{headers} // {} };
	my $base = $option{direct} ? $self->{postgrest} : $self->{url};
	my %request;

	$headers{Authorization} = "Bearer $option{token}" if defined $option{token};
	if (defined $option{body})
	{
		$request{content} = ref $option{body} ? $json->encode($option{body}) : Sentinai::Test::encoded($option{body});
		$headers{'Content-Type'} //= 'application/json';
	}
	# PostgREST answers some HEADs with a body, which the next answer on that connection would begin with.
	delete $self->{agent}{$$} if $method eq 'HEAD' || $self->{head};
	$self->{head} = $method eq 'HEAD';
	my $agent = $self->agent;
	my $answer = $agent->request($method, $base . Sentinai::Test::encoded($path), { %request, headers => \%headers });
	# HTTP::Tiny sends a body apart from its head: from the connection's second request on it needn't wait for an ACK.
	setsockopt $agent->{handle}{fh}, IPPROTO_TCP, TCP_NODELAY, 1 if $agent->{handle};
	return {
		status => $answer->{status},
		reason => $answer->{reason},
		headers => $answer->{headers} // {},
		body => $answer->{content} // '',
		json => scalar eval { $json->decode($answer->{content}) },
	};
}

# One connection a process: a child must not talk on its parent's.
sub agent
{
	my ($self) = @_;
	return $self->{agent}{$$} //= HTTP::Tiny->new(
		agent => 'sentinai-test',
		max_redirect => 0,
		keep_alive => 1,
		timeout => $Sentinai::Test::wait_seconds);
}

# Bytes as they are to nginx (direct => 1: to PostgREST), and all that it says until it closes
sub raw
{
	my ($self, $bytes, %option) = @_;
	my ($address) = ($option{direct} ? $self->{postgrest} : $self->{url}) =~ m{//(.*)};
	my $socket = IO::Socket::INET->new(PeerAddr => $address, Timeout => 10) or croak "$address: $@";
	local $/ = undef;

	print {$socket} $bytes;
	return scalar(<$socket>) // '';
}

sub destroy { my ($self) = @_; $self->http('destroy'); return }
sub kill { my ($self) = @_; $self->http('kill'); return }
sub logs { my ($self) = @_; return $self->http('logs') }

1;
