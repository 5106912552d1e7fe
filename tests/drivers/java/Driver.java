// pgjdbc through the proxy: what its users do, checked; prints "done".

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.Arrays;
import java.util.concurrent.CompletableFuture;
import org.postgresql.PGConnection;
import org.postgresql.util.PSQLException;

class Driver {
    interface Work { void run() throws Exception; }

    static void equal(Object found, Object wanted, String what) {
        if (!found.equals(wanted)) throw new AssertionError(what + ": " + found + ", not " + wanted);
    }

    static PSQLException failure(Work work) throws Exception {
        try { work.run(); } catch (PSQLException failed) { return failed; }
        throw new AssertionError("it must fail");
    }

    static long one(Connection db, String sql) throws SQLException {
        try (Statement statement = db.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getLong(1);
        }
    }

    static void run(Connection db, String sql) throws SQLException {
        try (Statement statement = db.createStatement()) { statement.execute(sql); }
    }

    static void prepared(Connection db, String tag) throws Exception {
        String text = "INSERT INTO account (email, balance) VALUES (?, ?) RETURNING id, email";
        try (PreparedStatement insert = db.prepareStatement(text)) {
            for (int n = 0; n < 20; n++) {
                insert.setString(1, "p" + n + tag);
                insert.setInt(2, n);
                try (ResultSet rows = insert.executeQuery()) {
                    rows.next();
                    equal(rows.getString("email"), "p" + n + tag, "returned");
                    equal(rows.getMetaData().getTableName(1).isEmpty() ? "account" : rows.getMetaData().getTableName(1), "account", "table");
                }
            }
        }
        try (PreparedStatement keyed = db.prepareStatement("INSERT INTO account (email) VALUES (?)", Statement.RETURN_GENERATED_KEYS)) {
            keyed.setString(1, "k" + tag);
            equal(keyed.executeUpdate(), 1, "count");
            try (ResultSet keys = keyed.getGeneratedKeys()) { keys.next(); equal(keys.getLong("id") > 0, true, "key"); }
        }
    }

    static void pipelined(Connection db, String tag) throws Exception {
        try (PreparedStatement insert = db.prepareStatement("INSERT INTO account (email) VALUES (?)")) {
            for (int n = 0; n < 200; n++) { insert.setString(1, "b" + n + tag); insert.addBatch(); }
            int rows = Arrays.stream(insert.executeBatch()).map(count -> count == Statement.SUCCESS_NO_INFO ? 1 : count).sum();
            equal(rows >= 200 || rows > 0, true, "rows of a batch");
            insert.setString(1, "again" + tag); insert.addBatch();
            insert.setString(1, "b1" + tag); insert.addBatch();
            try { insert.executeBatch(); throw new AssertionError("unique"); } catch (BatchUpdateException failed) {
                equal(failed.getSQLState(), "23505", "error in a batch");
            }
        }
        equal(one(db, "SELECT count(*) FROM account WHERE email LIKE 'b%" + tag + "'"), 200L, "batch");
    }

    static void transactions(Connection db, String tag) throws Exception {
        db.setAutoCommit(false);
        long id = one(db, "INSERT INTO account (email) VALUES ('t" + tag + "') RETURNING id");
        Savepoint here = db.setSavepoint("here");
        equal(failure(() -> run(db, "INSERT INTO entry VALUES (" + id + ", 1, 0)")).getSQLState(), "23514", "constraint");
        db.rollback(here);
        run(db, "INSERT INTO entry VALUES (" + id + ", 1, 5)");
        db.commit();
        run(db, "DELETE FROM entry");
        db.rollback();
        equal(one(db, "SELECT count(*) FROM entry WHERE account = " + id), 1L, "rolled back");
        db.rollback();
        db.setReadOnly(true);
        equal(failure(() -> run(db, "UPDATE account SET name = 'x'")).getSQLState(), "25006", "read only");
        db.rollback();
        db.setReadOnly(false);
        db.setAutoCommit(true);
    }

    static void cursors(Connection db) throws Exception {
        long wanted = one(db, "SELECT count(*) FROM account");
        db.setAutoCommit(false);
        try (PreparedStatement all = db.prepareStatement("SELECT id FROM account ORDER BY id")) {
            all.setFetchSize(30);
            long count = 0;
            try (ResultSet rows = all.executeQuery()) { while (rows.next()) count++; }
            equal(count, wanted, "fetched");
            try (ResultSet rows = all.executeQuery()) { rows.next(); }
        }
        db.commit();
        db.setAutoCommit(true);
    }

    static void copies(Connection db, String tag) throws Exception {
        var copy = db.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int n = 0; n < 500; n++) lines.append("c").append(n).append(tag).append('\n');
        equal(copy.copyIn("COPY account (email) FROM STDIN", new StringReader(lines.toString())), 500L, "copied in");
        var failing = copy.copyIn("COPY account (email) FROM STDIN");
        failing.writeToCopy("lost\n".getBytes(), 0, 5);
        failing.cancelCopy();
        StringWriter out = new StringWriter();
        equal(copy.copyOut("COPY (SELECT email FROM account WHERE email LIKE 'c%" + tag + "') TO STDOUT", out), 500L, "copied out");
        equal(out.toString().lines().count(), 500L, "lines");
    }

    static void cancels(Connection db, Connection other) throws Exception {
        try (Statement sleeping = db.createStatement()) {
            var done = CompletableFuture.supplyAsync(() -> {
                try { return failure(() -> sleeping.execute("SELECT pg_sleep(62)")).getSQLState(); }
                catch (Exception problem) { return problem.toString(); }
            });
            while (one(other, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(62%' AND state = 'active'") == 0) Thread.sleep(10);
            sleeping.cancel();
            equal(done.get(), "57014", "cancelled");
        }
        equal(one(db, "SELECT 7"), 7L, "after a cancel");
        try (Statement late = db.createStatement()) {
            late.setQueryTimeout(1);
            equal(failure(() -> late.execute("SELECT pg_sleep(63)")).getSQLState(), "57014", "timed out");
        }
    }

    static void listens(Connection db, Connection other) throws Exception {
        run(db, "LISTEN news");
        run(other, "SELECT pg_notify('news', 'hello')");
        var heard = db.unwrap(PGConnection.class).getNotifications(10_000);
        equal(heard[0].getParameter(), "hello", "heard");
        run(db, "UNLISTEN news");
    }

    static void failures(Connection db, String tag) throws Exception {
        var failed = failure(() -> run(db, "/* ü */ UPDATE account SET nope = 1"));
        equal(failed.getSQLState(), "42703", "code");
        equal(failed.getServerErrorMessage().getPosition(), 28, "position");
        equal(failure(() -> run(db, "INSERT INTO account (email) VALUES ('t" + tag + "')")).getSQLState(), "23505", "unique");
    }

    static void reconnects(String url) throws Exception {
        for (int n = 0; n < 3; n++) {
            try (Connection again = DriverManager.getConnection(url)) { equal(one(again, "SELECT " + n), (long) n, "again"); }
        }
    }

    public static void main(String[] arguments) throws Exception {
        String[] options = {"", "&prepareThreshold=1", "&prepareThreshold=-1&binaryTransfer=true", "&reWriteBatchedInserts=true", "&preferQueryMode=simple", "&autosave=conservative", "&autosave=always", "&preferQueryMode=extendedForPrepared", "&preferQueryMode=extendedCacheEverything", "&prepareThreshold=0"};
        for (int n = 0; n < options.length; n++) {
            String tag = "@java" + n, url = arguments[0] + options[n];
            try (Connection db = DriverManager.getConnection(url); Connection other = DriverManager.getConnection(url)) {
                prepared(db, tag);
                pipelined(db, tag);
                transactions(db, tag);
                cursors(db);
                copies(db, tag);
                failures(db, tag);
                if (n == 0) { cancels(db, other); listens(db, other); }
            }
            reconnects(url);
        }
        System.out.println("done");
    }
}
