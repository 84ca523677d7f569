# The calculator of docs/capacity.md says what events really take: tables, indexes and WAL, for two shapes of events, with
# and without intake. `make bench` compares it with larger runs.
use lib 'test/perl';
use Sentinai::Test;
use Sentinai::Capacity;

my $t = Sentinai::Test->new(settings => 'max_wal_size = 8GB; checkpoint_timeout = 1h; autovacuum = off');
my $n = 20_000;

for my $shape (
	{ payload_bytes => 330, id_bytes => 28, type_bytes => 11, intake => 0, emitted => 0 },
	{ payload_bytes => 1200, id_bytes => 36, type_bytes => 11, intake => 0, emitted => 0 },
	{ payload_bytes => 330, id_bytes => 28, type_bytes => 17, intake => 1, emitted => 1 },
	{ payload_bytes => 1200, id_bytes => 36, type_bytes => 17, intake => 1, emitted => 1 })
{
	my $database = "capacity_$shape->{payload_bytes}_$shape->{intake}";
	my $measured = write_events($shape, $database);
	my $said = calculator($t, %$shape);

	subtest "events with $shape->{payload_bytes} bytes of payload" . ($shape->{intake} ? ', through intake' : '') => sub {
		for my $what (sort keys %$measured)
		{
			for my $column (sort keys %{ $measured->{$what} })
			{
				my ($real, $calculated) = ($measured->{$what}{$column}, $said->{$what}{$column});
				cmp_ok(abs($calculated / $real - 1), '<=', 0.12, sprintf '%s, %s: %.0f measured, %.0f calculated', $what, $column, $real, $calculated);
			}
		}
	};
}
is(calculator_output($t), (Sentinai::Test::slurp('docs/capacity.md') =~ /it answers\n\n```\n(.*?)```/s)[0], 'the page shows what it answers');
done_testing();

# n events of the shape, in calls of 1000, into a database of their own; bytes an event by table
sub write_events
{
	my ($shape, $database) = @_;
	my $worker = $shape->{intake} ? 'intake' : 'shape';
	my $topic = $shape->{intake} ? 'exceptions' : 'shape';
	my $type = $shape->{intake} ? 'ExceptionIngested' : 'ShapeArrived';
	my $note = 'x' x ($shape->{payload_bytes} - 106);
	my $id = sub { "rpad(md5('$_[0]' || i) || md5(i::text), $shape->{id_bytes}, 'z')" };
	my %bytes;

	$t->sql(<<"SQL");
CREATE DATABASE $database;
\\c $database
CREATE EXTENSION sentinai;
SET search_path = sentinai, public;
SELECT tenant_add('TENANT_00' || i) FROM generate_series(1, 8) i;
SELECT rate_limit_type_set('events_ingested', 1000, 60, enabled => false);
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
CREATE FUNCTION app.nothing(e sentinai.event[]) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
SELECT event_type_add('ShapeArrived'), worker_type_add('shape', 'shape');
SELECT handler_add('shape', 'ShapeArrived', 'app.nothing');
CREATE TABLE app.start AS SELECT w.group_id, (assign('$worker', w.group_id, '$topic', 0)).epoch FROM worker_type_effective w WHERE name = '$worker';
ALTER TABLE app.start ADD lsn pg_lsn;
UPDATE app.start SET lsn = pg_current_wal_lsn();
DO \$\$
DECLARE
	start	app.start;
	records	sentinai.record[];
BEGIN
	SELECT * INTO start FROM app.start;
	FOR begun IN 1 .. $n BY 1000 LOOP
		SELECT array_agg(ROW('$topic', 0, i - 1, start.epoch, now(), 'k', NULL, convert_to(format(
			'{"event_id": "%s", "event_type": "$type", "tenant_id": "TENANT_00%s", "exception_id": "%s", "timestamp": "%s", '
			'"payload": {"type": "price_mismatch", "severity": "low", "amount": 1200.50, "source_system": "trading", "note": "$note"}}',
			${\$id->('e')}, 1 + i % 8, ${\$id->('x')}, to_char(timestamp '2025-01-15' + i * interval '1 ms', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')), 'UTF8'))::sentinai.record ORDER BY i)
		  INTO records FROM generate_series(begun, begun + 999) i;
		PERFORM consume('$worker', start.group_id, records);
		COMMIT;
	END LOOP;
END \$\$;
SQL
	for my $row ($t->rows(<<"SQL", database => $database))
SELECT regexp_replace(c.relname, '_(p\\d+|g\\d+|0)\$', ''), pg_table_size(c.oid)::float / $n, pg_indexes_size(c.oid)::float / $n
  FROM pg_class c WHERE c.relnamespace = 'sentinai'::regnamespace AND c.relkind = 'r' AND pg_table_size(c.oid) > 50 * $n
SQL
	{
		$bytes{ $row->[0] } = { row_bytes => $row->[1], index_bytes => $row->[2] };
	}
	delete $bytes{outbox}{index_bytes};    # of what is gone a moment later
	$bytes{all}{wal_bytes} = $t->sql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), lsn) / $n FROM app.start", database => $database);
	$t->sql("DROP DATABASE $database WITH (FORCE)");
	return \%bytes;
}
