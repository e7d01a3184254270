// What applications do with pgx and its pool, through the proxy that libpq's environment variables point at.
//
// pgx prepares every query under a name (lrupsc_1_0, ...) by default, and its batches are pipelines.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgconn/stmtcache"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var ctx = context.Background()

func main() {
	pool := connect("pool_max_conns=8")
	exec(pool, "create table items (id serial primary key, name text, n int)")
	parts := []struct {
		name string
		run  func(*pgxpool.Pool)
	}{{"basics", basics}, {"modes", modes}, {"batches", batches}, {"transactions", transactions}, {"cursors", cursors}, {"copies", copies},
		{"types", types}, {"listen", listen}, {"cancels", cancels}, {"atOnce", atOnce}, {"options", options}}
	for _, part := range parts {
		part.run(pool)
		fmt.Println("ok", part.name)
	}
	pool.Close()
	fmt.Println("done")
}

func connect(options string) *pgxpool.Pool {
	pool, err := pgxpool.Connect(ctx, options)
	check(err)
	return pool
}

func basics(pool *pgxpool.Pool) {
	equal(value(pool, "select ($1::int + 1)::text", 41), "42")
	tag, err := pool.Exec(ctx, "insert into items (name, n) values ($1, $2), ($3, $4)", "a", 1, "b", 2)
	check(err)
	equal(tag.String(), "INSERT 0 2")
	// Without arguments and by Exec: the simple protocol.
	exec(pool, "select 1; insert into items (n) values (3); select 'two'")
	fails("22012", failure(pool, "select 1/0"))
	fails("22012", failure(pool, "select 1/$1::int", 0))
	fails("42P01", failure(pool, "select * from no_such_table where n = $1", 1))
	fails("23505", failure(pool, "insert into items (id) values ($1)", 1))
	rows, err := pool.Query(ctx, "select n, repeat('x', 1000) from generate_series(1, $1) n", 20000)
	check(err)
	seen := 0
	for rows.Next() {
		var n int
		var s string
		check(rows.Scan(&n, &s))
		seen++
		assert(n == seen && len(s) == 1000, "large result")
	}
	check(rows.Err())
	equal(seen, 20000)
	rows, err = pool.Query(ctx, "select n from generate_series(1, 100000) n")
	check(err)
	assert(rows.Next(), "a row")
	rows.Close()
	huge := strings.Repeat("y", 5000000)
	equal(value(pool, "select $1::text", huge), huge)
}

// modes: statements prepared and cached, described only, and the simple protocol, which its users are told to take behind a pooler.
func modes(pool *pgxpool.Pool) {
	for mode, change := range []func(*pgx.ConnConfig){
		func(c *pgx.ConnConfig) {
			c.BuildStatementCache = func(conn *pgconn.PgConn) stmtcache.Cache { return stmtcache.New(conn, stmtcache.ModePrepare, 3) }
		},
		func(c *pgx.ConnConfig) {
			c.BuildStatementCache = func(conn *pgconn.PgConn) stmtcache.Cache { return stmtcache.New(conn, stmtcache.ModeDescribe, 3) }
		},
		func(c *pgx.ConnConfig) { c.BuildStatementCache = nil },
		func(c *pgx.ConnConfig) { c.PreferSimpleProtocol = true },
	} {
		config, err := pgx.ParseConfig("")
		check(err)
		change(config)
		one, err := pgx.ConnectConfig(ctx, config)
		check(err)
		two, err := pgx.ConnectConfig(ctx, config)
		check(err)
		for turn := 0; turn < 20; turn++ {
			for i, c := range []*pgx.Conn{one, two} {
				var s string
				check(c.QueryRow(ctx, fmt.Sprintf("select 'client %d %d ' || $1", i, turn%5), "x").Scan(&s))
				equal(s, fmt.Sprintf("client %d %d x", i, turn%5))
			}
		}
		if mode != 1 && mode != 3 {
			_, err = one.Prepare(ctx, "mine", "select $1::int * 2")
			check(err)
			for n := 0; n < 5; n++ {
				var found int
				check(one.QueryRow(ctx, "mine", n).Scan(&found))
				equal(found, 2*n)
			}
			check(one.Deallocate(ctx, "mine"))
		}
		_, err = one.Exec(ctx, "deallocate all")
		check(err)
		check(one.Close(ctx))
		check(two.Close(ctx))
	}
}

func batches(pool *pgxpool.Pool) {
	for round := 0; round < 3; round++ {
		batch := &pgx.Batch{}
		for n := 0; n < 200; n++ {
			batch.Queue("insert into items (name, n) values ('batch', $1) returning n", n)
			batch.Queue("select $1::int * 2", n)
		}
		results := pool.SendBatch(ctx, batch)
		for n := 0; n < 200; n++ {
			var found int
			check(results.QueryRow().Scan(&found))
			equal(found, n)
			check(results.QueryRow().Scan(&found))
			equal(found, 2*n)
		}
		check(results.Close())
	}
	equal(value(pool, "/* hakem: primary */ select count(*)::text from items where name = 'batch'"), "600")
	// An error undoes all of it, since it has one Sync.
	batch := &pgx.Batch{}
	batch.Queue("insert into items (name) values ('never')")
	batch.Queue("select 1/$1::int", 0)
	batch.Queue("insert into items (name) values ('never')")
	fails("22012", pool.SendBatch(ctx, batch).Close())
	equal(value(pool, "/* hakem: primary */ select count(*)::text from items where name = 'never'"), "0")
}

func transactions(pool *pgxpool.Pool) {
	check(pool.BeginFunc(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "insert into items (name, n) values ('t', $1)", 1000)
		check(err)
		fails("22012", tx.BeginFunc(ctx, func(inner pgx.Tx) error {
			_, err := inner.Exec(ctx, "insert into items (name, n) values ('t', $1)", 1001)
			check(err)
			_, err = inner.Exec(ctx, "select 1/$1::int", 0)
			return err
		}))
		return tx.BeginFunc(ctx, func(inner pgx.Tx) error {
			_, err := inner.Exec(ctx, "insert into items (name, n) values ('t', $1)", 1002)
			return err
		})
	}))
	equal(value(pool, "/* hakem: primary */ select array_agg(n order by n)::text from items where n >= 1000"), "{1000,1002}")
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable})
	check(err)
	var level string
	check(tx.QueryRow(ctx, "show transaction_isolation").Scan(&level))
	equal(level, "serializable")
	_, err = tx.Exec(ctx, "insert into items (n) values (1)")
	fails("25006", err)
	assert(errors.Is(tx.Commit(ctx), pgx.ErrTxCommitRollback), "a failed transaction committed")
}

func cursors(pool *pgxpool.Pool) {
	check(pool.BeginFunc(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "declare walk cursor for select n from generate_series(1, 10) n")
		check(err)
		sum := 0
		for _, count := range []int{4, 6} {
			rows, err := tx.Query(ctx, fmt.Sprintf("fetch %d from walk", count))
			check(err)
			for rows.Next() {
				var n int
				check(rows.Scan(&n))
				sum += n
			}
			check(rows.Err())
		}
		equal(sum, 55)
		return nil
	}))
}

func copies(pool *pgxpool.Pool) {
	exec(pool, "create table copied (n int not null, s text)")
	rows := func(wrong bool) pgx.CopyFromSource {
		return pgx.CopyFromSlice(20000, func(n int) ([]interface{}, error) {
			if wrong && n == 15000 {
				return []interface{}{nil, "x"}, nil
			}
			return []interface{}{int32(n), fmt.Sprint("row ", n)}, nil
		})
	}
	count, err := pool.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"n", "s"}, rows(false))
	check(err)
	equal(count, int64(20000))
	_, err = pool.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"n", "s"}, rows(true))
	fails("23502", err)
	_, err = pool.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"n", "s"}, pgx.CopyFromSlice(10, func(n int) ([]interface{}, error) {
		return nil, errors.New("mine")
	}))
	assert(err != nil, "no error")
	c, err := pool.Acquire(ctx)
	check(err)
	var out strings.Builder
	_, err = c.Conn().PgConn().CopyTo(ctx, &out, "copy copied to stdout")
	check(err)
	equal(strings.Count(out.String(), "\n"), 20000)
	c.Release()
}

func types(pool *pgxpool.Pool) {
	moment := time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC)
	for i := 0; i < 3; i++ {
		var numbers []int64
		var text string
		var bytes []byte
		var when time.Time
		var nothing *string
		var object map[string]interface{}
		row := pool.QueryRow(ctx, "select $1::int8[], $2::text, $3::bytea, $4::timestamptz, $5::text, $6::jsonb", []int64{1, 2, 3}, "سلام 🂡", []byte{0, 1, 255}, moment, nil, map[string]interface{}{"a": 1.5})
		check(row.Scan(&numbers, &text, &bytes, &when, &nothing, &object))
		assert(reflect.DeepEqual(numbers, []int64{1, 2, 3}) && text == "سلام 🂡" && reflect.DeepEqual(bytes, []byte{0, 1, 255}) && when.Equal(moment) && nothing == nil && object["a"] == 1.5, "types")
	}
}

func listen(pool *pgxpool.Pool) {
	listener, err := pool.Acquire(ctx)
	check(err)
	_, err = listener.Exec(ctx, "listen events")
	check(err)
	exec(pool, "notify events, 'one'")
	exec(pool, "select pg_notify('events', $1)", "two")
	for _, wanted := range []string{"one", "two"} {
		limit, cancel := context.WithTimeout(ctx, 30*time.Second)
		notification, err := listener.Conn().WaitForNotification(limit)
		cancel()
		check(err)
		equal(notification.Payload, wanted)
	}
	_, err = listener.Exec(ctx, "unlisten *")
	check(err)
	listener.Release()
}

func cancels(pool *pgxpool.Pool) {
	// pgx closes a connection whose context ends while it waits.
	for i := 0; i < 3; i++ {
		limit, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := pool.Exec(limit, "select pg_sleep(0.5)")
		cancel()
		assert(err != nil, "slept")
		equal(value(pool, "select 'alive'"), "alive")
	}
	c, err := pool.Acquire(ctx)
	check(err)
	// A cancel that comes before its query hits nothing, which is nobody's fault.
	err = nil
	for turn := 0; turn < 20 && err == nil; turn++ {
		time.AfterFunc(200*time.Millisecond, func() { check(c.Conn().PgConn().CancelRequest(ctx)) })
		_, err = c.Exec(ctx, "select pg_sleep(3)")
	}
	fails("57014", err)
	var alive string
	check(c.QueryRow(ctx, "select 'alive'").Scan(&alive))
	c.Release()
}

func atOnce(pool *pgxpool.Pool) {
	var group sync.WaitGroup
	for worker := 0; worker < 16; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			name := fmt.Sprint("worker ", worker)
			for n := 0; n < 20; n++ {
				check(pool.BeginFunc(ctx, func(tx pgx.Tx) error {
					_, err := tx.Exec(ctx, "insert into items (name, n) values ($1, $2)", name, n)
					check(err)
					var count int
					check(tx.QueryRow(ctx, "select count(*) from items where name = $1", name).Scan(&count))
					equal(count, n+1)
					return nil
				}))
			}
		}(worker)
	}
	group.Wait()
}

func options(pool *pgxpool.Pool) {
	cards := connect("application_name=cards work_mem=5MB search_path=pg_catalog,public")
	for i := 0; i < 5; i++ {
		equal(value(cards, "show work_mem"), "5MB")
		equal(value(cards, "show application_name"), "cards")
		equal(value(cards, "show search_path"), "pg_catalog,public")
		assert(value(pool, "show work_mem") != "5MB", "leaked")
	}
	cards.Close()
}

func value(pool *pgxpool.Pool, query string, arguments ...interface{}) string {
	var found string
	check(pool.QueryRow(ctx, query, arguments...).Scan(&found))
	return found
}

func exec(pool *pgxpool.Pool, query string, arguments ...interface{}) {
	check(failure(pool, query, arguments...))
}

func failure(pool *pgxpool.Pool, query string, arguments ...interface{}) error {
	_, err := pool.Exec(ctx, query, arguments...)
	return err
}

func fails(state string, err error) {
	var failure *pgconn.PgError
	assert(errors.As(err, &failure), fmt.Sprintf("%v instead of %s", err, state))
	equal(failure.Code, state)
}

func equal(found, wanted interface{}) {
	assert(reflect.DeepEqual(found, wanted), fmt.Sprintf("%v instead of %v", found, wanted))
}

func assert(condition bool, what string) {
	if !condition {
		panic(what)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		panic(err)
	}
}
