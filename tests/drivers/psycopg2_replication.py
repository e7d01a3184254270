"""psycopg2's own replication protocol, logical and physical."""

import select
import time

import psycopg2
import psycopg2.extras


def main():
    with psycopg2.connect("") as setup, setup.cursor() as cursor:
        cursor.execute("create table replicated (n int primary key)")
    logical()
    physical()
    print("done")


def logical():
    connection = psycopg2.connect("", connection_factory=psycopg2.extras.LogicalReplicationConnection)
    cursor = connection.cursor()
    cursor.create_replication_slot("psycopg2", output_plugin="test_decoding")
    cursor.start_replication("psycopg2", decode=True, options={"include-xids": 0})
    with psycopg2.connect("") as writer, writer.cursor() as other:
        other.execute("insert into replicated select generate_series(1, 3)")
    wanted = ["BEGIN"] + [f"table public.replicated: INSERT: n[integer]:{n}" for n in (1, 2, 3)] + ["COMMIT"]
    found = []
    deadline = time.monotonic() + 60
    while found != wanted:
        assert time.monotonic() < deadline, found
        message = cursor.read_message()
        if message is None:
            cursor.send_feedback()
            select.select([connection], [], [], 0.1)
        else:
            found.append(message.payload)
            message.cursor.send_feedback(flush_lsn=message.data_start)
    connection.close()


def physical():
    connection = psycopg2.connect("", connection_factory=psycopg2.extras.PhysicalReplicationConnection)
    cursor = connection.cursor()
    cursor.execute("IDENTIFY_SYSTEM")
    _, timeline, position, _ = cursor.fetchone()
    cursor.start_replication(start_lsn=position, timeline=timeline)
    with psycopg2.connect("") as writer, writer.cursor() as other:
        other.execute("insert into replicated values (4)")
    deadline = time.monotonic() + 60
    while (message := cursor.read_message()) is None:
        assert time.monotonic() < deadline
        select.select([connection], [], [], 0.1)
    assert message.data_size > 0
    connection.close()


main()
