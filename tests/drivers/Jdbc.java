// What applications do with PostgreSQL's JDBC driver, through the proxy that libpq's environment variables point at.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.Timer;
import java.util.TimerTask;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.ds.PGSimpleDataSource;

public class Jdbc {
    interface Part {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        run("basics", Jdbc::basics);
        run("prepared", Jdbc::prepared);
        run("shapes", Jdbc::shapes);
        run("transactions", Jdbc::transactions);
        run("autosave", Jdbc::autosave);
        run("cursors", Jdbc::cursors);
        run("batches", Jdbc::batches);
        run("parameters", Jdbc::parameters);
        run("copies", Jdbc::copies);
        run("types", Jdbc::types);
        run("metadata", Jdbc::metadata);
        run("listen", Jdbc::listen);
        run("cancels", Jdbc::cancels);
        run("threads", Jdbc::threads);
        run("modes", Jdbc::modes);
        System.out.println("done");
    }

    static void run(String name, Part part) throws Exception {
        part.run();
        System.out.println("ok " + name);
    }

    static Connection connect(String... options) throws SQLException {
        var environment = System.getenv();
        var properties = new Properties();
        properties.setProperty("user", environment.get("PGUSER"));
        properties.setProperty("password", environment.get("PGPASSWORD"));
        if (environment.containsKey("PGSSLMODE")) {
            properties.setProperty("sslmode", environment.get("PGSSLMODE"));
            properties.setProperty("sslrootcert", environment.get("PGSSLROOTCERT"));
        }
        for (var i = 0; i < options.length; i += 2) properties.setProperty(options[i], options[i + 1]);
        var place = environment.get("PGHOST") + ":" + environment.get("PGPORT") + "/" + environment.get("PGDATABASE");
        return DriverManager.getConnection("jdbc:postgresql://" + place, properties);
    }

    static void execute(Connection c, String sql) throws SQLException {
        try (var s = c.createStatement()) {
            s.execute(sql);
        }
    }

    static String value(Connection c, String sql, Object... parameters) throws SQLException {
        try (var s = c.prepareStatement(sql)) {
            for (var i = 0; i < parameters.length; i++) s.setObject(i + 1, parameters[i]);
            try (var rows = s.executeQuery()) {
                check(rows.next(), sql);
                return rows.getString(1);
            }
        }
    }

    static void check(boolean condition, Object what) {
        if (!condition) throw new AssertionError(String.valueOf(what));
    }

    static void equal(Object found, Object wanted) {
        check(found.equals(wanted), found + " instead of " + wanted);
    }

    static SQLException expect(String state, Part part) throws Exception {
        try {
            part.run();
        } catch (SQLException failure) {
            check(state.equals(failure.getSQLState()), failure.getSQLState() + " instead of " + state + ": " + failure);
            return failure;
        }
        throw new AssertionError("no " + state);
    }

    static void basics() throws Exception {
        try (var c = connect(); var s = c.createStatement()) {
            s.execute("create table items (id serial primary key, name text, n int)");
            equal(s.executeUpdate("insert into items (name, n) values ('a', 1), ('b', 2)"), 2);
            s.executeUpdate("insert into items (name, n) values ('c', 3)", Statement.RETURN_GENERATED_KEYS);
            try (var keys = s.getGeneratedKeys()) {
                check(keys.next() && keys.getInt("id") == 3, "generated key");
            }
            // Several statements: the driver splits them and sends them before one Sync.
            check(s.execute("select 1; insert into items (n) values (4); select 'last'"), "first");
            check(!s.getMoreResults() && s.getUpdateCount() == 1 && s.getMoreResults(), "second and third");
            try (var rows = s.getResultSet()) {
                check(rows.next() && rows.getString(1).equals("last"), "last");
            }
            s.execute("");
            s.execute("do $$ begin raise warning 'hear me'; end $$");
            equal(s.getWarnings().getMessage(), "hear me");
            expect("22012", () -> s.executeQuery("select 1/0"));
            expect("42P01", () -> s.executeQuery("select * from no_such_table"));
            expect("23505", () -> s.executeUpdate("insert into items (id) values (1)"));
            equal(value(c, "select ?::int + 1", 41), "42");
            check(c.isValid(5), "valid");
        }
    }

    static void prepared() throws Exception {
        // Named on the server from the fifth use on by default, at once with -1, never with 0. Binary results with the names.
        for (var threshold : new String[] {"5", "1", "-1", "0"}) {
            try (var c = connect("prepareThreshold", threshold); var d = connect("prepareThreshold", threshold);
                    var s = c.prepareStatement("select 'c', ?::int"); var t = d.prepareStatement("select 'd', ?::int * 2")) {
                for (var i = 0; i < 20; i++) {
                    s.setInt(1, i);
                    t.setInt(1, i);
                    try (var rows = s.executeQuery(); var others = t.executeQuery()) {
                        check(rows.next() && rows.getInt(2) == i, i);
                        check(others.next() && others.getInt(2) == 2 * i, i);
                    }
                }
                s.setString(1, "no number");
                expect("22P02", s::executeQuery);
                s.setInt(1, 7);
                try (var rows = s.executeQuery()) {
                    check(rows.next() && rows.getInt(2) == 7, "after an error");
                }
            }
        }
        // A cache of two: the driver closes statements as others come.
        try (var c = connect("prepareThreshold", "1", "preparedStatementCacheQueries", "2")) {
            for (var i = 0; i < 40; i++) equal(value(c, "select " + i % 5 + " + ?::int", i), String.valueOf(i % 5 + i));
        }
    }

    static void shapes() throws Exception {
        // "cached plan must not change result type": outside of a transaction the driver prepares again by itself.
        try (var c = connect("prepareThreshold", "1", "options", "-c hakem.consistency=global"); var d = connect()) {
            execute(d, "create table shape (a int)");
            execute(d, "insert into shape values (1)");
            try (var s = c.prepareStatement("select * from shape")) {
                for (var i = 0; i < 3; i++) s.executeQuery().close();
                execute(d, "alter table shape add column b int default 2");
                try (var rows = s.executeQuery()) {
                    check(rows.next() && rows.getInt("b") == 2, "the new column");
                }
            }
            // Another search_path, another table of the same name.
            execute(c, "create schema other");
            execute(c, "create table other.shape (t text)");
            execute(c, "insert into other.shape values ('other')");
            equal(value(c, "select * from shape"), "1");
            equal(value(c, "select * from shape"), "1");
            c.setSchema("other");
            equal(value(c, "select * from shape"), "other");
            c.setSchema("public");
            equal(value(c, "select * from shape"), "1");
            execute(c, "deallocate all");
            equal(value(c, "select * from shape"), "1");
            execute(c, "discard all");
            equal(value(c, "select * from shape"), "1");
        }
    }

    static void transactions() throws Exception {
        try (var c = connect(); var d = connect()) {
            c.setAutoCommit(false);
            execute(c, "insert into items (name, n) values ('t', 1000)");
            Savepoint savepoint = c.setSavepoint("inner_one");
            expect("22012", () -> execute(c, "select 1/0"));
            expect("25P02", () -> execute(c, "select 1"));
            c.rollback(savepoint);
            execute(c, "insert into items (name, n) values ('t', 1001)");
            c.releaseSavepoint(c.setSavepoint());
            c.commit();
            equal(value(d, "/* hakem: primary */ select count(*) from items where n >= 1000"), "2");
            execute(c, "insert into items (name, n) values ('t', 2000)");
            c.rollback();
            equal(value(c, "select count(*) from items where n = 2000"), "0");
            c.commit();
            c.commit();
            for (var level : List.of(Connection.TRANSACTION_REPEATABLE_READ, Connection.TRANSACTION_SERIALIZABLE, Connection.TRANSACTION_READ_COMMITTED)) {
                c.setTransactionIsolation(level);
                equal(c.getTransactionIsolation(), level);
                var shown = level == Connection.TRANSACTION_SERIALIZABLE ? "serializable" : level == Connection.TRANSACTION_REPEATABLE_READ ? "repeatable read" : "read committed";
                equal(value(c, "show transaction_isolation"), shown);
                c.commit();
                equal(value(d, "show transaction_isolation"), "read committed");
            }
            // Read-only: in its BEGIN, by default.
            c.setReadOnly(true);
            expect("25006", () -> execute(c, "insert into items (n) values (1)"));
            c.rollback();
            equal(value(c, "select count(*) from items where n = 2000"), "0");
            c.rollback();
            c.setReadOnly(false);
            execute(c, "insert into items (n) values (1)");
            c.commit();
            // Back to autocommit commits.
            execute(c, "insert into items (name, n) values ('t', 3000)");
            c.setAutoCommit(true);
            equal(value(d, "/* hakem: primary */ select count(*) from items where n = 3000"), "1");
        }
        // As a setting of the session, outside of transactions too.
        try (var c = connect("readOnlyMode", "always"); var d = connect()) {
            c.setReadOnly(true);
            expect("25006", () -> execute(c, "insert into items (n) values (1)"));
            execute(d, "insert into items (n) values (1)");
            c.setReadOnly(false);
            execute(c, "insert into items (n) values (1)");
        }
    }

    static void autosave() throws Exception {
        // A savepoint before every statement; a failed one is rolled back to it, unseen.
        for (var mode : List.of("always", "conservative")) {
            try (var c = connect("autosave", mode, "prepareThreshold", "1", "cleanupSavepoints", "true")) {
                c.setAutoCommit(false);
                for (var i = 0; i < 10; i++) {
                    execute(c, "insert into items (name, n) values ('autosave " + mode + "', " + i + ")");
                    if (mode.equals("always")) expect("22012", () -> execute(c, "select 1/0"));
                }
                c.commit();
                equal(value(c, "select count(*) from items where name = ?", "autosave " + mode), "10");
                c.commit();
            }
        }
    }

    static void cursors() throws Exception {
        try (var c = connect("prepareThreshold", "1")) {
            c.setAutoCommit(false);
            for (var round = 0; round < 3; round++) {
                try (var s = c.prepareStatement("select n from generate_series(1, ?) n")) {
                    s.setFetchSize(33);
                    s.setInt(1, 1000);
                    var sum = 0;
                    try (var rows = s.executeQuery()) {
                        while (rows.next()) sum += rows.getInt(1);
                    }
                    equal(sum, 500500);
                }
                if (round == 1) c.commit();
            }
            // Two of them in turns, and a write between.
            try (var s = c.createStatement(); var t = c.createStatement()) {
                s.setFetchSize(5);
                t.setFetchSize(7);
                try (var a = s.executeQuery("select n from generate_series(1, 100) n"); var b = t.executeQuery("select -n from generate_series(1, 100) n")) {
                    for (var i = 1; i <= 100; i++) {
                        check(a.next() && a.getInt(1) == i, i);
                        check(b.next() && b.getInt(1) == -i, i);
                        if (i % 10 == 0) execute(c, "insert into items (name, n) values ('between', " + i + ")");
                    }
                }
            }
            c.commit();
            // A cursor that a function returns.
            execute(c, "create function walk() returns refcursor language plpgsql as $$ declare r refcursor := 'r'; begin open r for select 7; return r; end $$");
            try (CallableStatement call = c.prepareCall("{? = call walk()}")) {
                call.registerOutParameter(1, Types.REF_CURSOR);
                call.execute();
                try (var rows = (ResultSet) call.getObject(1)) {
                    check(rows.next() && rows.getInt(1) == 7, "refcursor");
                }
            }
            c.commit();
            // Scrollable, updatable: by the primary key, which it looks up in the catalog.
            try (var s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE); var rows = s.executeQuery("select id, name, n from items where name = 'a'")) {
                check(rows.next(), "updatable");
                rows.updateInt("n", 77);
                rows.updateRow();
                check(rows.first() && rows.getInt("n") == 77, "updated");
            }
            c.commit();
        }
    }

    static void batches() throws Exception {
        for (var rewrite : List.of("false", "true")) {
            try (var c = connect("reWriteBatchedInserts", rewrite, "prepareThreshold", "1")) {
                for (var commit : new boolean[] {true, false}) {
                    c.setAutoCommit(commit);
                    try (var s = c.prepareStatement("insert into items (name, n) values (?, ?)")) {
                        for (var i = 0; i < 1500; i++) {
                            s.setString(1, "batch " + rewrite + commit);
                            s.setInt(2, i);
                            s.addBatch();
                        }
                        equal(s.executeBatch().length, 1500);
                    }
                    if (!commit) c.commit();
                }
                equal(value(c, "select count(*) from items where name like ?", "batch " + rewrite + "%"), "3000");
                c.rollback();
                // One that fails in the middle.
                try (var s = c.prepareStatement("insert into items (id, name) values (?, 'failing')")) {
                    for (var i = 0; i < 300; i++) {
                        s.setInt(1, i == 150 ? 1 : 1_000_000 + i);
                        s.addBatch();
                    }
                    var failure = expect("23505", s::executeBatch);
                    check(failure instanceof BatchUpdateException, failure);
                    c.rollback();
                }
                equal(value(c, "select count(*) from items where name = 'failing'"), "0");
                c.rollback();
                c.setAutoCommit(true);
                try (var s = c.createStatement()) {
                    for (var i = 0; i < 50; i++) {
                        s.addBatch("insert into items (name, n) values ('mixed', " + i + ")");
                        s.addBatch("update items set n = n + 1 where name = 'mixed'");
                    }
                    s.executeBatch();
                }
                // The driver stops to read after some 64 kB of answers that it expects: many of them with keys.
                try (var s = c.prepareStatement("insert into items (name) values (?)", Statement.RETURN_GENERATED_KEYS)) {
                    for (var i = 0; i < 700; i++) {
                        s.setString(1, "k".repeat(400));
                        s.addBatch();
                    }
                    s.executeBatch();
                    var keys = 0;
                    try (var rows = s.getGeneratedKeys()) {
                        while (rows.next()) keys++;
                    }
                    equal(keys, 700);
                }
            }
        }
    }

    static void parameters() throws Exception {
        // As many as there can be in a Bind.
        var count = 65535;
        var marks = "?,".repeat(count - 1) + "?";
        for (var threshold : List.of("0", "1")) {
            try (var c = connect("prepareThreshold", threshold); var s = c.prepareStatement("select count(*) from unnest(array[" + marks + "]::int[])")) {
                for (var i = 1; i <= count; i++) s.setInt(i, i);
                for (var round = 0; round < 2; round++) {
                    try (var rows = s.executeQuery()) {
                        check(rows.next() && rows.getInt(1) == count, "parameters");
                    }
                }
            }
        }
        try (var c = connect()) {
            var text = "y".repeat(5_000_000);
            equal(value(c, "select ?::text", text), text);
            try (var s = c.createStatement(); var rows = s.executeQuery("select n, repeat('x', 1000) from generate_series(1, 20000) n")) {
                var count2 = 0;
                while (rows.next()) check(rows.getString(2).length() == 1000 && rows.getInt(1) == ++count2, count2);
                equal(count2, 20000);
            }
        }
    }

    static void copies() throws Exception {
        try (var c = connect()) {
            execute(c, "create table copied (n int, s text)");
            var copy = new CopyManager(c.unwrap(org.postgresql.core.BaseConnection.class));
            var lines = new StringBuilder();
            for (var i = 0; i < 20000; i++) lines.append(i).append("\trow ").append(i).append('\n');
            equal(copy.copyIn("copy copied from stdin", new StringReader(lines.toString())), 20000L);
            var out = new ByteArrayOutputStream();
            equal(copy.copyOut("copy (select * from copied order by n) to stdout", out), 20000L);
            equal(out.toString(StandardCharsets.UTF_8), lines.toString());
            expect("22P02", () -> copy.copyIn("copy copied from stdin", new StringReader("no number\tx\n")));
            CopyIn given_up = copy.copyIn("copy copied from stdin");
            given_up.writeToCopy("1\tx\n".getBytes(), 0, 4);
            given_up.cancelCopy();
            equal(value(c, "select count(*) from copied"), "20000");
            c.setAutoCommit(false);
            equal(copy.copyIn("copy copied from stdin", new StringReader("1\tx\n")), 1L);
            c.rollback();
            equal(value(c, "select count(*) from copied"), "20000");
            c.rollback();
            // Large objects: functions of the server, called by the protocol's FunctionCall.
            var objects = c.unwrap(PGConnection.class).getLargeObjectAPI();
            var oid = objects.createLO();
            try (var object = objects.open(oid)) {
                object.write("x".repeat(100_000).getBytes());
                object.seek(99_990);
                equal(new String(object.read(100)), "x".repeat(10));
            }
            objects.unlink(oid);
            c.commit();
        }
    }

    static void types() throws Exception {
        for (var threshold : List.of("0", "-1")) {
            try (var c = connect("prepareThreshold", threshold)) {
                Array array = c.createArrayOf("int4", new Integer[] {1, null, 3});
                try (var s = c.prepareStatement("select ?::int4[], ?::numeric, ?::uuid, ?::timestamptz, ?::bytea, ?::text, ?::bool, ?::float8, ?::jsonb")) {
                    var uuid = java.util.UUID.randomUUID();
                    var moment = java.time.OffsetDateTime.of(2026, 11, 21, 1, 2, 3, 0, java.time.ZoneOffset.UTC);
                    s.setArray(1, array);
                    s.setBigDecimal(2, new java.math.BigDecimal("1.50"));
                    s.setObject(3, uuid);
                    s.setObject(4, moment);
                    s.setBytes(5, new byte[] {0, 1, -1});
                    s.setString(6, "سلام 🂡");
                    s.setBoolean(7, true);
                    s.setDouble(8, 0.1);
                    s.setNull(9, Types.OTHER);
                    for (var round = 0; round < 3; round++) {
                        try (var rows = s.executeQuery()) {
                            check(rows.next(), "a row");
                            check(Arrays.equals((Integer[]) rows.getArray(1).getArray(), new Integer[] {1, null, 3}), "array");
                            equal(rows.getBigDecimal(2), new java.math.BigDecimal("1.50"));
                            equal(rows.getObject(3), uuid);
                            check(rows.getObject(4, java.time.OffsetDateTime.class).isEqual(moment), "moment");
                            check(Arrays.equals(rows.getBytes(5), new byte[] {0, 1, -1}), "bytes");
                            equal(rows.getString(6), "سلام 🂡");
                            check(rows.getBoolean(7) && rows.getDouble(8) == 0.1 && rows.getObject(9) == null, "rest");
                        }
                    }
                }
            }
        }
    }

    static void metadata() throws Exception {
        try (var c = connect()) {
            var data = c.getMetaData();
            try (var rows = data.getColumns(null, "public", "items", null)) {
                var names = new ArrayList<String>();
                while (rows.next()) names.add(rows.getString("COLUMN_NAME"));
                equal(names, List.of("id", "name", "n"));
            }
            try (var rows = data.getPrimaryKeys(null, "public", "items")) {
                check(rows.next() && rows.getString("COLUMN_NAME").equals("id"), "primary key");
            }
            try (var s = c.prepareStatement("select id, name from items where n = ?")) {
                equal(s.getMetaData().getColumnName(2), "name");
                equal(s.getMetaData().isAutoIncrement(1), true);
                equal(s.getParameterMetaData().getParameterTypeName(1), "int4");
            }
            check(data.getDatabaseMajorVersion() >= 13, "version");
        }
    }

    static void listen() throws Exception {
        try (var listener = connect(); var speaker = connect()) {
            execute(listener, "listen events");
            execute(speaker, "notify events, 'one'");
            value(speaker, "select pg_notify('events', ?)", "two");
            var heard = new ArrayList<String>();
            while (heard.size() < 2) {
                PGNotification[] notifications = listener.unwrap(PGConnection.class).getNotifications(10_000);
                check(notifications != null && notifications.length > 0, "heard " + heard);
                for (var notification : notifications) heard.add(notification.getName() + " " + notification.getParameter());
            }
            equal(heard, List.of("events one", "events two"));
            execute(listener, "unlisten *");
        }
    }

    static void cancels() throws Exception {
        try (var c = connect(); var s = c.createStatement()) {
            s.setQueryTimeout(1);
            cancelled(() -> s.execute("select pg_sleep(5)"));
            s.setQueryTimeout(0);
            equal(value(c, "select 'alive'"), "alive");
            cancelled(() -> {
                new Timer(true).schedule(new TimerTask() {
                    public void run() {
                        try {
                            s.cancel();
                        } catch (SQLException failure) {
                            throw new AssertionError(failure);
                        }
                    }
                }, 200);
                s.execute("select pg_sleep(3)");
            });
            equal(value(c, "select 'alive'"), "alive");
        }
    }

    // A cancel that comes before its query hits nothing, which is nobody's fault.
    static void cancelled(Part sleep) throws Exception {
        for (var turn = 0; turn < 20; turn++) {
            try {
                sleep.run();
            } catch (SQLException failure) {
                equal(failure.getSQLState(), "57014");
                return;
            }
        }
        throw new AssertionError("never cancelled");
    }

    static void threads() throws Exception {
        var source = new PGSimpleDataSource();
        var environment = System.getenv();
        source.setServerNames(new String[] {environment.get("PGHOST")});
        source.setPortNumbers(new int[] {Integer.parseInt(environment.get("PGPORT"))});
        source.setDatabaseName(environment.get("PGDATABASE"));
        source.setPrepareThreshold(2);
        if (environment.containsKey("PGSSLMODE")) {
            source.setSslMode(environment.get("PGSSLMODE"));
            source.setSslRootCert(environment.get("PGSSLROOTCERT"));
        }
        ExecutorService executor = Executors.newFixedThreadPool(8);
        var results = new ArrayList<Future<Integer>>();
        for (var i = 0; i < 8; i++) {
            var name = "thread " + i;
            results.add(executor.submit(() -> {
                try (var c = source.getConnection(environment.get("PGUSER"), environment.get("PGPASSWORD"))) {
                    for (var n = 0; n < 30; n++) {
                        c.setAutoCommit(n % 3 != 0);
                        try (var s = c.prepareStatement("insert into items (name, n) values (?, ?)")) {
                            s.setString(1, name);
                            s.setInt(2, n);
                            s.executeUpdate();
                        }
                        equal(value(c, "select count(*) from items where name = ?", name), String.valueOf(n + 1));
                        if (!c.getAutoCommit()) c.commit();
                    }
                }
                return 0;
            }));
        }
        for (var result : results) result.get();
        executor.shutdown();
    }

    static void modes() throws Exception {
        // How it may send queries; simple is what its users are told to take behind a pooler.
        for (var mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            try (var c = connect("preferQueryMode", mode, "prepareThreshold", "1")) {
                for (var i = 0; i < 5; i++) equal(value(c, "select ?::int + 1", i), String.valueOf(i + 1));
                c.setAutoCommit(false);
                execute(c, "insert into items (name) values ('mode')");
                c.rollback();
            }
        }
        try (var c = connect("ApplicationName", "cards", "options", "-c work_mem=5MB", "currentSchema", "pg_catalog,public"); var d = connect("assumeMinServerVersion", "9.0")) {
            for (var i = 0; i < 3; i++) {
                equal(value(c, "show work_mem"), "5MB");
                equal(value(c, "show application_name"), "cards");
                equal(value(c, "show search_path"), "pg_catalog,public");
                check(!value(d, "show work_mem").equals("5MB"), "leaked");
            }
            c.setClientInfo("ApplicationName", "changed");
            equal(value(c, "show application_name"), "changed");
        }
        // One that wants a primary asks who it has got.
        try (var c = connect("targetServerType", "primary")) {
            equal(value(c, "select pg_is_in_recovery()"), "f");
        }
    }
}
