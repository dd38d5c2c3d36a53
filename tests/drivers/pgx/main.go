// Go's pgx: parameters of many types, transactions, savepoints, batches, COPY, large objects, notices, errors,
// cancel by context, reconnect, notifications (session mode), a pool with forty at once.
//
// PGX is how queries are sent: "" its own cache of named statements, "describe" its cache of descriptions,
// "uncached" each described anew, "exec" in one batch without knowing the types, "simple" without parameters.
package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var (
	table   = os.Getenv("PGTABLE")
	way     = os.Getenv("PGX")
	session = os.Getenv("POOL_MODE") != "transaction"
	ctx     = context.Background()
	options = map[string]string{
		"":         "",
		"describe": "statement_cache_mode=describe",
		"uncached": "statement_cache_capacity=0",
		"exec":     "",
		"simple":   "prefer_simple_protocol=true",
	}
)

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func check(is, wanted interface{}) {
	if fmt.Sprint(is) != fmt.Sprint(wanted) {
		log.Output(2, fmt.Sprintf("%v, not %v", is, wanted))
		os.Exit(1)
	}
}

func expect(code string, err error) {
	var told *pgconn.PgError
	if !errors.As(err, &told) || told.Code != code {
		log.Output(2, fmt.Sprintf("wanted %s, got %v", code, err))
		os.Exit(1)
	}
	fmt.Println(code, told.Message)
}

// asks runs a query in the way that was chosen and returns its rows.
func asks(conn *pgx.Conn, sql string, arguments ...interface{}) ([][]interface{}, error) {
	var all [][]interface{}
	if way == "exec" {
		texts := make([][]byte, len(arguments))
		for i, argument := range arguments {
			if argument != nil {
				texts[i] = []byte(fmt.Sprint(argument))
			}
		}
		result := conn.PgConn().ExecParams(ctx, sql, texts, nil, nil, nil)
		for result.NextRow() {
			var row []interface{}
			for _, value := range result.Values() {
				row = append(row, string(value))
			}
			all = append(all, row)
		}
		_, err := result.Close()
		return all, err
	}
	rows, err := conn.Query(ctx, sql, arguments...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		row, err := rows.Values()
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

func ask(conn *pgx.Conn, sql string, arguments ...interface{}) [][]interface{} {
	all, err := asks(conn, sql, arguments...)
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
	return all
}

func failure(conn *pgx.Conn, sql string, arguments ...interface{}) error {
	_, err := asks(conn, sql, arguments...)
	return err
}

func connect(settle func(*pgx.ConnConfig)) *pgx.Conn {
	config, err := pgx.ParseConfig(options[way])
	must(err)
	if settle != nil {
		settle(config)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	must(err)
	return conn
}

func main() {
	log.SetFlags(log.Lshortfile)
	var notices []string
	conn := connect(func(config *pgx.ConnConfig) {
		config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
			notices = append(notices, notice.Severity+" "+notice.Message)
		}
	})

	ask(conn, "create table "+table+" (id int primary key, name text, amount float8, raw bytea, at timestamptz, "+
		"tags text[], data jsonb, yes bool, big int8)")
	for n := 0; n < 100; n++ {
		var name interface{} = fmt.Sprintf("näme %d 🐘", n)
		if n%7 == 0 {
			name = nil
		}
		if way == "exec" {
			ask(conn, "insert into "+table+" values ($1, $2, $3, $4, $5, $6, $7, $8, $9)", n, name, float64(n)/8,
				fmt.Sprintf("\\x%02x00ff", n), "2024-02-29 12:00:00+00", fmt.Sprintf("{a,%d}", n),
				fmt.Sprintf(`{"n": %d}`, n), n%2 == 0, int64(1)<<40+int64(n))
		} else {
			ask(conn, "insert into "+table+" values ($1, $2, $3, $4, $5, $6, $7, $8, $9)", n, name, float64(n)/8,
				[]byte{byte(n), 0, 255}, time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC), []string{"a", fmt.Sprint(n)},
				fmt.Sprintf(`{"n": %d}`, n), n%2 == 0, int64(1)<<40+int64(n))
		}
	}
	for _, id := range []int{0, 1, 77} {
		for _, row := range ask(conn, "select id, name, amount, raw, at at time zone 'UTC', array_to_string(tags, ';'), "+
			"data->'n', yes, big from "+table+" where id = $1", id) {
			fmt.Println(row)
		}
	}
	fmt.Println("rows")

	tx, err := conn.Begin(ctx)
	must(err)
	ask(conn, "update "+table+" set name = 'changed' where id < $1", 10)
	must(tx.Rollback(ctx))
	check(ask(conn, "select count(*) from "+table+" where name = $1", "changed"), "[[0]]")
	tx, err = conn.Begin(ctx)
	must(err)
	inner, err := tx.Begin(ctx)
	must(err)
	expect("23505", failure(conn, "insert into "+table+" (id) values ($1)", 1))
	expect("25P02", failure(conn, "select 1"))
	expect("25P02", failure(conn, "select $1::int + 1", 1))
	must(inner.Rollback(ctx))
	ask(conn, "insert into "+table+" (id, name) values ($1, $2)", 1000, "kept")
	must(tx.Commit(ctx))
	check(ask(conn, "select name from "+table+" where id = $1", 1000), "[[kept]]")
	expect("22P02", failure(conn, "select $1::text::int", "x"))
	expect("42P01", failure(conn, "select * from nowhere where x = $1", 1))
	expect("42703", failure(conn, "select nothing from "+table))
	_, err = conn.PgConn().Exec(ctx, "select 1; select 1/0; select 2").ReadAll()
	expect("22012", err)
	fmt.Println("transactions and errors")

	digest, count := md5.New(), 0
	for _, row := range ask(conn, "select n, md5(n::text) from generate_series(1, $1::int) n", 20000) {
		fmt.Fprint(digest, row...)
		count++
	}
	fmt.Printf("%d rows %x\n", count, digest.Sum(nil))
	large := strings.Repeat("x", 3000000)
	check(len(ask(conn, "select $1::text", large)[0][0].(string)), len(large))
	// More than its cache of 512 keeps.
	for round := 0; round < 2; round++ {
		for n := 0; n < 600; n++ {
			check(ask(conn, fmt.Sprintf("select $1::int + %d", n), round), fmt.Sprintf("[[%d]]", n+round))
		}
	}
	fmt.Println("many")

	batch := &pgx.Batch{}
	for n := 0; n < 300; n++ {
		batch.Queue("insert into "+table+" (id, name) values ($1, $2) returning id", 1100+n, "batch")
		batch.Queue("select $1::int + 1", n)
	}
	results := conn.SendBatch(ctx, batch)
	for n := 0; n < 300; n++ {
		var id, next int
		must(results.QueryRow().Scan(&id))
		must(results.QueryRow().Scan(&next))
		check(id*10000+next, (1100+n)*10000+n+1)
	}
	must(results.Close())
	batch = &pgx.Batch{}
	batch.Queue("insert into "+table+" (id, name) values ($1, $2)", 1900, "undone")
	batch.Queue("insert into "+table+" (id, name) values ($1, $2)", 1, "twice")
	batch.Queue("insert into "+table+" (id, name) values ($1, $2)", 1901, "never")
	expect("23505", conn.SendBatch(ctx, batch).Close())
	check(ask(conn, "select count(*) from "+table+" where id >= $1", 1900), "[[0]]")
	fmt.Println("batches")

	_, err = conn.Prepare(ctx, "mine", "select $1::int * 2")
	must(err)
	for n := 0; n < 5; n++ {
		result := conn.PgConn().ExecPrepared(ctx, "mine", [][]byte{[]byte(fmt.Sprint(n))}, nil, nil).Read()
		must(result.Err)
		check(string(result.Rows[0][0]), 2*n)
	}
	_, err = conn.PgConn().Prepare(ctx, "mine", "select 1", nil)
	expect("42P05", err)
	must(conn.Deallocate(ctx, "mine"))
	expect("26000", conn.PgConn().ExecPrepared(ctx, "mine", [][]byte{[]byte("1")}, nil, nil).Read().Err)
	description, err := conn.Prepare(ctx, "mine", "select $1::text as t, $2::int8 as b")
	must(err)
	fmt.Println(description.ParamOIDs, description.Fields[0].DataTypeOID, string(description.Fields[1].Name))
	must(conn.Deallocate(ctx, "mine"))
	fmt.Println("named statements")

	copied, err := conn.CopyFrom(ctx, pgx.Identifier{table}, []string{"id", "name"},
		pgx.CopyFromSlice(3000, func(n int) ([]interface{}, error) { return []interface{}{2000 + n, "copied ü"}, nil }))
	must(err)
	check(copied, 3000)
	var out bytes.Buffer
	_, err = conn.PgConn().CopyTo(ctx, &out, "copy (select id, name from "+table+" where id >= 2000) to stdout")
	must(err)
	check(bytes.Count(out.Bytes(), []byte("copied ü\n")), 3000)
	_, err = conn.PgConn().CopyFrom(ctx, strings.NewReader("no number\n"), "copy "+table+" (id) from stdin")
	expect("22P02", err)
	fmt.Println("copy")

	tx, err = conn.Begin(ctx)
	must(err)
	objects := tx.LargeObjects()
	oid, err := objects.Create(ctx, 0)
	must(err)
	object, err := objects.Open(ctx, oid, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
	must(err)
	_, err = object.Write(make([]byte, 100000))
	must(err)
	size, err := object.Seek(0, 2)
	must(err)
	check(size, 100000)
	must(objects.Unlink(ctx, oid))
	must(tx.Commit(ctx))
	fmt.Println("large object")

	ask(conn, "do $$ begin raise notice 'hear %', 'this'; raise warning 'and ü'; end $$")
	fmt.Println(notices)

	// Statements that are known before their table gets another shape.
	look, all := "select name from "+table+" where id = $1", "select * from "+table+" where id = $1"
	check(ask(conn, look, 1000), "[[kept]]")
	if way != "describe" { // What that keeps would stay wrong (08P01), with or without a pooler.
		check(len(ask(conn, all, 1000)[0]), 9)
	}
	ask(conn, "alter table "+table+" add column more int default 7")
	check(ask(conn, look, 1000), "[[kept]]")
	shown, err := asks(conn, all, 1000)
	var told *pgconn.PgError
	if errors.As(err, &told) && told.Code == "0A000" {
		// pgx forgets what it knew of a statement that failed so.
		shown, err = asks(conn, all, 1000)
	}
	must(err)
	check(len(shown[0]), 10)
	fmt.Println("alter table")

	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	_, err = conn.Exec(short, "select pg_sleep(20)")
	stop()
	check(pgconn.Timeout(err), true)
	// pgx gives a connection up whose query ran out of time.
	check(conn.IsClosed(), true)
	conn = connect(nil)
	other := connect(nil)
	cancelled := make(chan error)
	// PostgreSQL may still be running the query that was given up.
	asleep := func(count int) {
		for len(ask(other, "select 1 from pg_stat_activity where wait_event = 'PgSleep'")) != count {
			time.Sleep(5 * time.Millisecond)
		}
	}
	asleep(0)
	go func() { _, err := conn.Exec(ctx, "select pg_sleep(20)"); cancelled <- err }()
	// A cancel that overtakes its query is lost, with or without a pooler.
	asleep(1)
	must(conn.PgConn().CancelRequest(ctx))
	expect("57014", <-cancelled)
	check(ask(conn, "select $1::int", 1), "[[1]]")
	expect("57014", func() error {
		_, err := conn.PgConn().Exec(ctx, "begin; set local statement_timeout = '100ms'; select pg_sleep(20)").ReadAll()
		return err
	}())
	ask(conn, "rollback")
	check(ask(conn, "select $1::int", 2), "[[2]]")
	fmt.Println("cancel and timeout")

	expect("57P01", failure(conn, "select pg_terminate_backend(pg_backend_pid())"))
	check(conn.IsClosed(), true)
	conn = connect(nil)
	check(ask(conn, "select $1::int", 3), "[[3]]")
	fmt.Println("reconnected")

	if session {
		ask(conn, "listen news")
		ask(other, "select pg_notify($1, $2)", "news", "grüße")
		heard, err := conn.WaitForNotification(ctx)
		must(err)
		fmt.Println("session:", heard.Channel, heard.Payload)
	}
	must(other.Close(ctx))
	must(conn.Close(ctx))

	config, err := pgxpool.ParseConfig(options[way])
	must(err)
	config.MaxConns = 40
	if session {
		config.MaxConns = 4
	}
	pool, err := pgxpool.ConnectConfig(ctx, config)
	must(err)
	var everybody sync.WaitGroup
	for each := 0; each < 40; each++ {
		everybody.Add(1)
		go func(number int) {
			defer everybody.Done()
			for n := 0; n < 15; n++ {
				mine, err := pool.Acquire(ctx)
				must(err)
				tx, err := mine.Begin(ctx)
				must(err)
				by := fmt.Sprintf("by %d", number)
				check(ask(mine.Conn(), "update "+table+" set name = $1 where id = $2 returning name", by, number),
					"[["+by+"]]")
				check(ask(mine.Conn(), fmt.Sprintf("select $1::int + %d", number), n), fmt.Sprintf("[[%d]]", n+number))
				must(tx.Commit(ctx))
				mine.Release()
			}
		}(each)
	}
	everybody.Wait()
	pool.Close()
	fmt.Println("forty at once")
	fmt.Println("done")
}
