# sentinai-report-pdf: what it draws, read back by poppler, and what it refuses.
use strict;
use warnings;
use utf8;
use Encode qw(encode_utf8 decode_utf8);
use File::Temp qw(tempdir);
use IPC::Run qw(run);
use JSON::PP;
use Test::More;
use Cwd qw(abs_path);
use File::Basename qw(dirname);

binmode(Test::More->builder->$_, ':encoding(UTF-8)') for qw(output failure_output todo_output);

my $program = abs_path(dirname(__FILE__) . '/../../worker/sentinai-report-pdf');
my $dir = tempdir(CLEANUP => 1);
my $json = JSON::PP->new->utf8->canonical;
my $n_files = 0;

my $head = {report => {
	title => 'SLA Compliance Report - January 2025', tenant_id => 'TENANT_001', report_type => 'sla_compliance',
	period_from => '2025-01-01', period_to => '2025-01-31', requested_by => 'ops@example.com',
	requested_at => '2025-02-01T08:00:00Z', generated_at => '2025-02-01T08:00:04Z',
	id => '0194bf3e-1f00-7abc-8def-0123456789ab'}};
my $columns = {columns => [{title => 'Exception'}, {title => 'Amount', align => 'right'}, {title => 'Message'}]};

sub lines { return join('', map { ref ? $json->encode($_) . "\n" : "$_\n" } @_); }

# draw(lines, options): the PDF's file, what it wrote to standard error, and its exit status
sub draw
{
	my ($input, @options) = @_;
	my ($pdf, $errors) = ('', '');
	my $file = "$dir/" . ++$n_files . '.pdf';

	open(my $in, '>:raw', "$dir/input") or die $!;
	print $in $input;
	close $in;
	run([$program, @options], '<', "$dir/input", '>', \$pdf, '2>', \$errors);
	my $status = $?;
	open(my $out, '>:raw', $file) or die $!;
	print $out $pdf;
	close $out;
	return ($file, $errors, $status, $pdf);
}

sub poppler
{
	my @command = @_;
	my $text = '';

	run(\@command, '>', \$text) or die "@command failed";
	return decode_utf8($text);
}

sub report
{
	my ($rows, @parts) = @_;
	return lines($head, @parts, $columns, (map { {row => $_} } @$rows), {end => {rows => scalar @$rows}});
}

# ---- one of everything

my @rows = map { ["EXC_$_", "$_.50", "message $_"] } 1 .. 200;
push @rows, ['EXC_HEBREW', undef, 'שלום עולם'], ['EXC_GREEK', '1', 'Ελληνικά, Русский'], ['EXC_CHINESE', '2', '你好'], ['EXC_KOREAN', '2', '안녕하세요'], ['EXC_THAI', '2', 'สวัสดี'], ['EXC_HINDI', '2', 'नमन'],
  ['EXC_EMOJI', '3', '😀'], ['EXC_LONG', '4', 'x' x 9000 . 'LASTWORD'];
my $input = report(\@rows,
	{summary => [{label => 'Compliance', value => '97.3 %'}]},
	{chart => {kind => 'line', title => 'Compliance by week', x => ['W1', 'W2', 'W3'],
		series => [{name => 'all', values => [98, undef, 99]}]}},
	{chart => {kind => 'stacked', title => 'Exceptions by status', x => ['Jan', 'Feb'],
		series => [map { {name => $_, values => [3, 4]} } qw(open resolved)]}});
my ($file, $errors, $status, $pdf) = draw($input);

is($status, 0, 'a report is drawn');
is($errors, '', 'and nothing is said');
my $info = poppler('pdfinfo', '-isodates', $file);
like($info, qr/^Title:\s+SLA Compliance Report - January 2025$/m, 'its title is in the metadata');
like($info, qr/^Author:\s+ops\@example\.com$/m, 'who asked for it is the author');
like($info, qr/^CreationDate:\s+2025-02-01T08:00:04/m, 'its date is when it was generated');
my ($pages) = $info =~ /^Pages:\s+(\d+)$/m;
cmp_ok($pages, '>', 4, 'it has several pages');
for my $page (1, 2, $pages)
{
	like(poppler('pdftotext', '-f', $page, '-l', $page, $file, '-'), qr/page $page of $pages/, "page $page says so");
}
like(poppler('pdftotext', '-f', $pages, '-l', $pages, $file, '-'), qr/Exception/, 'the last page has the head of the table, too');
my $text = poppler('pdftotext', '-layout', $file, '-');
like($text, qr/$_/, "\"$_\" is in the text")
  for 'TENANT_001', 'Requested by', '97\.3 %', 'Compliance by week', 'resolved', 'EXC_1\b', 'message 200', 'Ελληνικά, Русский', '你好', '안녕하세요', 'สวัสดี', 'नमन', 'Rows +\d+', 'Reviewed by +Date +Signature';
(my $joined = $text) =~ s/\s+//g;
like($joined, qr/שלוםעולם/, 'what is written from right to left is read back so');
like($joined, qr/x{9000}LASTWORD|x{500,}.*LASTWORD/s, 'a long cell is there to its end, over pages');
my (undef, undef, @fonts) = split /\n/, poppler('pdffonts', $file);
cmp_ok(scalar(@fonts), '>', 2, 'it has several fonts');
is(scalar(grep { !/ yes (?:yes|no ) yes\s+\d+\s+\d+$/ } @fonts), 0, 'all of them are embedded, with a way back to Unicode')
  or diag(join("\n", @fonts));
my (undef, undef, undef, $again) = draw($input);
ok($pdf eq $again, 'the same report has the same bytes');

($file, undef, $status) = draw(report([]));
is($status, 0, 'a report without rows is drawn');
like(poppler('pdftotext', $file, '-'), qr/There are no rows in this period/, 'and says so');

# Each character that a text can have, alone and between others.
my @odd = map { no warnings 'utf8'; my $c = chr; [sprintf('U+%04X', $_), undef, "a${c}b$c"] }
  (1 .. 0x20, 0x7f .. 0xa0, 0x200b .. 0x200f, 0x2028 .. 0x202e, 0xfdd0, 0xfeff, 0xfffd, 0xfffe, 0xffff, 0x1f468, 0x1fffe, 0x10ffff);
push @odd, ['LAST', undef, 'row'];
($file, $errors, $status) = draw(report(\@odd));
is($status, 0, 'odd characters are drawn') or diag($errors);
like(poppler('pdftotext', $file, '-'), qr/U\+10FFFF.*LAST/s, 'to the last of them');

# As many columns as there may be, and texts as long as they may be
($file, $errors, $status) = draw(lines($head, {columns => [map { {title => "Column $_"} } 1 .. 60]},
	(map { my $n = $_; {row => [map { "value $n $_ " . 'y' x ($n * 50) } 1 .. 60]} } 1 .. 3), {end => {rows => 3}}));
is($status, 0, 'sixty columns are drawn') or diag($errors);
like(poppler('pdftotext', $file, '-'), qr/page 1 of/, 'and can be read');

# ---- what it refuses

sub refuses
{
	my ($name, $text, $message, @options) = @_;
	my (undef, $said, $exit, $out) = draw($text, @options);

	isnt($exit, 0, "$name is refused");
	is(length($out), 0, '... without a byte of a PDF');
	like($said, $message, '... and says why');
}

my $end = {end => {rows => 0}};
refuses('nothing', '', qr/has no end/);
refuses('a report without its end', lines($head, $columns, {row => ['a', 'b', 'c']}), qr/has no end: it is not complete/);
refuses('an end that counts otherwise', lines($head, $columns, {row => ['a', 'b', 'c']}, {end => {rows => 2}}), qr/line 4: the end doesn't count 1 rows/);
refuses('something behind the end', lines($head, $end, $end), qr/line 3: there is something behind the end/);
refuses('no head', lines($end), qr/line 1: the first line/);
refuses('two heads', lines($head, $head, $end), qr/line 2: the first line/);
refuses('a row of another width', lines($head, $columns, {row => ['a']}, {end => {rows => 1}}), qr/line 3: the row has 1 cells, the table has 3 columns/);
refuses('a row without a table', lines($head, {row => ['a']}, {end => {rows => 1}}), qr/line 2: the row has 1 cells, the table has 0/);
refuses('a cell that is a number', lines($head, $columns, {row => [1, 2, 3]}, {end => {rows => 1}}), qr/neither a text nor null/);
refuses('an unknown line', lines($head, {table => []}, $end), qr/line 2: "table" is no part of a report/);
refuses('an empty object', lines($head, {}, $end), qr/line 2 is empty/);
refuses('what is no JSON', lines($head, 'row'), qr/line 2 is not a JSON object/);
refuses('what is no UTF-8', lines($head) . "{\"row\":[\"\xff\"]}\n", qr/line 2 is not valid UTF-8/);
refuses('a chart of another kind', lines($head, {chart => {kind => 'pie', title => 'P', x => [], series => []}}, $end), qr/chart "P" needs a kind/);
refuses('a table that is too wide', lines($head, {columns => [map { {title => $_} } 1 .. 61]}), qr/a PDF has room for 60 columns, the report has 61/);
refuses('an unknown option', lines($head, $end), qr/unknown option "--pages"/, '--pages', '3');
refuses('a limit that is none', lines($head, $end), qr/--memory wants a number above 0/, '--memory', 'much');
refuses('more memory than it may have', report([(['a', 'b', 'c' x 5000]) x 20000]), qr/./, '--memory', '90');

done_testing();
