# The manual runs: each page's SQL blocks, in order, in a database of the page's own with the extension in it.
#
#   ```sql              must succeed
#   ```sql error=SN010  must fail with this SQLSTATE (at its last statement)
#   ```sql no-run       is only read (it needs what a test can't have, or changes the cluster)
#   ```psql             a session: statements behind the prompt, and the output, which must be exactly this
#   <!-- sql ... -->    what the page needs and a reader doesn't: runs like ```sql
#
# MEND=1 writes the sessions' real output into the pages: for who changes a page, and reads the difference afterwards.
use lib 'test/perl';
use Sentinai::Test;

my $t = Sentinai::Test->new(extension => 0);
my @pages = (glob('docs/*.md'), 'README.md');

cmp_ok(scalar @pages, '>', 5, 'there is a manual');
for my $page (@pages)
{
	my @blocks = blocks_of($page);

	is_deeply([ lost_links($page) ], [], "$page: its links lead somewhere");
	next if !@blocks;
	subtest $page => sub {
		my $database = 'page_' . lc($page =~ s/\W/_/gr);
		$t->sql("CREATE DATABASE $database; ALTER DATABASE $database SET search_path = sentinai, public; "
			  . "\\c $database\nCREATE EXTENSION sentinai");
		run_block($_, $database) for @blocks;
		# Otherwise its maintenance worker would run to the end of the test.
		$t->sql("DROP DATABASE $database WITH (FORCE)");
	};
}

# The page of errors has each SQLSTATE with its name, as the sources have them.
is_deeply(
	[ Sentinai::Test::slurp('docs/errors.md') =~ /^\| `(SN\w{3})` \| `(\w+)`/mg ],
	[ Sentinai::Test::slurp('include/sentinai_errcodes.h') =~ /X\(\w+, "(SN\w{3})", "(\w+)"\)/g ],
	'docs/errors.md: all of include/sentinai_errcodes.h');
done_testing();

# Pages and files of the repository that it points to, and that are not there
sub lost_links
{
	my ($page) = @_;
	my $folder = $page =~ m{^(.*/)} ? $1 : '';

	return grep { !-e "$folder$_" } grep { !/^\w+:/ } Sentinai::Test::slurp($page) =~ /\]\(([^)#\s]+)[^)]*\)/g;
}

sub run_block
{
	my ($block, $database) = @_;
	my ($status, $out, $err);

	if ($block->{language} eq 'psql')
	{
		my $real = session_of($t, $block, $database);
		mend($block, $real) if $ENV{MEND};
		is($real, as_on_a_page($block->{text}), "$block->{place}: answers as it says");
	}
	elsif ($block->{error})
	{
		($status, $out, $err) = $t->sql_status($block->{text}, database => $database);
		like($err, qr/ERROR:  $block->{error}:/, "$block->{place}: fails with $block->{error}");
	}
	else
	{
		($status, $out, $err) = $t->sql_status($block->{text}, database => $database);
		is($status, 0, "$block->{place}: runs") or diag("$block->{text}\n$err");
	}
	return;
}

# What a psql that stays would have shown: prompts and statements as in the block, each with its answer.
sub session_of
{
	my ($t, $block, $database) = @_;
	my @statements;

	for my $line (split /^/, $block->{text})
	{
		if ($line =~ /^\w+=[#>] (.*)/s)
		{
			push @statements, { shown => $line, sql => $1 };
		}
		elsif ($line =~ /^\w+[-('"\$][#>] (.*)/s)
		{
			$statements[-1]{shown} .= $line;
			$statements[-1]{sql} .= $1;
		}
	}
	my $script = join '', "\\set QUIET off\n", map { "$_->{sql}\\warn -- that was it\n" } @statements;
	# One stream, unbuffered on psql's side at each answer, so that errors stand where they came.
	my ($status, $out) = Sentinai::Test::capture({ input => $script },
		'sh', '-c', 'exec "$@" 2>&1', 'sh', $t->psql_command(database => $database));
	my @answers = split /^-- that was it\n/m, $out, -1;
	return as_on_a_page(join '', map { $statements[$_]{shown} . ($answers[$_] // "(nothing)\n") } 0 .. $#statements);
}

sub mend
{
	my ($block, $real) = @_;
	my $page = $block->{place} =~ s/:\d+$//r;
	my $text = Sentinai::Test::slurp($page);

	$text =~ s/\Q$block->{text}\E/$real/;
	open my $handle, '>', $page or die "$page: $!\n";
	print {$handle} $text;
	close $handle or die "$page: $!\n";
	$block->{text} = $real;
	return;
}

# No blanks at a line's end, one empty line at most, none at the end.
sub as_on_a_page
{
	my ($text) = @_;

	$text =~ s/[ \t]+$//mg;
	$text =~ s/\n{2,}/\n\n/g;
	$text =~ s/\n+\z/\n/;
	return $text;
}

sub blocks_of
{
	my ($page) = @_;
	my (@blocks, $block);
	my $number = 0;

	for my $line (split /^/, Sentinai::Test::slurp($page))
	{
		$number++;
		if ($block && $line =~ ($block->{hidden} ? qr/^-->/ : qr/^\s*```\s*$/))
		{
			push @blocks, $block if $block->{language} =~ /^(?:sql|psql)$/ && !$block->{skip};
			undef $block;
		}
		elsif ($block)
		{
			$block->{text} .= $line =~ s/^\Q$block->{indent}\E//r;
		}
		elsif ($line =~ /^(\s*)```(\w*)(.*)/ || $line =~ /^()<!-- (sql)()$/)
		{
			$block = {
				place => "$page:$number", language => $2, text => '', indent => $1,
			};
			$block->{hidden} = $line =~ /^<!--/;
			$block->{skip} = $line =~ /\bno-run\b/;
			($block->{error}) = $line =~ /\berror=(\w{5})\b/;
		}
	}
	die "$page: the block of $block->{place} has no end\n" if $block;
	return @blocks;
}
