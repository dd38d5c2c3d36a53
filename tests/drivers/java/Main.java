import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.*;
import org.postgresql.PGConnection;

/** JDBC: rows, batches, transactions, savepoints, fetch size, COPY, large objects, errors, cancel, many at once. */
public class Main {
    static final String TABLE = System.getenv("PGTABLE");

    static Connection connect() throws SQLException {
        Properties properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        // Unset: the driver's own, 5. With 1 everything is prepared under a name at its first use.
        String threshold = System.getenv("PREPARE_THRESHOLD");
        if (threshold != null) properties.put("prepareThreshold", threshold);
        return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":"
            + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), properties);
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static long count(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet result = statement.executeQuery(sql)) {
            result.next();
            return result.getLong(1);
        }
    }

    static void expect(String state, Callable<?> action) throws Exception {
        try {
            action.call();
        } catch (SQLException told) {
            check(state.equals(told.getSQLState()), told.getSQLState() + " " + told.getMessage());
            return;
        }
        throw new AssertionError("no error " + state);
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection connection = connect(); Statement plain = connection.createStatement()) {
            plain.execute("create table " + TABLE + " (id int primary key, name text)");
            try (PreparedStatement insert = connection.prepareStatement("insert into " + TABLE + " values (?, ?)")) {
                for (int n = 0; n < 500; n++) {
                    insert.setInt(1, n);
                    insert.setString(2, "näme " + n);
                    insert.addBatch();
                }
                insert.executeBatch();
            }
            try (PreparedStatement select = connection.prepareStatement("select name from " + TABLE + " where id = ?")) {
                for (int n = 0; n < 20; n++) {
                    select.setInt(1, n);
                    try (ResultSet result = select.executeQuery()) {
                        check(result.next() && result.getString(1).equals("näme " + n), "row " + n);
                    }
                }
            }
            System.out.println("rows and batches");

            connection.setAutoCommit(false);
            plain.execute("delete from " + TABLE);
            expect("22012", () -> plain.execute("select 1/0"));
            expect("25P02", () -> plain.execute("select 1"));
            connection.rollback();
            Savepoint savepoint = connection.setSavepoint();
            expect("23505", () -> plain.execute("insert into " + TABLE + " values (1)"));
            connection.rollback(savepoint);
            plain.execute("insert into " + TABLE + " values (1000, 'kept')");
            connection.commit();
            check(count(connection, "select count(*) from " + TABLE) == 501, "501 rows");
            System.out.println("transactions and savepoints");

            plain.setFetchSize(50);
            int seen = 0;
            try (ResultSet result = plain.executeQuery("select * from " + TABLE)) {
                while (result.next()) seen++;
            }
            check(seen == 501, "fetched " + seen);
            plain.setFetchSize(0);
            connection.commit();
            System.out.println("fetch size");

            var copy = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder data = new StringBuilder();
            for (int n = 2000; n < 5000; n++) data.append(n).append("\tcopied\n");
            check(copy.copyIn("copy " + TABLE + " from stdin", new StringReader(data.toString())) == 3000, "copied in");
            check(copy.copyOut("copy " + TABLE + " to stdout", new StringWriter()) == 3501, "copied out");
            connection.commit();
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

            connection.setAutoCommit(true);
            Statement slow = connection.createStatement();
            var timer = Executors.newSingleThreadScheduledExecutor();
            timer.schedule(() -> { slow.cancel(); return null; }, 300, TimeUnit.MILLISECONDS);
            expect("57014", () -> slow.execute("select pg_sleep(20)"));
            timer.shutdown();
            check(count(connection, "select 1") == 1, "alive after cancel");
            System.out.println("cancel");
        }

        ExecutorService threads = Executors.newFixedThreadPool(12);
        List<Future<?>> running = new ArrayList<>();
        for (int each = 0; each < 12; each++) {
            int number = each;
            running.add(threads.submit(() -> {
                try (Connection mine = connect()) {
                    mine.setAutoCommit(false);
                    for (int n = 0; n < 20; n++) {
                        try (PreparedStatement update = mine.prepareStatement(
                                "update " + TABLE + " set name = ? where id = ? returning name")) {
                            update.setString(1, "by " + number);
                            update.setInt(2, number);
                            ResultSet result = update.executeQuery();
                            check(result.next() && result.getString(1).equals("by " + number), "own row");
                        }
                        mine.commit();
                    }
                }
                return null;
            }));
        }
        for (Future<?> each : running) each.get();
        threads.shutdown();
        System.out.println("twelve at once");
        System.out.println("done");
    }
}
