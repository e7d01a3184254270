// What applications do with database/sql and lib/pq, through the proxy that libpq's environment variables point at.
//
// lib/pq prepares (Parse, Describe, Sync) and runs (Bind, Execute, Sync) in two journeys, unnamed where it is not asked for a statement.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

func main() {
	db := open("")
	exec(db, "create table items (id serial primary key, name text, n int)")
	parts := []struct {
		name string
		run  func(*sql.DB)
	}{{"basics", basics}, {"prepared", prepared}, {"transactions", transactions}, {"copies", copies}, {"types", types}, {"listen", listen},
		{"cancels", cancels}, {"atOnce", atOnce}, {"options", options}}
	for _, part := range parts {
		part.run(db)
		fmt.Println("ok", part.name)
	}
	check(db.Close())
	fmt.Println("done")
}

func open(options string) *sql.DB {
	db, err := sql.Open("postgres", encryption()+options)
	check(err)
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	return db
}

// encryption is demanded by lib/pq if nothing is said about it.
func encryption() string {
	if os.Getenv("PGSSLMODE") == "" {
		return "sslmode=disable "
	}
	return ""
}

func basics(db *sql.DB) {
	equal(value(db, "select $1::int + 1", 41), "42")
	equal(value(db, "select 'simple'"), "simple")
	result, err := db.Exec("insert into items (name, n) values ($1, $2), ($3, $4)", "a", 1, "b", 2)
	check(err)
	count, _ := result.RowsAffected()
	equal(count, int64(2))
	// Without arguments: the simple protocol, which takes several statements and gives several results.
	rows, err := db.Query("select 1; select 'two'")
	check(err)
	var n int
	var s string
	for rows.Next() {
		check(rows.Scan(&n))
	}
	for rows.NextResultSet() {
		for rows.Next() {
			check(rows.Scan(&s))
		}
	}
	check(rows.Close())
	equal(s, "two")
	fails("22012", failure(db, "select 1/0"))
	fails("22012", failure(db, "select 1/$1::int", 0))
	fails("42P01", failure(db, "select * from no_such_table"))
	fails("23505", failure(db, "insert into items (id) values ($1)", 1))
	fails("22P02", failure(db, "select $1::int", "no number"))
	exec(db, "")
	rows, err = db.Query("select n, repeat('x', 1000) from generate_series(1, $1) n", 20000)
	check(err)
	seen := 0
	for rows.Next() {
		check(rows.Scan(&n, &s))
		seen++
		assert(n == seen && len(s) == 1000, "large result")
	}
	check(rows.Err())
	equal(seen, 20000)
	// Left early.
	rows, err = db.Query("select n from generate_series(1, 100000) n")
	check(err)
	assert(rows.Next(), "a row")
	check(rows.Close())
	huge := strings.Repeat("y", 5000000)
	equal(value(db, "select $1::text", huge), huge)
}

func prepared(db *sql.DB) {
	statements := []*sql.Stmt{}
	for i := 0; i < 5; i++ {
		statement, err := db.Prepare(fmt.Sprintf("select 'statement %d ' || $1", i))
		check(err)
		statements = append(statements, statement)
	}
	var group sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for turn := 0; turn < 20; turn++ {
				i := turn % len(statements)
				var s string
				check(statements[i].QueryRow("x").Scan(&s))
				equal(s, fmt.Sprintf("statement %d x", i))
			}
		}()
	}
	group.Wait()
	for _, statement := range statements {
		check(statement.Close())
	}
	_, err := db.Prepare("select nothing_like_it")
	fails("42703", err)
	divide, err := db.Prepare("select 10 / $1::int")
	check(err)
	var n int
	fails("22012", divide.QueryRow(0).Scan(&n))
	check(divide.QueryRow(5).Scan(&n))
	equal(n, 2)
	check(divide.Close())
}

func transactions(db *sql.DB) {
	tx, err := db.Begin()
	check(err)
	for _, s := range []string{"insert into items (name, n) values ('t', 1000)", "savepoint inner_one"} {
		_, err = tx.Exec(s)
		check(err)
	}
	_, err = tx.Exec("select 1/$1::int", 0)
	fails("22012", err)
	_, err = tx.Exec("select 1")
	fails("25P02", err)
	for _, s := range []string{"rollback to inner_one", "insert into items (name, n) values ('t', 1001)"} {
		_, err = tx.Exec(s)
		check(err)
	}
	check(tx.Commit())
	equal(value(db, "/* hakem: primary */ select count(*) from items where n >= $1", 1000), "2")
	tx, err = db.Begin()
	check(err)
	_, err = tx.Exec("select 1/0")
	fails("22012", err)
	assert(tx.Commit() != nil, "a failed transaction committed")
	tx, err = db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
	check(err)
	var level string
	check(tx.QueryRow("show transaction_isolation").Scan(&level))
	equal(level, "serializable")
	_, err = tx.Exec("insert into items (n) values (1)")
	fails("25006", err)
	check(tx.Rollback())
	equal(value(db, "show transaction_isolation"), "read committed")
	equal(value(db, "show transaction_read_only"), "off")
	// One whose context ends.
	ctx, cancel := context.WithCancel(context.Background())
	tx, err = db.BeginTx(ctx, nil)
	check(err)
	_, err = tx.Exec("insert into items (name, n) values ('t', 2000)")
	check(err)
	cancel()
	for tx.Rollback() == nil {
	}
	equal(value(db, "/* hakem: primary */ select count(*) from items where n = 2000"), "0")
}

func copies(db *sql.DB) {
	exec(db, "create table copied (n int, s text)")
	load := func(wrong bool) error {
		tx, err := db.Begin()
		check(err)
		statement, err := tx.Prepare(pq.CopyIn("copied", "n", "s"))
		check(err)
		for n := 0; n < 20000; n++ {
			if wrong && n == 15000 {
				_, err = statement.Exec("no number", "x")
			} else {
				_, err = statement.Exec(n, fmt.Sprint("row ", n))
			}
			if err != nil {
				break
			}
		}
		if err == nil {
			_, err = statement.Exec()
		}
		if err == nil {
			err = statement.Close()
		}
		if err != nil {
			// Until it is closed, lib/pq's COPY reads the connection beside everybody else, and takes ROLLBACK's answer from it.
			_ = statement.Close()
			_ = tx.Rollback()
			return err
		}
		return tx.Commit()
	}
	check(load(false))
	fails("22P02", load(true))
	equal(value(db, "select count(*) from copied"), "20000")
}

func types(db *sql.DB) {
	moment := time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC)
	for _, mode := range []string{"", "binary_parameters=yes"} {
		other := open(mode)
		var numbers []int64
		var text string
		var bytes []byte
		var when time.Time
		var truth bool
		var nothing sql.NullString
		row := other.QueryRow("select $1::int8[], $2::text, $3::bytea, $4::timestamptz, $5::bool, $6::text", pq.Array([]int64{1, 2, 3}), "سلام 🂡", []byte{0, 1, 255}, moment, true, nil)
		check(row.Scan(pq.Array(&numbers), &text, &bytes, &when, &truth, &nothing))
		assert(reflect.DeepEqual(numbers, []int64{1, 2, 3}) && text == "سلام 🂡" && reflect.DeepEqual(bytes, []byte{0, 1, 255}) && when.Equal(moment) && truth && !nothing.Valid, mode)
		check(other.Close())
	}
}

func listen(db *sql.DB) {
	listener := pq.NewListener(encryption(), time.Second, time.Second, nil)
	check(listener.Listen("events"))
	exec(db, "notify events, 'one'")
	exec(db, "select pg_notify('events', $1)", "two")
	for _, wanted := range []string{"one", "two"} {
		select {
		case notification := <-listener.Notify:
			assert(notification != nil, "a lost connection")
			equal(notification.Extra, wanted)
		case <-time.After(30 * time.Second):
			panic("not heard: " + wanted)
		}
	}
	check(listener.Ping())
	check(listener.UnlistenAll())
	check(listener.Close())
}

func cancels(db *sql.DB) {
	// What its context ends is cancelled on the server, and lib/pq closes the connection.
	for i := 0; i < 3; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		_, err := db.ExecContext(ctx, "select pg_sleep(5)")
		cancel()
		assert(err != nil, "slept")
		equal(value(db, "select 'alive'"), "alive")
	}
}

func atOnce(db *sql.DB) {
	var group sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			name := fmt.Sprint("worker ", worker)
			for n := 0; n < 20; n++ {
				tx, err := db.Begin()
				check(err)
				_, err = tx.Exec("insert into items (name, n) values ($1, $2)", name, n)
				check(err)
				var count int
				check(tx.QueryRow("select count(*) from items where name = $1", name).Scan(&count))
				equal(count, n+1)
				check(tx.Commit())
			}
		}(worker)
	}
	group.Wait()
}

func options(db *sql.DB) {
	cards := open("application_name=cards work_mem=5MB search_path=pg_catalog,public extra_float_digits=1")
	for i := 0; i < 5; i++ {
		equal(value(cards, "show work_mem"), "5MB")
		equal(value(cards, "show application_name"), "cards")
		equal(value(cards, "show search_path"), "pg_catalog,public")
		equal(value(cards, "show extra_float_digits"), "1")
		assert(value(db, "show work_mem") != "5MB", "leaked")
	}
	check(cards.Close())
}

func value(db *sql.DB, query string, arguments ...interface{}) string {
	var found string
	check(db.QueryRow(query, arguments...).Scan(&found))
	return found
}

func exec(db *sql.DB, query string, arguments ...interface{}) {
	_, err := db.Exec(query, arguments...)
	check(err)
}

func failure(db *sql.DB, query string, arguments ...interface{}) error {
	_, err := db.Exec(query, arguments...)
	return err
}

func fails(state string, err error) {
	var failure *pq.Error
	assert(errors.As(err, &failure), fmt.Sprintf("%v instead of %s", err, state))
	equal(string(failure.Code), state)
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
