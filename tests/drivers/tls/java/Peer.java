import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.security.MessageDigest;
import java.sql.*;
import java.util.Properties;

/**
 * JDBC over JSSE, one connection: a round of work for every line read. The version is that of
 * jdk.tls.client.protocols, the suite that of jdk.tls.client.cipherSuites, and how often JSSE changes its keys is
 * what the security property jdk.tls.keyLimits says.
 */
public class Peer {
    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        properties.put("sslmode", "verify-full");
        properties.put("sslrootcert", System.getenv("PGSSLROOTCERT"));
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
            + System.getenv("PGDATABASE");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        try (Connection connection = DriverManager.getConnection(url, properties)) {
            System.out.println("connected");
            while (lines.readLine() != null) {
                round(connection);
                System.out.println("round");
            }
        }
        System.out.println("done");
    }

    static void round(Connection connection) throws Exception {
        try (PreparedStatement small = connection.prepareStatement("select ?::int + 1")) {
            for (int n = 0; n < 50; n++) {
                small.setInt(1, n);
                try (ResultSet result = small.executeQuery()) {
                    check(result.next() && result.getInt(1) == n + 1, "row " + n);
                }
            }
        }
        try (Statement large = connection.createStatement();
             ResultSet result = large.executeQuery("select repeat(n::text, 200) from generate_series(1, 3000) n")) {
            int n = 0;
            while (result.next()) {
                n++;
                check(result.getString(1).equals(Integer.toString(n).repeat(200)), "large row " + n);
            }
            check(n == 3000, n + " rows");
        }
        String sent = "0123456789".repeat(100_000);
        byte[] digest = MessageDigest.getInstance("MD5").digest(sent.getBytes());
        StringBuilder hex = new StringBuilder();
        for (byte one : digest) hex.append(String.format("%02x", one));
        try (PreparedStatement back = connection.prepareStatement("select md5(?)")) {
            back.setString(1, sent);
            try (ResultSet result = back.executeQuery()) {
                check(result.next() && result.getString(1).equals(hex.toString()), "a megabyte sent");
            }
        }
    }
}
