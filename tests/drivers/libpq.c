/* What drivers do that are built on libpq, through the proxy that its environment variables point at: pipelines above all. */

#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXTOID 25
#define INT4OID 23

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "libpq.c:%d: %s\n", __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

static PGconn *open_connection(const char *options)
{
    PGconn *c = PQconnectdb(options);
    if (PQstatus(c) != CONNECTION_OK) {
        fprintf(stderr, "%s", PQerrorMessage(c));
        exit(1);
    }
    return c;
}

/* A result of this kind is next; with this SQLSTATE or value where one is given. */
static void take(PGconn *c, ExecStatusType status, const char *wanted, int line)
{
    PGresult *r = PQgetResult(c);
    const char *found = status == PGRES_FATAL_ERROR ? PQresultErrorField(r, PG_DIAG_SQLSTATE) : PQntuples(r) > 0 ? PQgetvalue(r, 0, 0) : "";
    if (PQresultStatus(r) != status || (wanted && (!found || strcmp(found, wanted) != 0))) {
        fprintf(stderr, "libpq.c:%d: %s (%s) instead of %s (%s): %s\n", line, PQresStatus(PQresultStatus(r)), found ? found : "", PQresStatus(status), wanted ? wanted : "", PQerrorMessage(c));
        exit(1);
    }
    PQclear(r);
}

#define TAKE(c, status, wanted) take(c, status, wanted, __LINE__)
#define NOTHING_MORE(c) CHECK(PQgetResult(c) == NULL)

static void query(PGconn *c, const char *sql, const char *wanted, int line)
{
    PGresult *r = PQexec(c, sql);
    ExecStatusType status = PQresultStatus(r);
    if ((status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) || (wanted && strcmp(PQgetvalue(r, 0, 0), wanted) != 0)) {
        fprintf(stderr, "libpq.c:%d: %s: %s %s\n", line, sql, PQntuples(r) > 0 ? PQgetvalue(r, 0, 0) : "", PQerrorMessage(c));
        exit(1);
    }
    PQclear(r);
}

#define QUERY(c, sql, wanted) query(c, sql, wanted, __LINE__)

static void fails(PGconn *c, const char *sql, const char *state, int line)
{
    PGresult *r = PQexec(c, sql);
    const char *found = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    if (!found || strcmp(found, state) != 0) {
        fprintf(stderr, "libpq.c:%d: %s: %s instead of %s\n", line, sql, found ? found : "success", state);
        exit(1);
    }
    PQclear(r);
}

#define FAILS(c, sql, state) fails(c, sql, state, __LINE__)

static void send_number(PGconn *c, const char *sql, int n)
{
    char text[16];
    const char *values[] = {text};
    snprintf(text, sizeof text, "%d", n);
    CHECK(PQsendQueryParams(c, sql, 1, NULL, values, NULL, NULL, 0));
}

static void pipelines(void)
{
    PGconn *c = open_connection("");
    char wanted[16];
    CHECK(PQenterPipelineMode(c) == 1);
    /* One Sync for all. */
    for (int n = 0; n < 100; n++) send_number(c, n % 5 == 3 ? "insert into items (n) values ($1) returning n" : "select $1::int", n);
    CHECK(PQpipelineSync(c));
    for (int n = 0; n < 100; n++) {
        snprintf(wanted, sizeof wanted, "%d", n);
        TAKE(c, PGRES_TUPLES_OK, wanted);
        NOTHING_MORE(c);
    }
    TAKE(c, PGRES_PIPELINE_SYNC, NULL);
    /* A Sync for each. */
    for (int n = 0; n < 100; n++) {
        send_number(c, n % 5 == 3 ? "insert into items (n) values ($1) returning n" : "select 100 / ($1::int - 50)", n);
        CHECK(PQpipelineSync(c));
    }
    for (int n = 0; n < 100; n++) {
        if (n == 50) TAKE(c, PGRES_FATAL_ERROR, "22012");
        else TAKE(c, PGRES_TUPLES_OK, NULL);
        NOTHING_MORE(c);
        TAKE(c, PGRES_PIPELINE_SYNC, NULL);
    }
    /* An error: what follows it up to Sync is skipped. */
    send_number(c, "insert into items (n) values ($1)", -1);
    send_number(c, "select 1 / $1::int", 0);
    send_number(c, "insert into items (n) values ($1)", -2);
    CHECK(PQpipelineSync(c));
    send_number(c, "select count(*) from items where n < $1", 0);
    CHECK(PQpipelineSync(c));
    TAKE(c, PGRES_COMMAND_OK, NULL);
    NOTHING_MORE(c);
    TAKE(c, PGRES_FATAL_ERROR, "22012");
    NOTHING_MORE(c);
    CHECK(PQpipelineStatus(c) == PQ_PIPELINE_ABORTED);
    TAKE(c, PGRES_PIPELINE_ABORTED, NULL);
    NOTHING_MORE(c);
    TAKE(c, PGRES_PIPELINE_SYNC, NULL);
    TAKE(c, PGRES_TUPLES_OK, "0");
    NOTHING_MORE(c);
    TAKE(c, PGRES_PIPELINE_SYNC, NULL);
    /* A transaction in a pipeline, with statements prepared and described on the way. */
    CHECK(PQsendQueryParams(c, "begin", 0, NULL, NULL, NULL, NULL, 0));
    CHECK(PQsendPrepare(c, "mine", "insert into items (n) values ($1) returning n", 0, NULL));
    CHECK(PQsendDescribePrepared(c, "mine"));
    const char *values[] = {"7"};
    CHECK(PQsendQueryPrepared(c, "mine", 1, values, NULL, NULL, 0));
    CHECK(PQsendQueryParams(c, "commit", 0, NULL, NULL, NULL, NULL, 0));
    CHECK(PQpipelineSync(c));
    TAKE(c, PGRES_COMMAND_OK, NULL);
    NOTHING_MORE(c);
    TAKE(c, PGRES_COMMAND_OK, NULL);
    NOTHING_MORE(c);
    PGresult *described = PQgetResult(c);
    CHECK(PQnparams(described) == 1 && PQparamtype(described, 0) == INT4OID && PQnfields(described) == 1);
    PQclear(described);
    NOTHING_MORE(c);
    TAKE(c, PGRES_TUPLES_OK, "7");
    NOTHING_MORE(c);
    TAKE(c, PGRES_COMMAND_OK, NULL);
    NOTHING_MORE(c);
    TAKE(c, PGRES_PIPELINE_SYNC, NULL);
    CHECK(PQtransactionStatus(c) == PQTRANS_IDLE);
    /* Row by row. */
    send_number(c, "select n from generate_series(1, $1) n", 1000);
    send_number(c, "select $1::int", 5);
    CHECK(PQpipelineSync(c));
    CHECK(PQsetSingleRowMode(c));
    for (int n = 1; n <= 1000; n++) {
        snprintf(wanted, sizeof wanted, "%d", n);
        TAKE(c, PGRES_SINGLE_TUPLE, wanted);
    }
    TAKE(c, PGRES_TUPLES_OK, NULL);
    NOTHING_MORE(c);
    TAKE(c, PGRES_TUPLES_OK, "5");
    NOTHING_MORE(c);
    TAKE(c, PGRES_PIPELINE_SYNC, NULL);
    CHECK(PQexitPipelineMode(c));
    QUERY(c, "select 'alive'", "alive");
    PQfinish(c);
}

/* Flush without Sync: the answer comes, and the transaction stays open up to the Sync. */
static void flushes(void)
{
    PGconn *c = open_connection("");
    PGconn *other = open_connection("options='-c hakem.consistency=global'");
    CHECK(PQenterPipelineMode(c) == 1);
    for (int round = 0; round < 20; round++) {
        send_number(c, "insert into items (n) values ($1) returning n", 5000 + round);
        CHECK(PQsendFlushRequest(c));
        CHECK(PQflush(c) == 0);
        TAKE(c, PGRES_TUPLES_OK, NULL);
        NOTHING_MORE(c);
        send_number(c, "select count(*) from items where n = $1", 5000 + round);
        CHECK(PQsendFlushRequest(c));
        CHECK(PQflush(c) == 0);
        TAKE(c, PGRES_TUPLES_OK, "1");
        NOTHING_MORE(c);
        if (round == 10) QUERY(other, "select count(*) from items where n = 5010", "0");
        if (round % 4 == 1) {
            send_number(c, "select 1 / $1::int", 0);
            CHECK(PQpipelineSync(c));
            TAKE(c, PGRES_FATAL_ERROR, "22012");
            NOTHING_MORE(c);
        } else {
            CHECK(PQpipelineSync(c));
        }
        TAKE(c, PGRES_PIPELINE_SYNC, NULL);
    }
    CHECK(PQexitPipelineMode(c));
    QUERY(other, "select count(*) from items where n >= 5000", "15");
    PQfinish(c);
    PQfinish(other);
}

/* More is written than anybody's buffers hold, while as much comes back: who does not read while he writes is stuck. */
static void duplex(void)
{
    PGconn *c = open_connection("");
    char *text = malloc(100001);
    memset(text, 'x', 100000);
    text[100000] = 0;
    const char *values[] = {text};
    int sent = 0, received = 0, nulls = 0;
    CHECK(PQsetnonblocking(c, 1) == 0);
    CHECK(PQenterPipelineMode(c) == 1);
    while (received < 300) {
        if (sent < 300) {
            CHECK(PQsendQueryParams(c, "select $1::text", 1, NULL, values, NULL, NULL, 0));
            CHECK(PQpipelineSync(c));
            sent++;
        }
        int unsent = PQflush(c);
        CHECK(unsent >= 0);
        struct pollfd fd = {PQsocket(c), POLLIN | (unsent ? POLLOUT : 0), 0};
        CHECK(poll(&fd, 1, sent < 300 ? 0 : 30000) >= (sent < 300 ? 0 : 1));
        if (!(fd.revents & POLLIN)) continue;
        CHECK(PQconsumeInput(c));
        while (received < sent && !PQisBusy(c)) {
            PGresult *r = PQgetResult(c);
            if (!r) {
                CHECK(++nulls < 1000000);
                continue;
            }
            nulls = 0;
            if (PQresultStatus(r) == PGRES_PIPELINE_SYNC) received++;
            else CHECK(PQresultStatus(r) == PGRES_TUPLES_OK && PQgetlength(r, 0, 0) == 100000);
            PQclear(r);
        }
    }
    free(text);
    PQfinish(c);
}

static void functions(void)
{
    /* The protocol's FunctionCall, which libpq's large objects are made of. */
    PGconn *c = open_connection("");
    int number = -7, result = 0, length = 0;
    PQArgBlock argument = {sizeof number, 1, {0}};
    argument.u.integer = number;
    /* int4abs; 20 times, between queries. */
    for (int n = 0; n < 20; n++) {
        PGresult *r = PQfn(c, 1397, &result, &length, 1, &argument, 1);
        CHECK(PQresultStatus(r) == PGRES_COMMAND_OK && result == 7 && length == 4);
        PQclear(r);
        QUERY(c, "select 'between'", "between");
    }
    /* int4div by nothing: an error, and the connection lives. */
    PQArgBlock arguments[] = {{4, 1, {.integer = 1}}, {4, 1, {.integer = 0}}};
    PGresult *r = PQfn(c, 154, &result, &length, 1, arguments, 2);
    CHECK(PQresultStatus(r) == PGRES_FATAL_ERROR && strcmp(PQresultErrorField(r, PG_DIAG_SQLSTATE), "22012") == 0);
    PQclear(r);
    QUERY(c, "begin", NULL);
    char data[70000], back[70000];
    memset(data, 'l', sizeof data);
    Oid oid = lo_create(c, 0);
    CHECK(oid != 0);
    int fd = lo_open(c, oid, 0x60000);
    CHECK(lo_write(c, fd, data, sizeof data) == sizeof data);
    CHECK(lo_lseek64(c, fd, 0, SEEK_SET) == 0);
    CHECK(lo_read(c, fd, back, sizeof back) == sizeof back && memcmp(data, back, sizeof back) == 0);
    CHECK(lo_close(c, fd) == 0 && lo_unlink(c, oid) == 1);
    QUERY(c, "commit", NULL);
    PQfinish(c);
}

static void statements(void)
{
    PGconn *c[4];
    char sql[100], wanted[100];
    const char *values[] = {"x"};
    for (int i = 0; i < 4; i++) {
        c[i] = open_connection("");
        snprintf(sql, sizeof sql, "select 'client %d ' || $1::text", i);
        PGresult *r = PQprepare(c[i], "same", sql, 0, NULL);
        CHECK(PQresultStatus(r) == PGRES_COMMAND_OK);
        PQclear(r);
    }
    for (int turn = 0; turn < 5; turn++) {
        for (int i = 0; i < 4; i++) {
            PGresult *r = PQexecPrepared(c[i], "same", 1, values, NULL, NULL, 0);
            snprintf(wanted, sizeof wanted, "client %d x", i);
            CHECK(PQresultStatus(r) == PGRES_TUPLES_OK && strcmp(PQgetvalue(r, 0, 0), wanted) == 0);
            PQclear(r);
        }
    }
    /* The unnamed one is there until the next, also behind a Sync. */
    PGresult *r = PQprepare(c[0], "", "select 'unnamed ' || $1::text", 0, NULL);
    PQclear(r);
    for (int i = 0; i < 3; i++) {
        r = PQexecPrepared(c[0], "", 1, values, NULL, NULL, 0);
        CHECK(PQresultStatus(r) == PGRES_TUPLES_OK && strcmp(PQgetvalue(r, 0, 0), "unnamed x") == 0);
        PQclear(r);
        r = PQexecPrepared(c[1], "same", 1, values, NULL, NULL, 0);
        PQclear(r);
    }
    r = PQprepare(c[0], "same", "select 1", 0, NULL);
    CHECK(strcmp(PQresultErrorField(r, PG_DIAG_SQLSTATE), "42P05") == 0);
    PQclear(r);
    r = PQdescribePrepared(c[0], "same");
    CHECK(PQnparams(r) == 1 && PQparamtype(r, 0) == TEXTOID);
    PQclear(r);
    r = PQexecPrepared(c[0], "no such", 0, NULL, NULL, NULL, 0);
    CHECK(strcmp(PQresultErrorField(r, PG_DIAG_SQLSTATE), "26000") == 0);
    PQclear(r);
    /* A portal that DECLARE makes is described by its name. */
    QUERY(c[0], "begin; declare walk cursor for select 1 as one, 2 as two", NULL);
    r = PQdescribePortal(c[0], "walk");
    CHECK(PQnfields(r) == 2 && strcmp(PQfname(r, 1), "two") == 0);
    PQclear(r);
    QUERY(c[0], "commit", NULL);
    for (int i = 0; i < 4; i++) PQfinish(c[i]);
}

static void cancels(void)
{
    PGconn *c = open_connection("");
    char error[256];
    for (int round = 0; round < 3; round++) {
        CHECK(PQsendQuery(c, "select pg_sleep(600)"));
        /* A cancel that comes before the query does nothing: it is repeated until the query has ended. */
        PGcancel *cancel = PQgetCancel(c);
        struct pollfd fd = {PQsocket(c), POLLIN, 0};
        do CHECK(PQcancel(cancel, error, sizeof error));
        while (poll(&fd, 1, 1000) == 0);
        PQfreeCancel(cancel);
        TAKE(c, PGRES_FATAL_ERROR, "57014");
        NOTHING_MORE(c);
    }
    /* A pipeline, too: the query that runs. */
    CHECK(PQenterPipelineMode(c));
    send_number(c, "select pg_sleep($1)", 600);
    CHECK(PQpipelineSync(c));
    send_number(c, "select $1::int", 5);
    CHECK(PQpipelineSync(c));
    PGcancel *cancel = PQgetCancel(c);
    struct pollfd fd = {PQsocket(c), POLLIN, 0};
    do CHECK(PQcancel(cancel, error, sizeof error));
    while (poll(&fd, 1, 1000) == 0);
    PQfreeCancel(cancel);
    TAKE(c, PGRES_FATAL_ERROR, "57014");
    NOTHING_MORE(c);
    TAKE(c, PGRES_PIPELINE_SYNC, NULL);
    TAKE(c, PGRES_TUPLES_OK, "5");
    PQfinish(c);
}

static void sessions(void)
{
    PGconn *c = open_connection("application_name=cards options='-c work_mem=5MB -c search_path=pg_catalog,\\\\ public'");
    PGconn *other = open_connection("");
    QUERY(c, "set timezone to 'Asia/Tehran'", NULL);
    CHECK(strcmp(PQparameterStatus(c, "TimeZone"), "Asia/Tehran") == 0);
    for (int round = 0; round < 3; round++) {
        QUERY(c, "show work_mem", "5MB");
        QUERY(c, "show search_path", "pg_catalog, public");
        QUERY(c, "show timezone", "Asia/Tehran");
        QUERY(other, "show application_name", "");
    }
    CHECK(PQsetClientEncoding(c, "LATIN1") == 0 && strcmp(PQparameterStatus(c, "client_encoding"), "LATIN1") == 0);
    QUERY(c, "select chr(233)", "\xe9");
    QUERY(other, "select chr(233)", "\xc3\xa9");
    PQreset(c);
    CHECK(PQstatus(c) == CONNECTION_OK);
    QUERY(c, "select chr(233)", "\xc3\xa9");
    QUERY(c, "show work_mem", "5MB");
    FAILS(c, "select 1/0", "22012");
    FAILS(c, "select 1; select 1/0; select 2", "22012");
    PGresult *r = PQexec(c, "");
    CHECK(PQresultStatus(r) == PGRES_EMPTY_QUERY);
    PQclear(r);
    PGconn *pinged = open_connection("target_session_attrs=read-write");
    QUERY(pinged, "select pg_is_in_recovery()", "f");
    PQfinish(pinged);
    pinged = open_connection("target_session_attrs=primary");
    PQfinish(pinged);
    CHECK(PQping("") == PQPING_OK);
    PQfinish(c);
    PQfinish(other);
}

static void listening(void)
{
    PGconn *c = open_connection(""), *other = open_connection("");
    QUERY(c, "listen events", NULL);
    QUERY(other, "notify events, 'one'", NULL);
    QUERY(other, "select pg_notify('events', 'two')", "");
    for (int heard = 0; heard < 2;) {
        PGnotify *notification = PQnotifies(c);
        if (!notification) {
            struct pollfd fd = {PQsocket(c), POLLIN, 0};
            CHECK(poll(&fd, 1, 30000) == 1 && PQconsumeInput(c));
            continue;
        }
        CHECK(strcmp(notification->extra, heard == 0 ? "one" : "two") == 0);
        PQfreemem(notification);
        heard++;
    }
    QUERY(c, "unlisten *", NULL);
    PQfinish(c);
    PQfinish(other);
}

/* The answer to COPY, and what the command says of it: a count, or an SQLSTATE. */
static void copied(PGconn *c, const char *sql, const char *rows, int times, const char *why_not, const char *count, const char *state)
{
    PGresult *r = PQexec(c, sql);
    CHECK(PQresultStatus(r) == PGRES_COPY_IN);
    PQclear(r);
    /* A server that has had enough says so while more is on its way: that is no error here. */
    for (int i = 0; i < times; i++)
        CHECK(PQputCopyData(c, rows, (int)strlen(rows)) == 1);
    CHECK(PQputCopyEnd(c, why_not) == 1);
    r = PQgetResult(c);
    CHECK(state ? PQresultStatus(r) == PGRES_FATAL_ERROR && strcmp(PQresultErrorField(r, PG_DIAG_SQLSTATE), state) == 0
                : PQresultStatus(r) == PGRES_COMMAND_OK && strcmp(PQcmdTuples(r), count) == 0);
    PQclear(r);
    NOTHING_MORE(c);
}

static void copies(void)
{
    PGconn *c = open_connection("");
    QUERY(c, "create table copied (n int, s text)", NULL);
    copied(c, "copy copied from stdin", "1\tone\n2\ttwo\n", 1, NULL, "2", NULL);
    copied(c, "copy copied from stdin", "3\tthree\n", 20000, NULL, "20000", NULL);
    copied(c, "copy copied from stdin", "4\tfour\n", 100, "thought better of it", NULL, "57014");
    copied(c, "copy copied from stdin", "no number\tx\n", 20000, NULL, NULL, "22P02");
    copied(c, "copy copied from stdin", "", 0, NULL, "0", NULL);
    QUERY(c, "select count(*) from copied", "20002");
    /* By the extended protocol, and of many rows. */
    CHECK(PQsendQueryParams(c, "copy (select n from copied order by n) to stdout", 0, NULL, NULL, NULL, NULL, 0));
    TAKE(c, PGRES_COPY_OUT, NULL);
    int rows = 0, length;
    for (char *row; (length = PQgetCopyData(c, &row, 0)) > 0; rows++)
        PQfreemem(row);
    CHECK(length == -1 && rows == 20002);
    TAKE(c, PGRES_COMMAND_OK, NULL);
    NOTHING_MORE(c);
    /* Left in the middle: what is missing of it is read away, or the connection is closed; nobody else sees any of it. */
    CHECK(PQsendQuery(c, "copy copied to stdout"));
    TAKE(c, PGRES_COPY_OUT, NULL);
    PGconn *other = open_connection("");
    QUERY(other, "select count(*) from copied", "20002");
    PQfinish(c);
    QUERY(other, "select count(*) from copied", "20002");
    /* In a transaction that is taken back. */
    QUERY(other, "begin", NULL);
    copied(other, "copy copied from stdin", "5\tfive\n", 10, NULL, "10", NULL);
    QUERY(other, "savepoint inner_one", NULL);
    copied(other, "copy copied from stdin", "x\n", 1, NULL, NULL, "22P02");
    FAILS(other, "select 1", "25P02");
    QUERY(other, "rollback to savepoint inner_one", NULL);
    QUERY(other, "select count(*) from copied", "20012");
    QUERY(other, "release savepoint inner_one", NULL);
    QUERY(other, "declare rows cursor for select n from copied order by n", NULL);
    for (int i = 1; i <= 2; i++)
        QUERY(other, "fetch 1 from rows", i == 1 ? "1" : "2");
    QUERY(other, "move forward 20000 in rows", NULL);
    QUERY(other, "fetch 1 from rows", "5");
    QUERY(other, "rollback", NULL);
    FAILS(other, "fetch 1 from rows", "34000");
    QUERY(other, "select count(*) from copied", "20002");
    PQfinish(other);
}

int main(void)
{
    PGconn *c = open_connection("");
    QUERY(c, "create table items (id serial primary key, n int)", NULL);
    PQfinish(c);
    pipelines();
    puts("ok pipelines");
    flushes();
    puts("ok flushes");
    duplex();
    puts("ok duplex");
    functions();
    puts("ok functions");
    statements();
    puts("ok statements");
    cancels();
    puts("ok cancels");
    sessions();
    puts("ok sessions");
    listening();
    puts("ok listening");
    copies();
    puts("ok copies");
    puts("done");
    return 0;
}
