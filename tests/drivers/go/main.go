// Go's lib/pq: rows, transactions, prepared statements, COPY, errors, cancel
// by context, a client-side pool.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
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
}

func check(holds bool, what string) {
	if !holds {
		log.Output(2, what)
		os.Exit(1)
	}
}

func main() {
	log.SetFlags(log.Lshortfile)
	// Without binary_parameters a query with parameters is parsed in one batch
	// and bound in the next; with them it is one batch.
	db, err := sql.Open("postgres", "sslmode=disable binary_parameters="+os.Getenv("BINARY_PARAMETERS"))
	must(err)
	db.SetMaxOpenConns(4)

	_, err = db.Exec("create table " + table + " (id int primary key, name text)")
	must(err)
	for n := 0; n < 50; n++ {
		_, err = db.Exec("insert into "+table+" values ($1, $2)", n, fmt.Sprintf("näme %d", n))
		must(err)
	}
	for n := 0; n < 20; n++ {
		var name string
		must(db.QueryRow("select name from "+table+" where id = $1", n).Scan(&name))
		check(name == fmt.Sprintf("näme %d", n), name)
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
	must(tx.Rollback())
	var count int
	must(db.QueryRow("select count(*) from " + table).Scan(&count))
	check(count == 50, "rolled back")
	fmt.Println("transactions and errors")

	plus, err := db.Prepare("select $1::int + 1")
	must(err)
	for n := 0; n < 10; n++ {
		must(plus.QueryRow(n).Scan(&count))
		check(count == n+1, "prepared")
		tx, err = db.Begin()
		must(err)
		must(tx.Stmt(plus).QueryRow(n).Scan(&count))
		check(count == n+1, "prepared, in a transaction")
		must(tx.Commit())
	}
	must(plus.Close())
	tx, err = db.Begin()
	must(err)
	minus, err := tx.Prepare("select $1::int - 1")
	must(err)
	must(minus.QueryRow(5).Scan(&count))
	check(count == 4, "prepared in a transaction")
	must(minus.Close())
	must(tx.Commit())
	fmt.Println("prepared statements")

	tx, err = db.Begin()
	must(err)
	load, err := tx.Prepare(pq.CopyIn(table, "id", "name"))
	must(err)
	for n := 2000; n < 5000; n++ {
		_, err = load.Exec(n, "copied")
		must(err)
	}
	_, err = load.Exec()
	must(err)
	must(load.Close())
	must(tx.Commit())
	must(db.QueryRow("select count(*) from " + table).Scan(&count))
	check(count == 3050, "copied")
	fmt.Println("copy")

	ctx, stop := context.WithTimeout(context.Background(), 300*time.Millisecond)
	_, err = db.ExecContext(ctx, "select pg_sleep(20)")
	stop()
	check(err != nil, "cancelled")
	must(db.QueryRow("select 1").Scan(&count))
	fmt.Println("cancel")

	if !session {
		db.SetMaxOpenConns(12)
	}
	var all sync.WaitGroup
	for each := 0; each < 12; each++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			for n := 0; n < 20; n++ {
				mine, err := db.Begin()
				must(err)
				want, name := fmt.Sprintf("by %d", number), ""
				_, err = mine.Exec("update "+table+" set name = $1 where id = $2", want, number)
				must(err)
				must(mine.QueryRow("select name from "+table+" where id = $1", number).Scan(&name))
				check(name == want, name)
				must(mine.Commit())
			}
		}(each)
	}
	all.Wait()
	must(db.Close())
	fmt.Println("twelve at once")
	fmt.Println("done")
}
