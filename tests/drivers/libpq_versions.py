"""libpq 18 asks for protocol 3.0, 3.2 and the latest: which version it is given, and whether its cancel key works."""

import ctypes
import pathlib
import threading

import psycopg
import psycopg_binary


def main():
    libraries = pathlib.Path(psycopg_binary.__file__).parent.parent / "psycopg_binary.libs"
    (path,) = libraries.glob("libpq-*.so*")
    # The library that psycopg has loaded already.
    libpq = ctypes.CDLL(str(path))
    libpq.PQfullProtocolVersion.argtypes = [ctypes.c_void_p]
    for version in ("3.0", "3.2", "latest"):
        with psycopg.connect(f"max_protocol_version={version}", autocommit=True) as connection:
            protocol = libpq.PQfullProtocolVersion(connection.pgconn.pgconn_ptr)
            print(version, protocol, cancelled(connection))


def cancelled(connection):
    timer = threading.Timer(0.3, connection.cancel_safe)
    timer.start()
    try:
        connection.execute("select pg_sleep(600)")
    except psycopg.errors.QueryCanceled:
        return "cancelled"
    finally:
        timer.join()
    return "not cancelled"


if __name__ == "__main__":
    main()
