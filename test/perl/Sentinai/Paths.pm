package Sentinai::Paths;

=head1 NAME

Sentinai::Paths - what HTTP can be asked: the paths of docker/nginx.conf, and what PostgREST says of itself

=head1 SYNOPSIS

  for my $path (Sentinai::Paths::paths()) { ... $path->{method}, {path}, {in_path}, {query}, {function}, {name} }
  # POST, /ops/dlq/{id}/retry, ['id'], ['actor', 'tenant_id'], dlq_retry, dlq_retry
  my $openapi = Sentinai::Paths::openapi($h, $token);         # PostgREST's, of functions and views, as the token's role sees it
  my $document = Sentinai::Paths::document($h, $token);       # of the paths

All are read from what really runs, so that a path or function that comes later is there too.

=cut

use strict;
use warnings;
use Carp qw(croak);

# Query words that POST paths take beside their body
my @of_posts = qw(tenant_id actor requested_by limit_type);

sub config { return Sentinai::Test::slurp("$Sentinai::Test::top/docker/nginx.conf") }

# name => value of a map, in order: [[key, value], ...]
sub map_of
{
	my ($variable) = @_;
	my ($body) = config() =~ /^map [^\n]* \$$variable \{\n(.*?)^\}/ms or croak "docker/nginx.conf has no map \$$variable";
	my @rows;

	for my $line (split /\n/, $body)
	{
		next if $line =~ /^\s*(?:#|$)/;
		push @rows, [ $1 // $2, $3 // $4 ] if $line =~ /^\s*(?:"([^"]*)"|(\S+))\s+(?:"([^"]*)"|([^\s;]+));/;
	}
	return @rows;
}

# Words of the GETs that nginx calls without a query: their functions read X-Sentinai-Args (extension/api_dlq.c)
my %of_header = (
	dlq_list => [qw(after count error_type event_type fingerprint limit offset order status tenant_id worker_type)],
	dlq_get => ['tenant_id'],
);

# Words of the query by the variable that carries them: $sn_q_limit => limit
sub words
{
	my $config = config();
	my %words;

	$words{$2} = $1 while $config =~ /^map \$arg_(\w+)\s+\$(sn_q_\w+)\s/mg;
	return %words;
}

sub paths
{
	my %words = words();
	my %regex;
	my @paths;

	for my $row (map_of('sn_name'))
	{
		my ($pattern, $name) = @$row;
		next if $pattern eq 'default' || $name eq 'missing';
		push @{ $regex{$name} }, [ template($pattern), { $pattern =~ /\(\?<sn_(\w+)>((?:[^()]|\([^()]*\))*)\)/g } ];
	}
	for my $row (map_of('sn_call'))
	{
		my ($key, $call) = @$row;
		my ($method, $name) = $key =~ /^([A-Z]+) (\w+)$/ or next;
		my ($function) = $call =~ m{^/rpc/(\w+)};
		my @query = sort grep { defined } map { $words{$_} } $call =~ /\$(sn_q_\w+)/g;
		@query = @of_posts if $method ne 'GET' && !@query;
		@query = @{ $of_header{$function} } if $function && $of_header{$function};
		for my $known (@{ $regex{$name} // croak "docker/nginx.conf: no path leads to $name" })
		{
			my ($template, $of_word) = @$known;
			my @in_path = $template =~ /\{(\w+)\}/g;
			my %in_path = map { $_ => 1 } @in_path;
			push @paths, { method => $method, path => $template, in_path => \@in_path, is_number => { map { $_ => $of_word->{$_} =~ /0-9/ ? 1 : 0 } @in_path }, name => $name, function => $function // '',
				query => [ grep { !$in_path{$_} } @query ] };
		}
	}
	croak 'docker/nginx.conf has no paths that can be read' if !@paths;
	return @paths;
}

# ~^/ops/dlq/(?<sn_id>-?[0-9]+)/retry/?$  ->  /ops/dlq/{id}/retry
sub template
{
	my ($pattern) = @_;
	my $path = $pattern =~ s/^~\*?\^//r;

	$path =~ s{/\?\$$|\$$}{};
	$path =~ s{\(\?<sn_(\w+)>(?:[^()]|\([^()]*\))*\)}{\{$1\}}g;
	$path =~ s{\\\.}{.}g;
	croak "docker/nginx.conf: what path is $pattern?" if $path =~ /[\\()\[\]|*+?^\$]/;
	return $path;
}

# ---------------------------------------------------------------- OpenAPI

sub openapi
{
	my ($h, $token) = @_;
	my $answer = $h->get('/', token => $token, direct => 1);

	croak "PostgREST has no description of itself: $answer->{status} $answer->{body}" if $answer->{status} != 200;
	return $answer->{json};
}

# Of the paths, as nginx serves it to the token's role
sub document
{
	my ($h, $token) = @_;
	my $answer = $h->get('/openapi.json', token => $token);

	croak "there is no description of the paths: $answer->{status} $answer->{body}" if $answer->{status} != 200;
	return $answer->{json};
}

1;
