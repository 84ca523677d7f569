# The launcher and its workers: where they run, that they come back, and that they are in nobody's way.
use Sentinai::Test;

my $t = Sentinai::Test->new(extension => 0, settings => 'max_worker_processes = 16');
my $running = q{SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), '') FROM pg_stat_activity
				 WHERE backend_type = 'sentinai maintenance'};

sub worker_pid
{
	my ($database) = @_;
	return $t->sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'sentinai maintenance' AND datname = '$database'");
}

# A worker other than this one is at work in the database.
sub wait_for_new_worker
{
	my ($database, $old) = @_;
	$t->wait_for_sql(
		qq{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sentinai maintenance' AND datname = '$database'
			AND pid <> $old}, '1', name => "a worker is back in $database");
	return;
}

# ---------------------------------------------------------------- where they run

$t->sql("CREATE DATABASE $_") for qw(first second quiet bare);
$t->sql('CREATE EXTENSION sentinai', database => $_) for qw(first second quiet);
is($t->sql($running), '', 'no worker before anything is activated');
$t->sql('SELECT sentinai.activate()', database => 'first');
$t->sql(q{SELECT sentinai.tenant_add('T')}, database => 'second');
$t->wait_for_sql($running, 'first second', name => 'a worker in each active database');
is($t->sql('SELECT count(*) FROM sentinai.activation', database => 'quiet'), '0', 'the others are left alone');

$t->cluster('restart');
$t->wait_for_sql($running, 'first second', name => 'after a restart: in the active databases and in no other');

# ---------------------------------------------------------------- in nobody's way

for my $round (1 .. 3)
{
	is($t->sql('ALTER DATABASE first RENAME TO renamed') // '', '', "RENAME of an active database, round $round");
	$t->wait_for_sql($running, 'renamed second', name => "its worker is back under the new name, round $round");
	$t->sql('ALTER DATABASE renamed RENAME TO first');
	$t->sql("CREATE DATABASE copy$round TEMPLATE first");
	is($t->sql('SELECT sentinai.is_active()', database => "copy$round"), 'f', "a copy by TEMPLATE is quiet, round $round");
	$t->wait_for_sql($running, 'first second', name => "the template has its worker again, round $round");
	$t->sql('SELECT sentinai.activate()', database => "copy$round");
	$t->wait_for_sql($running, "copy$round first second", name => "a copy can be activated, round $round");
	$t->sql("DROP DATABASE copy$round");
	is($t->sql("SELECT count(*) FROM pg_database WHERE datname = 'copy$round'"), '0', "DROP of an active database, round $round");
}
my $space = $t->dir . '/cluster/space';
mkdir $space;
chmod 0777, $space;
chown scalar getpwnam('postgres'), -1, $space if $> == 0;
$t->sql("CREATE TABLESPACE space LOCATION '$space'");
$t->sql('ALTER DATABASE first SET TABLESPACE space');
is($t->sql(q{SELECT spcname FROM pg_tablespace s JOIN pg_database d ON d.dattablespace = s.oid WHERE datname = 'first'}),
	'space', 'SET TABLESPACE of an active database');
$t->wait_for_sql($running, 'first second', name => 'its worker is back');
$t->sql('ALTER DATABASE first SET TABLESPACE pg_default');
$t->sql('DROP TABLESPACE space');
$t->wait_for_sql($running, 'first second', name => 'and back again');

# Who may not do it stops nobody; and where the command fails, the worker comes back.
$t->sql('CREATE ROLE regress_nobody LOGIN CREATEDB');
my $pid = worker_pid('first');
my ($state, $text) = $t->sql_error('DROP DATABASE first', user => 'regress_nobody', database => 'postgres');
is($state, '42501', 'somebody else may not drop it');
is(worker_pid('first'), $pid, 'and does not stop its worker');
my $session = $t->session(database => 'first');
$session->sql('SELECT 1');
($state) = $t->sql_error('DROP DATABASE first');
is($state, '55006', 'another session is in the way of DROP DATABASE, as ever');
$session->close;
wait_for_new_worker('first', $pid);

# ---------------------------------------------------------------- they come back, or go

$pid = worker_pid('first');
$t->sql("SELECT pg_terminate_backend($pid)");
wait_for_new_worker('first', $pid);

my $launcher = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'sentinai launcher'};
my $old = $t->sql($launcher);
$t->sql("SELECT pg_terminate_backend($old)");
$t->wait_for_sql("SELECT count(*) FROM ($launcher) l WHERE pid <> $old", '1', name => 'a launcher that was ended is back');
$pid = worker_pid('second');
$t->sql("SELECT pg_terminate_backend($pid)");
wait_for_new_worker('second', $pid);
is($t->sql($running), 'first second', 'and there is one worker in each database');

# The worker comes round while the extension is being dropped, and goes when it is.
my $log_read = -s "$t->{cluster_dir}/log";
my $dropping = $t->session(database => 'second');
$dropping->sql('BEGIN; DROP EXTENSION sentinai CASCADE');
my $round = q{SELECT state_change > '%s' FROM pg_stat_activity WHERE backend_type = 'sentinai maintenance' AND datname = 'second'};
$t->wait_for_sql(sprintf($round, $t->sql('SELECT clock_timestamp()')), 't', name => 'a round while the extension is being dropped');
$dropping->sql('COMMIT');
$dropping->close;
$t->wait_for_sql($running, 'first', name => 'a worker goes with its extension');
unlike(substr(Sentinai::Test::slurp("$t->{cluster_dir}/log"), $log_read), qr/"sentinai maintenance" .* exited with exit code 1/, 'and without an error');
$t->sql('CREATE EXTENSION sentinai; SELECT sentinai.activate()', database => 'second');
$t->wait_for_sql($running, 'first second', name => 'and comes with a new one');

$t->sql(q{ALTER SYSTEM SET sentinai.databases = 'second, quiet'});
$t->sql('SELECT pg_reload_conf()');
$t->wait_for_sql($running, 'second', name => 'sentinai.databases says where');
is($t->sql(q{SELECT p->>'name' FROM jsonb_array_elements(sentinai.health()->'problems') p}, database => 'first'),
	'maintenance_missing', 'health says that it is missing');
$t->sql('SELECT sentinai.activate()', database => 'first');
$t->sql('ALTER SYSTEM RESET sentinai.databases');
$t->sql('SELECT pg_reload_conf()');
$t->wait_for_sql($running, 'first second', name => 'without it everywhere');

# ---------------------------------------------------------------- a broken duty

# The others go on, health names it, and it heals by itself.
my $runs = q{SELECT last_run_at FROM sentinai.maintenance_status() WHERE duty = 'outbox_rotation'};
$t->sql('ALTER FUNCTION sentinai.outbox_idle_end() RENAME TO broken', database => 'first');
$t->wait_for_sql(q{SELECT message FROM sentinai.maintenance_status() WHERE duty = 'outbox_idle' AND failing_since IS NOT NULL},
	'function sentinai.outbox_idle_end() does not exist', database => 'first', name => 'a duty that fails is named');
my $before = $t->sql($runs, database => 'first');
$t->wait_for_sql(qq{SELECT ($runs) > '$before'}, 't', database => 'first', name => 'it does not starve the others');
$t->sql('ALTER FUNCTION sentinai.broken() RENAME TO outbox_idle_end', database => 'first');
$t->wait_for_sql('SELECT count(failing_since) FROM sentinai.maintenance_status()', '0', database => 'first', name => 'and heals');

# ---------------------------------------------------------------- a standby, and no preload

my $standby = $t->copy_cluster('standby');
$standby->cluster('stop');
open my $signal, '>', "$standby->{cluster_dir}/data/standby.signal" or die $!;
close $signal;
chown scalar getpwnam('postgres'), -1, "$standby->{cluster_dir}/data/standby.signal" if $> == 0;
$standby->cluster('start');
is($standby->sql('SELECT pg_is_in_recovery()'), 't', 'a standby');
is($standby->sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'sentinai%'}), '0', 'has no process of ours');
is($standby->sql('SELECT sentinai.is_active()', database => 'first'), 't', 'it knows what is active');
($state, $text) = $standby->sql_error('SELECT sentinai.activate()', database => 'first');
is($state, '25006', 'and activates nothing');
like($text, qr/HINT:  Connect to the primary server\./, 'the hint says where to go');
$standby->sql('SELECT pg_promote()');
$standby->wait_for_sql($running, 'first second', name => 'promoted, it has its workers');

$standby->sql(q{ALTER SYSTEM SET shared_preload_libraries = 'auto_explain'});
$standby->cluster('restart');
($state, $text) = $standby->sql_error('CREATE EXTENSION sentinai', database => 'bare');
is($state, 'SN015', 'preloaded without ours there is no extension');
like($text, qr/HINT:  Add the line shared_preload_libraries = 'sentinai' to postgresql\.conf and restart the server\./,
	'and the hint is the line to add');

done_testing();
