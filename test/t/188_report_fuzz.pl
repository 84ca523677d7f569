# Whatever is in a cell, a title or a column's name: readers that are not ours (Text::CSV_XS, JSON::PP, poppler) find in the
# report what the database has. Seeded; FUZZ_SEED=n begins elsewhere, FUZZ_ROUNDS=n goes on for longer.
use Sentinai::Test;
use utf8;
use Encode qw(decode encode);
use JSON::PP;
use Math::BigFloat;
use Text::CSV_XS;

my $seed = $ENV{FUZZ_SEED} // 1;
my $rounds = $ENV{FUZZ_ROUNDS} // 2;
my $n_rows = 250;
my $t = Sentinai::Test->new(settings => 'sentinai.maintenance_interval = 50ms; sentinai.report_workers = 4');
my $json = JSON::PP->new->allow_nonref->allow_bignum;

# ---------------------------------------------------------------- texts

# What one reader or another takes for something else
my @pieces = (
	"\r", "\n", "\r\n", "\t", '"', '""', "'", ',', ';', '\\', '\\"', '\\n', '\\u0000', '=', '+', '-', '@', '|', '%', '=1+1', '=cmd|\' /C calc\'!A0',
	'+1', '-1', '-1.5e3', '1,5', '@SUM(A1)', ' =1', ' ', '', "\x{feff}", "\x{2028}", "\x{2029}", "\x{85}", "\x{a0}", "\x{200b}", "\x{ad}", "\x{ff1d}1", "\x{ff0b}1",
	"\x{202e}", "\x{2067}", "\x{200f}", "\x{301}" x 3, "e\x{301}", "\x{1f468}\x{200d}\x{1f469}\x{200d}\x{1f467}", "\x{1f1e9}\x{1f1ea}", "\x{10ffff}", "\x{fffd}", "\x{e000}", "\x{d7ff}", "\x{fffe}", "\x{ffff}", "\x{fdd0}", "\x{1fffe}",
	'שלום', 'مرحبا', '世界', 'क्षि', 'ไทย', '<b>&amp;</b>', 'NULL', 'null', 'true', 'NaN', '--', '/*', '$$', '%s%n', '${x}', '#REF!', "\x{1b}[31m", "\x{8}", "\x{1}", "\x{7f}", "\x{9f}");

sub pick { return $_[ rand @_ ] }

sub any_character
{
	my $c = pick(rand(0x80), rand(0x800), 0x2000 + rand(0x70), rand(0x10000), rand(0x110000));
	$c = int $c;
	return $c == 0 || ($c >= 0xd800 && $c <= 0xdfff) ? 'x' : do { no warnings 'utf8'; chr $c };
}

sub any_text
{
	my $kind = rand;
	return undef if $kind < 0.08;
	return '' if $kind < 0.12;
	return pick(@pieces) if $kind < 0.35;
	return join '', map { pick(@pieces) } 1 .. 1 + rand 6 if $kind < 0.65;
	return join '', map { any_character() } 1 .. 1 + rand 30 if $kind < 0.97;
	return (pick('x', ' ', "\"", "\n", "世", "\x{301}", "=")) x (1000 + rand 30000);
}

# Of one script, without blanks: what a reader of PDFs can give back letter by letter
sub plain_word
{
	my ($from, $n) = @{ pick([ 0x61, 26 ], [ 0x41, 26 ], [ 0x3b1, 17 ], [ 0x430, 32 ], [ 0x4e00, 500 ], [ 0x5d0, 27 ], [ 0x30, 10 ], [ 0xe0, 23 ]) };
	return join '', map { chr($from + int rand $n) } 1 .. 1 + rand 12;
}

sub any_json
{
	my ($depth) = @_;
	my $kind = rand;
	# The server's json has no U+0000, and keeps the last of two keys alike.
	my $text = sub { my $said = any_text() // ''; return substr $said, 0, 500 };
	return $text->() if $kind < 0.4 || $depth > 3;
	return [ map { any_json($depth + 1) } 1 .. rand 4 ] if $kind < 0.6;
	return { map { $text->() => any_json($depth + 1) } 1 .. rand 4 } if $kind < 0.85;
	return pick(JSON::PP::true, JSON::PP::false, undef) if $kind < 0.95;
	return Math::BigFloat->new(pick('0', '-1.50', '12345678901234567890.123456789', '1e-7'));
}

sub to_sql { my ($text) = @_; return defined $text ? "convert_from('\\x" . unpack('H*', encode('utf8', $text, Encode::LEAVE_SRC)) . "', 'UTF8')" : 'NULL' }
sub identifier { return '"' . $_[0] =~ s/"/""/gr . '"' }

# Names that differ, of at most 63 bytes
sub any_names
{
	my ($n) = @_;
	my %seen;
	my @names;
	while (@names < $n)
	{
		my $name = (any_text() // '') =~ s/\0//gr;
		$name = substr $name, 0, 20;
		chop $name while length(encode('utf8', $name, Encode::LEAVE_SRC)) > 63;
		push @names, $name if $name ne '' && !$seen{$name}++;
	}
	return @names;
}

# A formula in the eyes of Excel, LibreOffice or Google Sheets; a plain number is none.
sub may_compute { return $_[0] =~ /^[=+\-\@\t\r\n|%\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]/ && $_[0] !~ /^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)\z/ }

# ---------------------------------------------------------------- a round

sub content
{
	my ($id, $name) = @_;
	my $file = $t->dir . "/$name";
	open my $out, '>:raw', $file or die $!;
	print {$out} pack 'H*', $t->sql("SELECT encode(content, 'hex') FROM sentinai.report_download('$id')");
	close $out;
	return $file;
}

# Rows as the database has them: texts by their bytes
sub database_rows
{
	return map {
		my @cells = split /\|/, $_, -1;
		[ map { $_ eq '-' ? undef : decode('utf8', pack 'H*', $_) } @cells ]
	} split /\n/, $t->sql(q{SELECT concat_ws('|', encode(convert_to(id::text, 'UTF8'), 'hex'), coalesce(encode(convert_to(a, 'UTF8'), 'hex'), '-'),
		coalesce(encode(convert_to(b, 'UTF8'), 'hex'), '-'), encode(convert_to(word, 'UTF8'), 'hex'), encode(convert_to(n::text, 'UTF8'), 'hex'),
		coalesce(encode(convert_to(j::text, 'UTF8'), 'hex'), '-')) FROM app.cell ORDER BY id});
}

sub differs
{
	my ($what, $got, $wanted) = @_;
	fail("$what is not what the database has");
	diag('got    ', defined $got ? unpack 'H*', encode('utf8', $got, Encode::LEAVE_SRC) : 'NULL');
	diag('wanted ', defined $wanted ? unpack 'H*', encode('utf8', $wanted, Encode::LEAVE_SRC) : 'NULL');
	return 0;
}

sub check_csv
{
	my ($file, $names, $rows) = @_;
	my $csv = Text::CSV_XS->new({ binary => 1, auto_diag => 2, strict => 1, blank_is_undef => 1, eol => "\r\n" });
	my $n = 0;

	open my $in, '<:raw:utf8', $file or die $!;
	no warnings 'utf8';
	my $head = $csv->getline($in);
	for my $i (0 .. $#$names)
	{
		return differs("name $i", $head->[$i], $names->[$i]) if $head->[$i] ne (may_compute($names->[$i]) ? "'" : '') . $names->[$i];
	}
	while (my $line = $csv->getline($in))
	{
		my $row = $rows->[ $n++ ] // return fail('no more rows than the database has');
		for my $i (0 .. $#$row)
		{
			my ($got, $wanted) = ($line->[$i], $row->[$i]);
			$wanted = "'$wanted" if defined $wanted && may_compute($wanted);
			return differs("CSV row $row->[0] cell $i", $got, $wanted) if defined $got != defined $wanted || (defined $got && $got ne $wanted);
		}
	}
	return is($n, scalar @$rows, 'CSV: every cell is what the database has, and none can compute');
}

sub check_rows
{
	my ($format, $names, $rows, @got) = @_;

	is(scalar @got, scalar @$rows, "$format: as many rows");
	for my $n (0 .. $#$rows)
	{
		my @cells = @{ $got[$n] }{@$names};
		my ($number, $object) = @cells[ 4, 5 ];
		for my $i (0 .. 3)
		{
			my ($is, $wanted) = ($cells[$i], $rows->[$n][$i]);
			return differs("$format row $n cell $i", $is, $wanted) if defined $is != defined $wanted || (defined $is && "$is" ne $wanted);
		}
		return differs("$format row $n number", "$number", $rows->[$n][4]) if Math::BigFloat->new($number)->bcmp($rows->[$n][4]);
		my $wanted = defined $rows->[$n][5] ? $json->decode($rows->[$n][5]) : undef;
		is_deeply($object, $wanted, "$format row $n object") || return 0 if $json->canonical->encode([$object]) ne $json->canonical->encode([$wanted]);
		is_deeply([ sort keys %{ $got[$n] } ], [ sort @$names ], "$format: names") || return 0 if $n == 0;
	}
	return pass("$format: every cell is what the database has");
}

sub check_pdf
{
	my ($file, $title, $rows) = @_;
	my ($status, $info, $err) = Sentinai::Test::capture({}, 'pdfinfo', '-enc', 'UTF-8', $file);
	is("$status $err", '0 ', 'PDF: poppler has nothing against it');
	my ($told) = decode('utf8', $info) =~ /^Title: +(.*)/m;
	is($told =~ s/\s+//gr, $title =~ s/\s+//gr, 'PDF: its title') if $title =~ /^[\p{Latin}\p{Greek}\p{Cyrillic}\p{Han}0-9 ]+\z/;
	my ($text_status, $text) = Sentinai::Test::capture({}, 'pdftotext', '-layout', $file, '-');
	$text = decode('utf8', $text);
	$text =~ s/page \d+ of \d+//g;
	$text =~ s/\s+//g;
	# Longer ones may be broken over lines, with words of other cells between.
	my @lost = grep { my $word = $_->[3] =~ s/^(\p{Han}).*/$1/r; length $word <= 3 && index($text, $word) < 0 } @$rows;
	return is(join(' ', map { $_->[3] } @lost), '', 'PDF: the words that can be read are there');
}

for my $round (1 .. $rounds)
{
	srand($seed + $round - 1);
	no warnings 'utf8';
	my @names = any_names(6);
	my $title = join ' ', map { plain_word() } 1 .. 3;
	$title = substr(($round % 2 ? $title : (any_text() // 'x') =~ s/[[:cntrl:]\x{2028}\x{2029}]//gr . 'x'), 0, 300);
	my @values = map {
		my $n = $_;
		my $j = rand() < 0.2 ? undef : $json->encode(any_json(0));
		sprintf '(%d, %s, %s, %s, %s, %s)', $n, to_sql(any_text()), to_sql(any_text()), to_sql(plain_word()), pick('0', '-1.50', '1e300', '12345678901234567890.000000000000001', '3'),
		  defined $j ? to_sql($j) . '::jsonb' : 'NULL'
	} 1 .. $n_rows;
	my $list = join ', ', map { 't.' . pick_column($_) . ' AS ' . identifier($names[$_]) } 0 .. 5;
	my $script = "SET client_encoding = 'UTF8';\n"
	  . ($round == 1 ? "SELECT sentinai.tenant_add('TENANT_001'), sentinai.rate_limit_set('TENANT_001', 'report_generations', 100000);\nCREATE SCHEMA app;\n" : "DROP TABLE app.cell;\n")
	  . "CREATE TABLE app.cell (id integer PRIMARY KEY, a text, b text, word text, n numeric, j jsonb);\n"
	  . "INSERT INTO app.cell VALUES\n" . join(",\n", @values) . ";\n"
	  . 'SELECT sentinai.report_type_add(\'cells\', ' . to_sql("SELECT t.id AS key, $list FROM app.cell t WHERE t.id > coalesce(\$6[1]::integer, 0) ORDER BY t.id LIMIT \$7") . ", key_columns => 1);\n";
	$t->sql(encode('utf8', $script, Encode::LEAVE_SRC));
	my %id = map {
		$_ => $t->sql(encode('utf8', "SELECT id FROM sentinai.report_request('TENANT_001', 'cells', " . to_sql($title) . ", '$_', '{\"from_date\": \"2025-01-01\", \"to_date\": \"2025-01-31\"}')"))
	} qw(csv json jsonl pdf);
	for my $format (sort keys %id)
	{
		$t->wait_for_sql("SELECT status, row_count, error_message FROM sentinai.report_status('$id{$format}') WHERE status NOT IN ('pending', 'generating')",
			"completed|$n_rows|", name => "round $round, seed " . ($seed + $round - 1) . ": $format is made");
	}
	my @rows = database_rows();
	check_csv(content($id{csv}, 'cells.csv'), \@names, \@rows);
	my $whole = $json->decode(decode('utf8', Sentinai::Test::slurp(content($id{json}, 'cells.json'))));
	is($whole->{report}{title}, $title, 'JSON: its title');
	check_rows('JSON', \@names, \@rows, @{ $whole->{rows} });
	my @lines = split /\n/, decode('utf8', Sentinai::Test::slurp(content($id{jsonl}, 'cells.jsonl')));
	is(scalar @lines, $n_rows + 2, 'JSON Lines: a line each');
	check_rows('JSON Lines', \@names, \@rows, map { $json->decode($_) } @lines[ 1 .. $#lines - 1 ]);
	check_pdf(content($id{pdf}, 'cells.pdf'), $title, \@rows);
}

done_testing();

sub pick_column { return (qw(id a b word n j))[ $_[0] ] }
