#!/usr/bin/env python3
"""A consumer as engineers write it by hand: a batch of records, one transaction, then the commit to Kafka.

Each event becomes a row of peer.event and a row of peer.processed (tables of peers.pl); what is there already is left
alone, so that a batch that comes again changes nothing. It knows no retry, no dead letters and no order per key: a record
that can't be parsed ends it.

Usage: consumer.py BOOTSTRAP TOPIC GROUP DATABASE_URL BATCH insert|copy

  insert   executemany() of INSERT ... ON CONFLICT DO NOTHING
  copy     COPY into a temporary table, then INSERT ... SELECT ... ON CONFLICT DO NOTHING

It runs until SIGTERM. Several processes of one group share the partitions.
"""

import json
import signal
import sys

import psycopg
from confluent_kafka import Consumer, KafkaException

COLUMNS = "tenant_id, event_id, event_type, exception_id, happened_at, payload"

INSERT_EVENT = f"INSERT INTO peer.event ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
INSERT_PROCESSED = "INSERT INTO peer.processed (tenant_id, event_id) VALUES (%s, %s) ON CONFLICT DO NOTHING"

CREATE_INCOMING = "CREATE TEMPORARY TABLE incoming (LIKE peer.event) ON COMMIT DELETE ROWS"
COPY_INCOMING = f"COPY incoming ({COLUMNS}) FROM STDIN"
SELECT_EVENT = f"INSERT INTO peer.event ({COLUMNS}) SELECT {COLUMNS} FROM incoming ON CONFLICT DO NOTHING"
SELECT_PROCESSED = (
    "INSERT INTO peer.processed (tenant_id, event_id) SELECT tenant_id, event_id FROM incoming ON CONFLICT DO NOTHING"
)

running = True


def stop(signum, frame):
    global running
    running = False


def row_of(message):
    if message.error():
        raise KafkaException(message.error())
    event = json.loads(message.value())
    return (
        event["tenant_id"],
        event["event_id"],
        event["event_type"],
        event["exception_id"],
        event["timestamp"],
        json.dumps(event["payload"]),
    )


def write_insert(cursor, rows):
    cursor.executemany(INSERT_EVENT, rows)
    cursor.executemany(INSERT_PROCESSED, [row[:2] for row in rows])


def write_copy(cursor, rows):
    with cursor.copy(COPY_INCOMING) as copy:
        for row in rows:
            copy.write_row(row)
    cursor.execute(SELECT_EVENT)
    cursor.execute(SELECT_PROCESSED)


def main():
    bootstrap, topic, group, url, batch, method = sys.argv[1:]
    write = {"insert": write_insert, "copy": write_copy}[method]
    signal.signal(signal.SIGTERM, stop)
    connection = psycopg.connect(url)
    if method == "copy":
        connection.execute(CREATE_INCOMING)
        connection.commit()
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    while running:
        messages = consumer.consume(int(batch), timeout=0.1)
        if not messages:
            continue
        with connection.transaction(), connection.cursor() as cursor:
            write(cursor, [row_of(message) for message in messages])
        consumer.commit(asynchronous=False)
    consumer.close()
    connection.close()


if __name__ == "__main__":
    main()
