import java.io.ByteArrayInputStream;
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.security.MessageDigest;
import java.sql.*;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.*;
import org.postgresql.PGConnection;

/**
 * JDBC: rows, parameters of many types, batches, transactions, savepoints, fetch size, COPY, large objects, notices, errors,
 * cancel, timeouts, reconnect, notifications (session mode), forty at once. The arguments are properties of the driver,
 * name=value; without any, they are the driver's own.
 */
public class Main {
    static final String TABLE = System.getenv("PGTABLE");
    static final boolean SESSION = !"transaction".equals(System.getenv("POOL_MODE"));
    static final Properties PROPERTIES = new Properties();

    static Connection connect() throws SQLException {
        Properties properties = new Properties();
        properties.putAll(PROPERTIES);
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":"
            + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), properties);
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    /** One column of all rows of a query with parameters, joined by commas. */
    static String ask(Connection connection, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) statement.setObject(i + 1, parameters[i]);
            StringBuilder all = new StringBuilder();
            if (statement.execute()) {
                try (ResultSet result = statement.getResultSet()) {
                    while (result.next()) all.append(all.length() == 0 ? "" : ",").append(result.getString(1));
                }
            }
            return all.toString();
        }
    }

    static void check(String wanted, Connection connection, String sql, Object... parameters) throws SQLException {
        String is = ask(connection, sql, parameters);
        check(wanted.equals(is), sql + ": " + is + ", not " + wanted);
    }

    static void expect(String state, Callable<?> action) throws Exception {
        try {
            action.call();
        } catch (SQLException told) {
            check(state.equals(told.getSQLState()), told.getSQLState() + " " + told.getMessage());
            System.out.println(state + " " + told.getMessage().split("\n")[0]);
            return;
        }
        throw new AssertionError("no error " + state);
    }

    static void rows(Connection connection) throws Exception {
        try (Statement plain = connection.createStatement()) {
            plain.execute("create table " + TABLE + " (id int primary key, name text, amount numeric, raw bytea, at timestamptz, "
                + "tags text[], key uuid, yes bool, big int8, ratio float8, small int2, day date)");
        }
        try (PreparedStatement insert = connection.prepareStatement(
                "insert into " + TABLE + " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")) {
            for (int n = 0; n < 500; n++) {
                insert.setInt(1, n);
                insert.setString(2, n % 7 == 0 ? null : "näme " + n + " 🐘");
                insert.setBigDecimal(3, new BigDecimal(n + ".50"));
                insert.setBytes(4, new byte[] {(byte) n, 0, (byte) 255});
                insert.setObject(5, OffsetDateTime.parse("2024-02-29T12:00:00Z"));
                insert.setArray(6, connection.createArrayOf("text", new String[] {"a", "" + n}));
                insert.setObject(7, new UUID(0, n));
                insert.setBoolean(8, n % 2 == 0);
                insert.setLong(9, (1L << 40) + n);
                insert.setDouble(10, n / 8.0);
                if (n % 3 == 0) insert.setNull(11, Types.SMALLINT); else insert.setShort(11, (short) n);
                insert.setDate(12, Date.valueOf("2024-02-29"));
                insert.addBatch();
            }
            check(Arrays.stream(insert.executeBatch()).allMatch(one -> one == 1 || one == Statement.SUCCESS_NO_INFO), "batch");
        }
        try (PreparedStatement select = connection.prepareStatement("select * from " + TABLE + " where id = ?")) {
            for (int n : new int[] {0, 1, 2, 3, 4, 5, 6, 77}) {
                select.setInt(1, n);
                try (ResultSet row = select.executeQuery()) {
                    check(row.next(), "row");
                    System.out.println(row.getInt(1) + " " + row.getString(2) + " " + row.getBigDecimal(3) + " "
                        + Arrays.toString(row.getBytes(4)) + " " + row.getObject(5, OffsetDateTime.class).toInstant() + " "
                        + Arrays.toString((Object[]) row.getArray(6).getArray()) + " " + row.getObject(7) + " " + row.getBoolean(8)
                        + " " + row.getLong(9) + " " + row.getDouble(10) + " " + row.getObject(11) + " " + row.getDate(12));
                    check(!row.next(), "one row");
                }
            }
            System.out.println(select.getMetaData().getColumnTypeName(7) + " " + select.getParameterMetaData().getParameterTypeName(1));
        }
        try (ResultSet columns = connection.getMetaData().getColumns(null, "public", TABLE, "n%")) {
            check(columns.next(), "metadata");
            System.out.println("rows " + columns.getString("COLUMN_NAME") + " " + columns.getString("TYPE_NAME"));
        }
    }

    static void batches(Connection connection) throws Exception {
        // More than fits into one of the driver's batches, with keys that come back and without.
        for (int keys : new int[] {Statement.NO_GENERATED_KEYS, Statement.RETURN_GENERATED_KEYS}) {
            try (PreparedStatement insert = connection.prepareStatement("insert into " + TABLE + " (id, name) values (?, ?)", keys)) {
                for (int n = 0; n < 5000; n++) {
                    insert.setInt(1, 10000 + 10000 * keys + n);
                    insert.setString(2, "of a large batch, and long enough that the replies fill buffers: ü " + n);
                    insert.addBatch();
                }
                check(insert.executeBatch().length == 5000, "large batch");
                if (keys == Statement.RETURN_GENERATED_KEYS) {
                    int returned = 0;
                    for (ResultSet generated = insert.getGeneratedKeys(); generated.next();) returned++;
                    check(returned == 5000, "generated keys");
                }
            }
        }
        check("10000", connection, "select count(*) from " + TABLE + " where id >= ?", 10000);
        try (Statement mixed = connection.createStatement()) {
            mixed.addBatch("update " + TABLE + " set name = 'mixed' where id < 10");
            mixed.addBatch("delete from " + TABLE + " where id >= 10000");
            mixed.addBatch("insert into " + TABLE + " (id) values (2)");
            mixed.addBatch("select never_reached");
            mixed.executeBatch();
            throw new AssertionError("no error");
        } catch (BatchUpdateException told) {
            check("23505".equals(told.getSQLState()), told.getMessage());
        }
        System.out.println("batches " + ask(connection, "select count(*) from " + TABLE + " where id >= 10000 or name = 'mixed'"));
        ask(connection, "delete from " + TABLE + " where id >= 10000");
    }

    static void transactions(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (Statement plain = connection.createStatement()) {
            plain.execute("delete from " + TABLE);
            expect("22012", () -> plain.execute("select 1/0"));
            if (!"always".equals(PROPERTIES.get("autosave"))) {
                expect("25P02", () -> plain.execute("select 1"));
                expect("25P02", () -> ask(connection, "select ?::int", 1));
            } else {
                check("1", connection, "select ?::int", 1);
            }
            connection.rollback();
            Savepoint savepoint = connection.setSavepoint();
            expect("23505", () -> ask(connection, "insert into " + TABLE + " (id) values (?)", 1));
            connection.rollback(savepoint);
            plain.execute("insert into " + TABLE + " (id, name) values (1000, 'kept')");
            connection.commit();
            expect("42P01", () -> ask(connection, "select * from nowhere where x = ?", 1));
            connection.rollback();
            expect("22P02", () -> ask(connection, "select ?::int", "x"));
            connection.rollback();
            expect("22012", () -> plain.execute("select 1; select 1/0; select 2"));
            connection.rollback();
            check(plain.execute("select 1; update " + TABLE + " set name = name where id < 3; select 3"), "results");
            check(!plain.getMoreResults() && plain.getUpdateCount() == 3 && plain.getMoreResults(), "more results");
            connection.commit();
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            connection.setReadOnly(true);
            connection.commit();
            System.out.println(ask(connection, "show transaction_isolation") + " " + ask(connection, "show transaction_read_only"));
            expect("25006", () -> plain.execute("delete from " + TABLE));
            connection.rollback();
            connection.setReadOnly(false);
            connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        }
        check("501", connection, "select count(*) from " + TABLE);
        connection.commit();
        for (int n = 0; n < 12; n++) {
            check(Integer.toString(n + 1), connection, "select ?::int + 1", n);
            connection.commit();
        }
        // More than the 256 that it keeps.
        for (int round = 0; round < 2; round++) {
            for (int n = 0; n < 300; n++) {
                check(Integer.toString(n + round), connection, "select ?::int + " + n, round);
                if (n % 10 == 0) connection.commit();
            }
        }
        connection.commit();
        System.out.println("transactions and savepoints");
    }

    static void large(Connection connection) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("MD5");
        int seen = 0;
        try (PreparedStatement many = connection.prepareStatement("select n, md5(n::text) from generate_series(1, ?) n")) {
            many.setInt(1, 20000);
            many.setFetchSize(700);
            try (ResultSet result = many.executeQuery()) {
                for (; result.next(); seen++) digest.update((result.getInt(1) + result.getString(2)).getBytes());
            }
        }
        System.out.println(seen + " rows " + new java.math.BigInteger(1, digest.digest()).toString(16));
        String large = "x".repeat(3_000_000);
        check(ask(connection, "select ?::text", large).equals(large), "large value");
        try (PreparedStatement streamed = connection.prepareStatement("select length(?)")) {
            streamed.setBinaryStream(1, new ByteArrayInputStream(new byte[1_000_000]), 1_000_000);
            ResultSet result = streamed.executeQuery();
            check(result.next() && result.getInt(1) == 1_000_000, "streamed");
        }
        connection.commit();

        var copy = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder data = new StringBuilder();
        for (int n = 2000; n < 5000; n++) data.append(n).append("\tcopied ü\n");
        check(copy.copyIn("copy " + TABLE + " (id, name) from stdin", new StringReader(data.toString())) == 3000, "copied in");
        check(copy.copyOut("copy " + TABLE + " to stdout", new StringWriter()) == 3501, "copied out");
        connection.commit();
        expect("22P02", () -> copy.copyIn("copy " + TABLE + " (id) from stdin", new StringReader("no number\n")));
        connection.rollback();
        var given_up = copy.copyIn("copy " + TABLE + " (id) from stdin");
        given_up.writeToCopy("9000\n".getBytes(), 0, 5);
        given_up.cancelCopy();
        connection.rollback();
        check("0", connection, "select count(*) from " + TABLE + " where id = ?", 9000);
        System.out.println("copy");

        // Function calls of the protocol.
        var objects = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        long oid = objects.createLO();
        var object = objects.open(oid);
        object.write(new byte[100_000]);
        object.seek(0);
        check(object.read(200_000).length == 100_000, "large object");
        object.close();
        objects.delete(oid);
        connection.commit();
        System.out.println("large objects");
    }

    static void changes(Connection connection) throws Exception {
        try (Statement plain = connection.createStatement()) {
            plain.execute("do $$ begin raise notice 'hear %', 'this'; raise warning 'and ü'; end $$");
            for (SQLWarning told = plain.getWarnings(); told != null; told = told.getNextWarning()) System.out.println(told.getMessage());
        }
        String look = "select name from " + TABLE + " where id = ?", all = "select * from " + TABLE + " where id = ?";
        for (int n = 0; n < 7; n++) {
            check("kept", connection, look, 1000);
            check("1000", connection, all, 1000);
        }
        try (Statement plain = connection.createStatement()) {
            plain.execute("alter table " + TABLE + " add column more int default 7");
        }
        connection.commit();
        check("kept", connection, look, 1000);
        try {
            check("1000", connection, all, 1000);
        } catch (SQLException told) {
            connection.rollback();
            check("0A000".equals(told.getSQLState()), told.getMessage());
            // It knows now that what it has prepared is stale.
            check("1000", connection, all, 1000);
        }
        connection.commit();
        System.out.println("alter table");
    }

    static void cancel(Connection connection) throws Exception {
        connection.setAutoCommit(true);
        try (Connection other = connect(); Statement slow = connection.createStatement()) {
            Thread timer = new Thread(() -> {
                try {
                    // A cancel that overtakes its query is lost, with or without a pooler.
                    while (ask(other, "select 1 from pg_stat_activity where wait_event = 'PgSleep'").isEmpty()) Thread.onSpinWait();
                    slow.cancel();
                } catch (SQLException problem) {
                    problem.printStackTrace();
                }
            });
            timer.start();
            expect("57014", () -> slow.execute("select pg_sleep(20)"));
            timer.join();
            slow.setQueryTimeout(1);
            expect("57014", () -> slow.execute("select pg_sleep(20)"));
            check("1", connection, "select ?::int", 1);
            System.out.println("cancel and timeout");

            if (SESSION) {
                slow.setQueryTimeout(0);
                slow.execute("listen news");
                ask(other, "select pg_notify(?, ?)", "news", "grüße");
                for (var heard : connection.unwrap(PGConnection.class).getNotifications(10000)) {
                    System.out.println("session: " + heard.getName() + " " + heard.getParameter());
                }
            }
            expect("57P01", () -> slow.execute("select pg_terminate_backend(pg_backend_pid())"));
            check(!connection.isValid(5), "gone");
            check("3", other, "select ?::int", 3);
            System.out.println("terminated");
        }
    }

    static void work(int number) throws SQLException {
        try (Connection mine = connect()) {
            mine.setAutoCommit(false);
            for (int n = 0; n < 15; n++) {
                check("by " + number, mine, "update " + TABLE + " set name = ? where id = ? returning name", "by " + number, number);
                check(Integer.toString(n + number), mine, "select ?::int + " + number, n);
                mine.commit();
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        for (String argument : arguments) PROPERTIES.put(argument.split("=")[0], argument.split("=")[1]);
        try (Connection connection = connect()) {
            rows(connection);
            batches(connection);
            transactions(connection);
            large(connection);
            changes(connection);
            cancel(connection);
        }
        ExecutorService threads = Executors.newFixedThreadPool(40);
        List<Future<?>> running = new ArrayList<>();
        for (int each = 0; each < 40; each++) {
            int number = each;
            running.add(threads.submit(() -> { work(number); return null; }));
        }
        for (Future<?> each : running) each.get();
        threads.shutdown();
        System.out.println("forty at once");
        System.out.println("done");
    }
}
