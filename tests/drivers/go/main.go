// pgx through the proxy: what its users do, checked; prints "done".
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var ctx, _ = context.WithTimeout(context.Background(), 60*time.Second)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func equal[T comparable](found, wanted T, what string) {
	if found != wanted {
		panic(fmt.Sprintf("%s: %v, not %v", what, found, wanted))
	}
}

func one[T any](db interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, sql string, arguments ...any) T {
	var value T
	check(db.QueryRow(ctx, sql, arguments...).Scan(&value))
	return value
}

func code(err error) string {
	var failure *pgconn.PgError
	if errors.As(err, &failure) {
		return failure.Code
	}
	return fmt.Sprint(err)
}

func prepared(pool *pgxpool.Pool) {
	for n := range 20 {
		one[int64](pool, "INSERT INTO account (email, balance) VALUES ($1, $2) RETURNING id", fmt.Sprintf("p%d@go", n), n)
	}
	tag, err := pool.Exec(ctx, "UPDATE account SET tags = $1 WHERE balance >= $2", []string{"a", "b"}, 10)
	check(err)
	equal(tag.String(), "UPDATE 10", "tag")
	rows, err := pool.Query(ctx, "UPDATE account SET name = $1 WHERE balance = $2 RETURNING *", "x", 3)
	check(err)
	equal(len(rows.FieldDescriptions()), 7, "columns")
	rows.Close()
	check(rows.Err())
}

func pipelined(pool *pgxpool.Pool) {
	batch := &pgx.Batch{}
	for n := range 50 {
		batch.Queue("INSERT INTO account (email) VALUES ($1)", fmt.Sprintf("b%d@go", n))
		batch.Queue("SELECT count(*) FROM account WHERE email LIKE 'b%@go'")
	}
	results := pool.SendBatch(ctx, batch)
	for n := range 50 {
		_, err := results.Exec()
		check(err)
		var count int
		check(results.QueryRow().Scan(&count))
		equal(count, n+1, "in the pipeline")
	}
	check(results.Close())
	failing := &pgx.Batch{}
	failing.Queue("INSERT INTO account (email) VALUES ('lost@go')")
	failing.Queue("SELECT 1 / 0")
	equal(code(pool.SendBatch(ctx, failing).Close()), "22012", "error in a batch")
	equal(one[int](pool, "SELECT count(*) FROM account WHERE email = 'lost@go'"), 0, "undone")
}

func transactions(pool *pgxpool.Pool) {
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable})
	check(err)
	id := one[int64](tx, "INSERT INTO account (email) VALUES ('t@go') RETURNING id")
	nested, err := tx.Begin(ctx)
	check(err)
	_, err = nested.Exec(ctx, "INSERT INTO entry VALUES ($1, 1, 0)", id)
	equal(code(err), "23514", "constraint")
	check(nested.Rollback(ctx))
	_, err = tx.Exec(ctx, "INSERT INTO entry VALUES ($1, 1, 5)", id)
	check(err)
	check(tx.Commit(ctx))
	equal(one[string](pool, "SELECT amount::text FROM entry"), "5.00", "committed")
}

func copies(pool *pgxpool.Pool) {
	rows := make([][]any, 500)
	for n := range rows {
		rows[n] = []any{fmt.Sprintf("c%d@go", n), n}
	}
	count, err := pool.CopyFrom(ctx, pgx.Identifier{"account"}, []string{"email", "balance"}, pgx.CopyFromRows(rows))
	check(err)
	equal(count, 500, "copied")
	_, err = pool.CopyFrom(ctx, pgx.Identifier{"account"}, []string{"email"}, pgx.CopyFromRows(rows[:1]))
	if err == nil {
		panic("a copy of the wrong width must fail")
	}
	connection, err := pool.Acquire(ctx)
	check(err)
	defer connection.Release()
	var out strings.Builder
	_, err = connection.Conn().PgConn().CopyTo(ctx, &out, "COPY (SELECT email FROM account WHERE email LIKE 'c%@go') TO STDOUT")
	check(err)
	equal(strings.Count(out.String(), "\n"), 500, "copied out")
}

func cursors(pool *pgxpool.Pool) {
	tx, err := pool.Begin(ctx)
	check(err)
	_, err = tx.Exec(ctx, "DECLARE c CURSOR FOR SELECT id FROM account ORDER BY id")
	check(err)
	for range 3 {
		rows, err := tx.Query(ctx, "FETCH 10 FROM c")
		check(err)
		found, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		check(err)
		equal(len(found), 10, "fetched")
	}
	check(tx.Rollback(ctx))
}

func cancels(pool *pgxpool.Pool) {
	connection, err := pool.Acquire(ctx)
	check(err)
	defer connection.Release()
	done := make(chan error)
	go func() {
		_, err := connection.Exec(ctx, "SELECT pg_sleep(60)")
		done <- err
	}()
	for one[int](pool, "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'") == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	check(connection.Conn().PgConn().CancelRequest(ctx))
	equal(code(<-done), "57014", "cancelled")
	equal(one[int](connection, "SELECT 7"), 7, "after a cancel")
}

func listens(url string) {
	connection, err := pgx.Connect(ctx, url)
	check(err)
	defer connection.Close(ctx)
	_, err = connection.Exec(ctx, "LISTEN news")
	check(err)
	other, err := pgx.Connect(ctx, url)
	check(err)
	defer other.Close(ctx)
	_, err = other.Exec(ctx, "SELECT pg_notify('news', $1)", "hello")
	check(err)
	heard, err := connection.WaitForNotification(ctx)
	check(err)
	equal(heard.Payload, "hello", "heard")
}

func failures(pool *pgxpool.Pool) {
	text := "/* ü */ UPDATE account SET nope = $1"
	_, err := pool.Exec(ctx, text, 1)
	var failure *pgconn.PgError
	if !errors.As(err, &failure) {
		panic(err)
	}
	equal(failure.Code, "42703", "code")
	equal(failure.Position, 28, "position")
	_, err = pool.Exec(ctx, "INSERT INTO account (email) VALUES ('t@go')")
	equal(code(err), "23505", "unique")
}

func reconnects(url string) {
	for n := range 10 {
		connection, err := pgx.Connect(ctx, url)
		check(err)
		equal(one[int](connection, "SELECT $1::int", n), n, "reconnected")
		check(connection.Close(ctx))
	}
}

func main() {
	pool, err := pgxpool.New(ctx, os.Args[1])
	check(err)
	prepared(pool)
	pipelined(pool)
	transactions(pool)
	copies(pool)
	cursors(pool)
	cancels(pool)
	failures(pool)
	pool.Close()
	listens(os.Args[1])
	reconnects(os.Args[1])
	fmt.Println("done")
}
