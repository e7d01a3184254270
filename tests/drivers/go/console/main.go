// The admin console as Go's drivers see it: lib/pq as the exporter for Prometheus uses it, pgx with its statement cache and without.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v4"
	_ "github.com/lib/pq"
)

func main() {
	for _, database := range []string{"pgbouncer", "hakem"} {
		exporter(database)
		fmt.Println("ok", database, "exporter")
		for _, simple := range []bool{false, true} {
			withPgx(database, simple)
		}
		fmt.Println("ok", database, "pgx")
	}
	fmt.Println("done")
}

// What pgbouncer_exporter asks for at each scrape, and takes for granted.
func exporter(database string) {
	for scrape := 0; scrape < 2; scrape++ {
		db, err := sql.Open("postgres", "sslmode=disable extra_float_digits=2 dbname="+database)
		check(err)
		check(db.Ping())
		var version string
		check(db.QueryRow("SHOW VERSION;").Scan(&version))
		assert(strings.HasPrefix(version, "PgBouncer 1."), version)
		lists, columns := show(db, "SHOW LISTS;")
		assert(len(columns) == 2, "LISTS has two columns")
		names := map[string]bool{}
		for _, row := range lists {
			names[row["list"]] = true
			number(row["items"])
		}
		for _, name := range []string{"databases", "users", "pools", "free_clients", "used_clients", "login_clients", "free_servers", "used_servers"} {
			assert(names[name], name)
		}
		config, columns := show(db, "SHOW CONFIG;")
		assert(len(columns) == 3 || len(columns) == 4, "CONFIG's columns")
		for _, row := range config {
			if row["key"] == "max_client_conn" || row["key"] == "max_user_connections" {
				number(row["value"])
			}
		}
		for query, wanted := range map[string][]string{
			"SHOW STATS;":        {"database", "total_xact_count", "total_query_count", "total_received", "total_sent", "avg_wait_time"},
			"SHOW STATS_TOTALS;": {"database", "xact_count", "query_count", "bytes_received", "bytes_sent", "wait_time"},
			"SHOW POOLS;":        {"database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login", "maxwait"},
			"SHOW DATABASES;":    {"name", "host", "port", "database", "force_user", "pool_size", "pool_mode", "max_connections", "current_connections", "paused", "disabled"},
			"SHOW CLIENTS;":      {"database", "user", "state"},
		} {
			_, columns := show(db, query)
			for _, name := range wanted {
				assert(strings.Contains(" "+strings.Join(columns, " ")+" ", " "+name+" "), query+" lacks "+name)
			}
		}
		check(db.Close())
	}
}

// Every column as text, the way that the exporter scans them.
func show(db *sql.DB, query string) ([]map[string]string, []string) {
	rows, err := db.Query(query)
	check(err)
	columns, err := rows.Columns()
	check(err)
	found := []map[string]string{}
	for rows.Next() {
		values := make([]sql.NullString, len(columns))
		places := make([]interface{}, len(columns))
		for i := range values {
			places[i] = &values[i]
		}
		check(rows.Scan(places...))
		row := map[string]string{}
		for i, name := range columns {
			row[name] = values[i].String
		}
		found = append(found, row)
	}
	check(rows.Err())
	return found, columns
}

func withPgx(database string, simple bool) {
	ctx := context.Background()
	config, err := pgx.ParseConfig("sslmode=disable dbname=" + database)
	check(err)
	config.PreferSimpleProtocol = simple
	c, err := pgx.ConnectConfig(ctx, config)
	check(err)
	for round := 0; round < 3; round++ {
		rows, err := c.Query(ctx, "SHOW POOLS")
		check(err)
		for rows.Next() {
			_, err := rows.Values()
			check(err)
		}
		check(rows.Err())
		_, err = c.Exec(ctx, "SHOW NONSENSE")
		assert(err != nil, "nonsense was shown")
	}
	check(c.Close(ctx))
}

func number(text string) {
	var n int64
	_, err := fmt.Sscan(text, &n)
	check(err)
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
