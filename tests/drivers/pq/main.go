// Go's lib/pq: parameters of many types, transactions, prepared statements, COPY, notices, errors, cancel by
// context, reconnect, notifications (session mode), a pool with forty at once.
package main

import (
	"context"
	"crypto/md5"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

var (
	table   = os.Getenv("PGTABLE")
	session = os.Getenv("POOL_MODE") != "transaction"
)

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func expect(code string, err error) {
	var told *pq.Error
	if !errors.As(err, &told) || string(told.Code) != code {
		log.Output(2, fmt.Sprintf("wanted %s, got %v", code, err))
		os.Exit(1)
	}
	fmt.Println(code, told.Message)
}

func check(is, wanted interface{}) {
	if fmt.Sprint(is) != fmt.Sprint(wanted) {
		log.Output(2, fmt.Sprintf("%v, not %v", is, wanted))
		os.Exit(1)
	}
}

type asks interface {
	QueryRow(sql string, arguments ...interface{}) *sql.Row
}

func one(from asks, sql string, arguments ...interface{}) (value interface{}) {
	if err := from.QueryRow(sql, arguments...).Scan(&value); err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
	if text, ok := value.([]byte); ok {
		return string(text)
	}
	return value
}

func main() {
	log.SetFlags(log.Lshortfile)
	// Without binary_parameters a query with parameters is parsed in one batch
	// and bound in the next; with them it is one batch.
	options := "sslmode=disable binary_parameters=" + os.Getenv("BINARY_PARAMETERS")
	connector, err := pq.NewConnector(options)
	must(err)
	var notices []string
	db := sql.OpenDB(pq.ConnectorWithNoticeHandler(connector, func(notice *pq.Error) {
		notices = append(notices, notice.Severity+" "+notice.Message)
	}))
	db.SetMaxOpenConns(2)

	_, err = db.Exec("create table " + table + " (id int primary key, name text, amount numeric, raw bytea, at timestamptz, " +
		"tags text[], data jsonb, yes bool, big int8, ratio float8)")
	must(err)
	for n := 0; n < 100; n++ {
		name := sql.NullString{String: fmt.Sprintf("näme %d 🐘", n), Valid: n%7 != 0}
		_, err = db.Exec("insert into "+table+" values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", n, name, fmt.Sprintf("%d.50", n),
			[]byte{byte(n), 0, 255}, time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC), pq.Array([]string{"a", fmt.Sprint(n)}),
			fmt.Sprintf(`{"n": %d}`, n), n%2 == 0, int64(1)<<40+int64(n), float64(n)/8)
		must(err)
	}
	rows, err := db.Query("select * from "+table+" where id = any($1) order by id", pq.Array([]int{0, 1, 77}))
	must(err)
	columns, err := rows.ColumnTypes()
	must(err)
	for rows.Next() {
		values, places := make([]interface{}, len(columns)), make([]interface{}, len(columns))
		for i := range values {
			places[i] = &values[i]
		}
		must(rows.Scan(places...))
		for i, value := range values {
			if text, ok := value.([]byte); ok {
				value = fmt.Sprintf("%q", text)
			}
			if at, ok := value.(time.Time); ok {
				value = at.UTC()
			}
			fmt.Printf("%s=%v ", columns[i].Name(), value)
		}
		fmt.Println()
	}
	must(rows.Err())
	for n := 1; n < 7; n++ {
		check(one(db, "select name from "+table+" where id = $1", n), fmt.Sprintf("näme %d 🐘", n))
	}
	fmt.Println("rows")

	tx, err := db.Begin()
	must(err)
	_, err = tx.Exec("delete from " + table)
	must(err)
	_, err = tx.Exec("select 1/0")
	expect("22012", err)
	_, err = tx.Exec("select 1")
	expect("25P02", err)
	_, err = tx.Exec("select $1::int", 1)
	expect("25P02", err)
	must(tx.Rollback())
	check(one(db, "select count(*) from "+table), 100)
	tx, err = db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelSerializable})
	must(err)
	_, err = tx.Exec("savepoint here")
	must(err)
	_, err = tx.Exec("insert into "+table+" (id) values ($1)", 1)
	expect("23505", err)
	_, err = tx.Exec("rollback to here")
	must(err)
	_, err = tx.Exec("insert into "+table+" (id, name) values ($1, $2)", 1000, "kept")
	must(err)
	fmt.Println(one(tx, "show transaction_isolation"))
	must(tx.Commit())
	check(one(db, "select name from "+table+" where id = $1", 1000), "kept")
	expect("42P01", db.QueryRow("select * from nowhere where x = $1", 1).Err())
	expect("22P02", db.QueryRow("select $1::text::int", "x").Err())
	_, err = db.Exec("select 1; select 1/0; select 2")
	expect("22012", err)
	fmt.Println("transactions and errors")

	plus, err := db.Prepare("select $1::int + 1")
	must(err)
	var count int
	for n := 0; n < 10; n++ {
		must(plus.QueryRow(n).Scan(&count))
		check(count, n+1)
		tx, err = db.Begin()
		must(err)
		must(tx.Stmt(plus).QueryRow(n).Scan(&count))
		check(count, n+1)
		must(tx.Commit())
	}
	must(plus.Close())
	tx, err = db.Begin()
	must(err)
	minus, err := tx.Prepare("select $1::int - 1")
	must(err)
	must(minus.QueryRow(5).Scan(&count))
	check(count, 4)
	must(minus.Close())
	must(tx.Commit())
	for n := 0; n < 300; n++ {
		check(one(db, fmt.Sprintf("select $1::int + %d", n%150), n), n+n%150)
	}
	fmt.Println("prepared statements")

	digest, read := md5.New(), 0
	rows, err = db.Query("select n, md5(n::text) from generate_series(1, $1::int) n", 20000)
	must(err)
	for rows.Next() {
		var n int
		var text string
		must(rows.Scan(&n, &text))
		fmt.Fprint(digest, n, text)
		read++
	}
	must(rows.Err())
	fmt.Printf("%d rows %x\n", read, digest.Sum(nil))
	large := strings.Repeat("x", 3000000)
	check(one(db, "select $1::text", large) == large, true)

	tx, err = db.Begin()
	must(err)
	load, err := tx.Prepare(pq.CopyIn(table, "id", "name"))
	must(err)
	for n := 2000; n < 5000; n++ {
		_, err = load.Exec(n, "copied ü")
		must(err)
	}
	_, err = load.Exec()
	must(err)
	must(load.Close())
	must(tx.Commit())
	check(one(db, "select count(*) from "+table+" where name = 'copied ü'"), 3000)
	tx, err = db.Begin()
	must(err)
	load, err = tx.Prepare(pq.CopyIn(table, "id"))
	must(err)
	_, err = load.Exec("no number")
	must(err)
	_, err = load.Exec()
	expect("22P02", err)
	must(tx.Rollback())
	fmt.Println("copy")

	_, err = db.Exec("do $$ begin raise notice 'hear %', 'this'; raise warning 'and ü'; end $$")
	must(err)
	fmt.Println(notices)

	look, err := db.Prepare("select name from " + table + " where id = $1")
	must(err)
	check(one(statement{look}, "", 1000), "kept")
	_, err = db.Exec("alter table " + table + " add column more int default 7")
	must(err)
	check(one(statement{look}, "", 1000), "kept")
	must(look.Close())
	fmt.Println("alter table")

	ctx, stop := context.WithTimeout(context.Background(), 300*time.Millisecond)
	_, err = db.ExecContext(ctx, "select pg_sleep(20)")
	stop()
	check(err != nil, true)
	check(one(db, "select 1"), 1)
	tx, err = db.Begin()
	must(err)
	_, err = tx.Exec("set local statement_timeout = '100ms'")
	must(err)
	_, err = tx.Exec("select pg_sleep(20)")
	expect("57014", err)
	must(tx.Rollback())
	fmt.Println("cancel and timeout")

	_, err = db.Exec("select pg_terminate_backend(pg_backend_pid())")
	check(errors.Is(err, driver.ErrBadConn) || strings.Contains(err.Error(), "terminating connection"), true)
	check(one(db, "select $1::int", 3), 3)
	fmt.Println("reconnected")

	if session {
		listener := pq.NewListener(options, time.Second, time.Second, nil)
		must(listener.Listen("news"))
		_, err = db.Exec("select pg_notify($1, $2)", "news", "grüße")
		must(err)
		heard := <-listener.Notify
		fmt.Println("session:", heard.Channel, heard.Extra)
		must(listener.Close())
	}

	most := 40
	if session {
		most = 4
	}
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	var everybody sync.WaitGroup
	for each := 0; each < 40; each++ {
		everybody.Add(1)
		go func(number int) {
			defer everybody.Done()
			for n := 0; n < 15; n++ {
				mine, err := db.Begin()
				must(err)
				want := fmt.Sprintf("by %d", number)
				check(one(mine, "update "+table+" set name = $1 where id = $2 returning name", want, number), want)
				check(one(mine, fmt.Sprintf("select $1::int + %d", number), n), n+number)
				must(mine.Commit())
			}
		}(each)
	}
	everybody.Wait()
	must(db.Close())
	fmt.Println("forty at once")
	fmt.Println("done")
}

type statement struct{ *sql.Stmt }

func (s statement) QueryRow(_ string, arguments ...interface{}) *sql.Row {
	return s.Stmt.QueryRow(arguments...)
}
