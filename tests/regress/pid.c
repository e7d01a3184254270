/*
 * For isolationtester, which asks the server whether the sessions of these processes wait for each other. It takes a session's
 * process from the cancel key, where a pooler has a number of its own: here the session is asked. Loaded ahead of libpq.
 */
#include <stdlib.h>

/* From libpq-fe.h, which need not be installed. */
typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
extern PGresult *PQexec(PGconn *conn, const char *query);
extern int	PQntuples(const PGresult *result);
extern char *PQgetvalue(const PGresult *result, int row, int column);
extern void PQclear(PGresult *result);

int
PQbackendPID(const PGconn *conn)
{
	PGresult   *result = PQexec((PGconn *) conn, "SELECT pg_catalog.pg_backend_pid()");
	int			pid = PQntuples(result) == 1 ? atoi(PQgetvalue(result, 0, 0)) : 0;

	PQclear(result);
	return pid;
}
