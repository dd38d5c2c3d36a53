// Go's crypto/tls under pgx (PEER=pgx) and lib/pq (PEER=pq), one connection: a round of work for every line read.
// TLS_VERSION is 1.2 or 1.3; TLS_SUITE one of crypto/tls's names, for 1.2 only: with 1.3 Go decides.
package main

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/tls"
	"database/sql"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/jackc/pgx/v4"
	_ "github.com/jackc/pgx/v4/stdlib"
	"github.com/jackc/pgx/v4/stdlib"
	_ "github.com/lib/pq"
)

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func check(holds bool, what string) {
	if !holds {
		log.Output(2, what)
		os.Exit(1)
	}
}

func open() *sql.DB {
	if os.Getenv("PEER") == "pq" {
		db, err := sql.Open("postgres", "sslmode=verify-full")
		must(err)
		return db
	}
	config, err := pgx.ParseConfig("sslmode=verify-full")
	must(err)
	version := map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[os.Getenv("TLS_VERSION")]
	config.TLSConfig.MinVersion, config.TLSConfig.MaxVersion = version, version
	for _, suite := range tls.CipherSuites() {
		if suite.Name == os.Getenv("TLS_SUITE") {
			config.TLSConfig.CipherSuites = []uint16{suite.ID}
		}
	}
	return stdlib.OpenDB(*config)
}

func main() {
	log.SetFlags(log.Lshortfile)
	db := open()
	connection, err := db.Conn(context.Background())
	must(err)
	fmt.Println("connected")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		round(connection)
		fmt.Println("round")
	}
	must(connection.Close())
	must(db.Close())
	fmt.Println("done")
}

func round(connection *sql.Conn) {
	context := context.Background()
	for n := 0; n < 50; n++ {
		var got int
		must(connection.QueryRowContext(context, "select $1::int + 1", n).Scan(&got))
		check(got == n+1, "a small row")
	}
	rows, err := connection.QueryContext(context, "select repeat(n::text, 200) from generate_series(1, 3000) n")
	must(err)
	n := 0
	for rows.Next() {
		n++
		var got string
		must(rows.Scan(&got))
		check(got == strings.Repeat(fmt.Sprint(n), 200), "a large row")
	}
	must(rows.Err())
	check(n == 3000, "3000 rows")
	sent, digest := strings.Repeat("0123456789", 100_000), ""
	must(connection.QueryRowContext(context, "select md5($1)", sent).Scan(&digest))
	check(digest == fmt.Sprintf("%x", md5.Sum([]byte(sent))), "a megabyte sent")
}
