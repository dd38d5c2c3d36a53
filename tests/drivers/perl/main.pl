# Perl's DBD::Pg: parameters of many types, transactions, savepoints, fetching, COPY, large objects, notices,
# errors, asynchronous queries and cancel, reconnect, notifications (session mode), forty at once.
# SERVER_PREPARE is its pg_server_prepare; the driver's own, 1, where it is not set.

use strict;
use warnings;
use utf8;
use DBI;
use DBD::Pg qw(:pg_types :async);
use Digest::MD5 qw(md5_hex);
use POSIX ();

binmode STDOUT, ':utf8';
$| = 1;
my $table = $ENV{PGTABLE};
my $session = $ENV{POOL_MODE} ne 'transaction';

sub connection {
    return DBI->connect('dbi:Pg:', undef, undef, {
        RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1,
        defined $ENV{SERVER_PREPARE} ? (pg_server_prepare => $ENV{SERVER_PREPARE}) : (),
    });
}

sub check {
    my ($what, $is, $wanted) = @_;
    die "$what: $is, not $wanted at line " . (caller)[2] . "\n" unless $is eq $wanted;
}

# Runs this; dies unless PostgreSQL answers with that SQLSTATE.
sub expect {
    my ($state, $action) = @_;
    eval { $action->(); 1 } and die "no error $state at line " . (caller)[2] . "\n";
    my $is = $DBI::state // '';
    die "$is, not $state at line " . (caller)[2] . ": $@" unless $is eq $state;
    print "$state ", $@ =~ /ERROR:\s+([^\n]*)/ ? $1 : $@, "\n";
}

sub rows { join '; ', map { join ',', map { $_ // 'NULL' } @$_ } @{ $_[0] } }

my $db = connection();
$db->do("create table $table (id int primary key, name text, amount numeric, raw bytea, at timestamptz, tags text[], "
    . 'data jsonb, yes bool, big int8, ratio float8)');
my $insert = $db->prepare("insert into $table values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
for my $n (0 .. 99) {
    $insert->bind_param(1, $n);
    $insert->bind_param(2, $n % 7 ? "näme $n 🐘" : undef);
    $insert->bind_param(3, "$n.50");
    $insert->bind_param(4, pack('C3', $n, 0, 255), { pg_type => PG_BYTEA });
    $insert->bind_param(5, '2024-02-29 12:00:00+00');
    $insert->bind_param(6, ['a', "$n"]);
    $insert->bind_param(7, "{\"n\": $n}");
    $insert->bind_param(8, $n % 2 ? 't' : 'f');
    $insert->bind_param(9, '1099511627776');
    $insert->bind_param(10, $n / 8);
    check('inserted', $insert->execute, 1);
}
print rows($db->selectall_arrayref("select id, name, amount, encode(raw, 'hex'), at, tags[2], data, yes, big, ratio "
        . "from $table where id = any(?) order by id", undef, [0, 1, 77])), "\n";
check('bytes', $db->selectrow_array("select raw from $table where id = ?", undef, 5), "\x05\x00\xff");
my $select = $db->prepare("select name from $table where id = ?");
for my $n (1 .. 6) {
    check('row', $db->selectrow_array($select, undef, $n), "näme $n 🐘");
}
check('types', join(',', @{ $select->{pg_type} // $select->{TYPE} }) ne '', 1);
print "rows\n";

$db->begin_work;
$db->do("update $table set name = 'changed' where id < ?", undef, 10);
$db->rollback;
check('rolled back', $db->selectrow_array("select count(*) from $table where name = 'changed'"), 0);
$db->begin_work;
$db->pg_savepoint('here');
expect('23505', sub { $db->do("insert into $table (id) values (?)", undef, 1) });
expect('25P02', sub { $db->do('select 1') });
expect('25P02', sub { $db->selectrow_array('select ?::int', undef, 1) });
$db->pg_rollback_to('here');
$db->do("insert into $table (id, name) values (?, ?)", undef, 1000, 'kept');
$db->commit;
check('kept', $db->selectrow_array($select, undef, 1000), 'kept');
expect('22P02', sub { $db->selectrow_array('select ?::int', undef, 'x') });
expect('42P01', sub { $db->selectrow_array('select * from nowhere where x = ?', undef, 1) });
expect('22012', sub { $db->do('select 1; select 1/0; select 2') });
print "transactions and errors\n";

my $many = $db->prepare('select n, md5(n::text) from generate_series(1, ?) n');
$many->execute(20_000);
my ($count, $text) = (0, '');
while (my $row = $many->fetchrow_arrayref) { $count++; $text .= join ',', @$row }
print "$count rows ", md5_hex($text), "\n";
my $large = 'x' x 3_000_000;
check('large value', $db->selectrow_array('select ?::text', undef, $large) eq $large, 1);
my $batch = $db->prepare("insert into $table (id, name) values (?, ?)");
$db->begin_work;
check('batch', $batch->execute_array({}, [1100 .. 1299], [map { "batch $_" } 1100 .. 1299]), 200);
$db->commit;
$db->begin_work;
$db->do("declare stepwise cursor for select id from $table order by id");
check('cursor', rows($db->selectall_arrayref('fetch 3 from stepwise')), '0; 1; 2');
$db->commit;
# More statements than anybody wants to keep, each closed when it goes out of scope.
for my $round (1, 2) {
    for my $n (1 .. 150) {
        my $short = $db->prepare("select ?::int + $n");
        for my $again (1 .. 3) { check('short', $db->selectrow_array($short, undef, $again), $n + $again) }
    }
}
print "many\n";

$db->do("copy $table (id, name) from stdin");
$db->pg_putcopydata((2000 + $_) . "\tcopied ü\n") for 0 .. 2999;
$db->pg_putcopyend;
$db->do("copy (select id, name from $table where id >= 2000) to stdout");
my ($line, $copied) = ('', 0);
while ($db->pg_getcopydata($line) >= 0) { $copied++ if $line =~ /copied ü$/ }
check('copied', $copied, 3000);
$db->do("copy $table (id) from stdin");
$db->pg_putcopydata("no number\n");
expect('22P02', sub { $db->pg_putcopyend });
print "copy\n";

$db->begin_work;
my $buffer = '';
my $oid = $db->pg_lo_creat($db->{pg_INV_WRITE} | $db->{pg_INV_READ});
my $object = $db->pg_lo_open($oid, $db->{pg_INV_WRITE} | $db->{pg_INV_READ});
$db->pg_lo_write($object, 'y' x 100_000, 100_000);
$db->pg_lo_lseek($object, 0, 0);
check('large object', $db->pg_lo_read($object, $buffer, 200_000), 100_000);
$db->pg_lo_close($object);
$db->pg_lo_unlink($oid);
$db->commit;
print "large object\n";

my @notices;
{
    local $SIG{__WARN__} = sub { push @notices, $_[0] };
    local $db->{PrintWarn} = 1;
    $db->do("do \$\$ begin raise notice 'hear %', 'this'; end \$\$");
}
print map { /(NOTICE:\s+\w+ \w+)/ ? "$1\n" : $_ } @notices;

my $all = $db->prepare("select * from $table where id = ?");
for (1 .. 3) { check('all', scalar(@{ $db->selectrow_arrayref($all, undef, 1000) }), 10) }
$db->do("alter table $table add column more int default 7");
check('look', $db->selectrow_array($select, undef, 1000), 'kept');
# A handle that PostgreSQL has no statement for does not expect another shape: DBD::Pg 3.16 crashes.
if (($ENV{SERVER_PREPARE} // 1) and !eval { $db->selectrow_arrayref($all, undef, 1000); 1 }) {
    check($@, $DBI::state, '0A000');
}
$all = $db->prepare("select * from $table where id = ?");
check('all', scalar(@{ $db->selectrow_arrayref($all, undef, 1000) }), 11);
print "alter table\n";

$db->do('select pg_sleep(20)', { pg_async => PG_ASYNC });
check('under way', $db->pg_ready, 0);
# A cancel that overtakes its query is lost, with or without a pooler.
my $watch = connection();
select undef, undef, undef, 0.005
    until $watch->selectrow_array("select count(*) from pg_stat_activity where wait_event = 'PgSleep'");
$watch->disconnect;
$db->pg_cancel;
my $later = $db->prepare('select ?::int * 2 from pg_sleep(0.1)', { pg_async => PG_ASYNC });
$later->execute(21);
$db->pg_result;
check('later', $later->fetchrow_array, 42);
$db->begin_work;
$db->do("set local statement_timeout = '100ms'");
expect('57014', sub { $db->do('select pg_sleep(20)') });
$db->rollback;
check('alive', $db->selectrow_array('select 1'), 1);
check('ping', $db->ping > 0, 1);
print "async, cancel, timeout\n";

eval { $db->do('select pg_terminate_backend(pg_backend_pid())'); 1 } and die 'it is still there';
print $@ =~ /(terminating connection[^\n]*)/ ? "$1\n" : "unexpected: $@";
check('gone', $db->ping, 0);
$db->disconnect;
$db = connection();
check('back', $db->selectrow_array('select ?::int', undef, 3), 3);
print "reconnected\n";

if ($session) {
    my $other = connection();
    $db->do('listen news');
    $other->do('select pg_notify(?, ?)', undef, 'news', 'grüße');
    my $heard;
    for (1 .. 100) { last if $heard = $db->pg_notifies; select undef, undef, undef, 0.05 }
    print "session: $heard->[0] $heard->[2]\n";
    $other->disconnect;
}
$db->disconnect;

# Forty processes; each has connections and statements of its own.
my @children;
for my $number (0 .. 39) {
    my $child = fork // die 'no fork';
    if ($child) { push @children, $child; next }
    my $fine = eval {
        my $mine = connection();
        my $same = $mine->prepare("update $table set name = ? where id = ? returning name");
        my $own = $mine->prepare("select ?::int + $number");
        for my $n (1 .. 15) {
            $mine->begin_work;
            check('same', $mine->selectrow_array($same, undef, "by $number", $number), "by $number");
            check('own', $mine->selectrow_array($own, undef, $n), $n + $number);
            $mine->commit;
            check('own', $mine->selectrow_array($own, undef, -$n), $number - $n);
        }
        $mine->disconnect;
        1;
    };
    print STDERR $@ unless $fine;
    POSIX::_exit($fine ? 0 : 1);
}
for (@children) { waitpid $_, 0; die "a child failed\n" if $? }
print "forty at once\ndone\n";
