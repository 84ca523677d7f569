# sentinai-worker verify: reports of a database, their manifests, and what became of both on the way.
use lib 'test/perl';
use Sentinai::Test;

my $t = Sentinai::Test->new;
my $worker = "$Sentinai::Test::top/worker/sentinai-worker";

sub put
{
	my ($name, $bytes) = @_;

	open(my $out, '>:raw', "$t->{dir}/$name") or die $!;
	print $out $bytes;
	close $out;
	return "$t->{dir}/$name";
}

sub verify
{
	my @arguments = @_;
	my $said = `'$worker' verify @{[map { "'$_'" } @arguments]} 2>&1`;

	return ($? >> 8, $said);
}

# A report of the tenant, made: its file and its manifest as they were downloaded.
sub make_report
{
	my ($tenant, $title) = @_;
	my $id = $t->sql("SELECT id FROM sentinai.report_request('$tenant', 'exception_activity', '$title', 'csv',
		jsonb_build_object('from_date', current_date - 1, 'to_date', current_date + 1), 'auditor\@example.com')");

	$t->wait_for_sql("SELECT status FROM sentinai.audit_report WHERE id = '$id'", 'completed');
	my $hex = $t->sql("SELECT encode(content, 'hex') FROM sentinai.report_download('$id')");
	my $file = put("$title.csv", pack('H*', $hex));
	put("$title.csv.manifest.json", $t->sql("SELECT sentinai.report_manifest_get('$id')"));
	return $file;
}

$t->sql("SELECT sentinai.tenant_add(x) FROM unnest(ARRAY['T1', 'T2']) x");
$t->sql("INSERT INTO sentinai.exceptions (tenant_id, exception_id, type, severity)
	SELECT 'T1', 'EXC_' || i, 'late', 'high' FROM generate_series(1, 50) i");
my $first = make_report('T1', 'first');
my $other = make_report('T2', 'other');
my $second = make_report('T1', 'second');
my $key = $t->sql('SELECT sentinai.report_public_key()');

my ($status, $said) = verify($first, '--public-key', $key);
is($status, 0, 'a report is genuine') or diag($said);
like($said, qr/by the key that you gave/, 'by the key that the database publishes');
like($said, qr/exception_activity of tenant T1, number 1 of its tenant, \d+ rows, requested by auditor\@example\.com/, 'and it says which one it is');
($status, $said) = verify($second, '--public-key', $key, '--previous', "$first.manifest.json");
is($status, 0, 'the second follows the first') or diag($said);
($status, $said) = verify($second, '--previous', "$other.manifest.json");
is($status, 1, 'it does not follow a report of another tenant');
($status, $said) = verify($first, '--manifest', "$other.manifest.json");
is($status, 1, 'a report is not that of another manifest');
($status, $said) = verify($first, '--public-key', '00' x 32);
is($status, 1, 'nor of another database');

open(my $in, '<:raw', $first) or die $!;
my $bytes = do { local $/; <$in> };
close $in;
(my $forged = $bytes) =~ s/EXC_1\b/EXC_9/;
isnt($forged, $bytes, 'one character of the file is changed');
put('first.csv', $forged);
($status, $said) = verify($first);
is($status, 1, 'which is seen');
like($said, qr/the manifest says/, 'and said');
put('first.csv', substr($bytes, 0, -1));
is((verify($first))[0], 1, 'so is a byte that is missing');
($status, $said) = verify("$t->{dir}/nothing.csv");
is($status, 2, 'of a file that is not there nothing is known');

done_testing();
