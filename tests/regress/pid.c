/*
 * For isolationtester, which asks the server whether the sessions of these processes wait for each other. It takes a session's
 * process from the cancel key, where a pooler has a number of its own: here the session is asked. Loaded ahead of libpq.
 */
#include <libpq-fe.h>
#include <stdlib.h>

int
PQbackendPID(const PGconn *conn)
{
	PGresult   *result = PQexec((PGconn *) conn, "SELECT pg_catalog.pg_backend_pid()");
	int			pid = PQntuples(result) == 1 ? atoi(PQgetvalue(result, 0, 0)) : 0;

	PQclear(result);
	return pid;
}
