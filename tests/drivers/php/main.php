<?php
// PHP's PDO: parameters of many types, transactions, savepoints, batches, COPY, large objects, errors, timeouts,
// reconnect, notifications (session mode), forty at once. EMULATE is PDO::ATTR_EMULATE_PREPARES, the driver's own
// value where it is not set. Asynchronous queries, cancel and notices are those of PHP's pgsql.

declare(strict_types=1);

$table = getenv('PGTABLE');
$session = getenv('POOL_MODE') !== 'transaction';

function connection(): PDO
{
    $options = [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION];
    if (getenv('EMULATE') !== false) {
        $options[PDO::ATTR_EMULATE_PREPARES] = getenv('EMULATE') === '1';
    }
    $where = sprintf('pgsql:host=%s;port=%s;dbname=%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'));
    return new PDO($where, getenv('PGUSER'), getenv('PGPASSWORD'), $options);
}

function check(string $what, mixed $is, mixed $wanted): void
{
    if ($is !== $wanted) {
        throw new LogicException("$what: " . var_export($is, true) . ', not ' . var_export($wanted, true));
    }
}

function expect(string $state, callable $action): void
{
    try {
        $action();
    } catch (PDOException $told) {
        check($told->getMessage(), $told->errorInfo[0], $state);
        echo $state, ' ', preg_match('/ERROR:\s+([^\n]*)/', $told->getMessage(), $found) ? $found[1] : '', "\n";
        return;
    }
    throw new LogicException("no error $state");
}

function one(PDO $db, string $sql, array $parameters = []): mixed
{
    $statement = $db->prepare($sql);
    $statement->execute($parameters);
    return $statement->columnCount() ? $statement->fetchColumn() : null;
}

$db = connection();
$db->exec("create table $table (id int primary key, name text, amount numeric, raw bytea, at timestamptz, tags text[], "
    . 'data jsonb, yes bool, big int8, ratio float8)');
$insert = $db->prepare("insert into $table values (:id, :name, :amount, :raw, :at, :tags, :data, :yes, :big, :ratio)");
for ($n = 0; $n < 100; $n++) {
    $insert->bindValue('id', $n, PDO::PARAM_INT);
    $insert->bindValue('name', $n % 7 ? "näme $n 🐘" : null, $n % 7 ? PDO::PARAM_STR : PDO::PARAM_NULL);
    $insert->bindValue('amount', "$n.50");
    $insert->bindValue('raw', pack('C3', $n, 0, 255), PDO::PARAM_LOB);
    $insert->bindValue('at', '2024-02-29 12:00:00+00');
    $insert->bindValue('tags', "{a,$n}");
    $insert->bindValue('data', json_encode(['n' => $n]));
    $insert->bindValue('yes', $n % 2 === 0, PDO::PARAM_BOOL);
    $insert->bindValue('big', 2 ** 40 + $n, PDO::PARAM_INT);
    $insert->bindValue('ratio', (string) ($n / 8));
    $insert->execute();
    check('inserted', $insert->rowCount(), 1);
}
$select = $db->prepare("select *, encode(raw, 'hex') as hex from $table where id = any(?::int[]) order by id");
$select->execute(['{0,1,77}']);
foreach ($select->fetchAll(PDO::FETCH_ASSOC) as $row) {
    unset($row['raw']);
    echo json_encode($row, JSON_UNESCAPED_UNICODE), "\n";
}
$select = $db->prepare("select raw from $table where id = ?");
$select->execute([5]);
check('bytes', stream_get_contents($select->fetchColumn()), "\x05\x00\xff");
$select = $db->prepare("select name from $table where id = ?");
for ($n = 1; $n < 7; $n++) {
    $select->execute([$n]);
    check('row', $select->fetchColumn(), "näme $n 🐘");
}
$meta = $select->getColumnMeta(0);
echo "rows ", $meta['name'], ' ', $meta['native_type'], "\n";

$db->beginTransaction();
$db->exec("update $table set name = 'changed' where id < 10");
$db->rollBack();
check('rolled back', one($db, "select count(*) from $table where name = ?", ['changed']), 0);
$db->beginTransaction();
$db->exec('savepoint here');
expect('23505', fn() => one($db, "insert into $table (id) values (?)", [1]));
expect('25P02', fn() => one($db, 'select 1'));
expect('25P02', fn() => one($db, 'select ?::int', [1]));
$db->exec('rollback to here');
one($db, "insert into $table (id, name) values (?, ?)", [1000, 'kept']);
check('in a transaction', $db->inTransaction(), true);
$db->commit();
check('kept', one($db, "select name from $table where id = ?", [1000]), 'kept');
expect('22P02', fn() => one($db, 'select ?::int', ['x']));
expect('42P01', fn() => one($db, 'select * from nowhere where x = ?', [1]));
expect('22012', fn() => $db->exec('select 1; select 1/0; select 2'));
echo "transactions and errors\n";

$many = $db->prepare('select n, md5(n::text) from generate_series(1, ?) n');
$many->execute([20000]);
[$rows, $digest] = [0, hash_init('md5')];
foreach ($many as $row) {
    $rows++;
    hash_update($digest, "$row[0],$row[1]");
}
echo "$rows rows ", hash_final($digest), "\n";
$large = str_repeat('x', 3_000_000);
check('large value', one($db, 'select ?::text', [$large]) === $large, true);
$db->beginTransaction();
$scroll = $db->prepare("select id from $table order by id", [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
$scroll->execute();
check('cursor', $scroll->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_ABS, 50), [49]);
check('cursor', $scroll->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_PRIOR), [48]);
$scroll = null;
$db->commit();
// More statements than anybody wants to keep, each closed as it goes.
for ($round = 0; $round < 2; $round++) {
    for ($n = 0; $n < 150; $n++) {
        check('short', one($db, "select ?::int + $n", [$round]), $n + $round);
    }
}
echo "many\n";

check('copied in', $db->pgsqlCopyFromArray("$table (id, name)", array_map(fn($n) => "$n\tcopied ü\n", range(2000, 4999))), true);
check('copied out', count($db->pgsqlCopyToArray("(select id from $table where id >= 2000)")), 3000);
expect('22P02', fn() => $db->pgsqlCopyFromArray("$table (id)", ["no number\n"]));
echo "copy\n";

$db->beginTransaction();
$oid = $db->pgsqlLOBCreate();
$object = $db->pgsqlLOBOpen($oid, 'w');
check('written', fwrite($object, str_repeat('y', 100_000)), 100_000);
fclose($object);
check('large object', strlen(stream_get_contents($db->pgsqlLOBOpen($oid))), 100_000);
$db->pgsqlLOBUnlink($oid);
$db->commit();
echo "large object\n";

$all = $db->prepare("select * from $table where id = ?");
$all->execute([1000]);
check('all', $all->columnCount(), 10);
$all->fetchAll();
$db->exec("alter table $table add column more int default 7");
$select->execute([1000]);
check('look', $select->fetchColumn(), 'kept');
try {
    // A handle that PostgreSQL has no statement for does not expect another shape: PHP 8.2 crashes.
    if (getenv('EMULATE') !== '1') {
        $all->execute([1000]);
        $all->fetchAll();
    }
} catch (PDOException $told) {
    check($told->getMessage(), $told->errorInfo[0], '0A000');
}
$all = $db->prepare("select * from $table where id = ?");
$all->execute([1000]);
check('all', $all->columnCount(), 11);
$all->fetchAll();
echo "alter table\n";

$db->beginTransaction();
$db->exec("set local statement_timeout = '100ms'");
expect('57014', fn() => $db->query('select pg_sleep(20)'));
$db->rollBack();
check('alive', one($db, 'select ?::int', [1]), 1);
echo "timeout\n";

try {
    $db->query('select pg_terminate_backend(pg_backend_pid())');
    throw new LogicException('it is still there');
} catch (PDOException $told) {
    echo preg_match('/terminating connection[^\n]*/', $told->getMessage(), $found) ? $found[0] : $told->getMessage(), "\n";
}
$db = connection();
check('back', one($db, 'select ?::int', [3]), 3);
echo "reconnected\n";

if ($session) {
    $other = connection();
    $db->exec('listen news');
    one($other, 'select pg_notify(?, ?)', ['news', 'grüße']);
    $heard = $db->pgsqlGetNotify(PDO::FETCH_ASSOC, 10000);
    echo "session: $heard[message] $heard[payload]\n";
    $other = null;
}
$db = null;

$plain = pg_connect('');
pg_prepare($plain, 'plus', 'select $1::int + 1');
check('plus', pg_fetch_result(pg_execute($plain, 'plus', [41]), 0, 0), '42');
check('params', pg_fetch_result(pg_query_params($plain, 'select $1::text', ['ü']), 0, 0), 'ü');
pg_query($plain, "do $$ begin raise notice 'hear %', 'this'; end $$");
echo pg_last_notice($plain), "\n";
// A cancel that overtakes its query is lost, with or without a pooler.
pg_send_query_params($plain, 'select $1::int from pg_sleep(20)', [1]);
$other = connection();
while (one($other, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'") === 0) {
    usleep(5000);
}
check('cancelled', pg_cancel_query($plain), true);
check('wrong', @pg_query($plain, 'select 1/0'), false);
check('plus', pg_fetch_result(pg_execute($plain, 'plus', [1]), 0, 0), '2');
pg_close($plain);
echo "pgsql\n";

// Forty processes, each with a connection of its own.
$children = [];
for ($number = 0; $number < 40; $number++) {
    $child = pcntl_fork();
    if ($child !== 0) {
        $children[] = $child;
        continue;
    }
    try {
        $mine = connection();
        $same = $mine->prepare("update $table set name = ? where id = ? returning name");
        $own = $mine->prepare("select ?::int + $number");
        for ($n = 0; $n < 15; $n++) {
            $mine->beginTransaction();
            $same->execute(["by $number", $number]);
            check('same', $same->fetchColumn(), "by $number");
            $own->execute([$n]);
            check('own', $own->fetchColumn(), $n + $number);
            $mine->commit();
            $own->execute([-$n]);
            check('own', $own->fetchColumn(), $number - $n);
        }
        exit(0);
    } catch (Throwable $problem) {
        fwrite(STDERR, "$problem\n");
        exit(1);
    }
}
foreach ($children as $child) {
    pcntl_waitpid($child, $status);
    check('a child', $status, 0);
}
echo "forty at once\ndone\n";
