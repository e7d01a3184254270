<?php
// What applications do with PHP's PDO, through the proxy that libpq's environment variables point at.
//
// By default PDO prepares on the server, calls its statements pdo_stmt_00000001 and so on in every connection, and forgets them by
// DEALLOCATE in SQL. A persistent connection outlives the request that opened it.

declare(strict_types=1);

$parts = ['basics', 'defaults_loop', 'modes', 'transactions', 'copies', 'types', 'cursors', 'listen', 'persistent', 'plain_pgsql', 'errors', 'settings'];
connect()->exec('create table items (id serial primary key, name text, n int)');
foreach ($parts as $part) {
    $part();
    echo "ok $part\n";
}
echo "done\n";

function connect(array $options = [], string $more = ''): PDO
{
    $dsn = sprintf('pgsql:host=%s;port=%s;dbname=%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'));
    return new PDO($dsn . $more, getenv('PGUSER'), getenv('PGPASSWORD'), $options + [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

function value(PDO $c, string $sql, array $parameters = []): mixed
{
    $statement = $c->prepare($sql);
    $statement->execute($parameters);
    return $statement->fetchColumn();
}

function equal(mixed $found, mixed $wanted): void
{
    if ($found !== $wanted) {
        throw new Exception(var_export($found, true) . ' instead of ' . var_export($wanted, true));
    }
}

function expect(string $state, callable $what): void
{
    try {
        $what();
    } catch (PDOException $e) {
        equal($e->getCode(), $state);
        return;
    }
    throw new Exception("no $state");
}

function basics(): void
{
    $c = connect();
    equal(value($c, 'select ?::int + 1', [41]), 42);
    equal(value($c, 'select :a || :b', ['a' => 'x', 'b' => 'y']), 'xy');
    equal($c->exec("insert into items (name, n) values ('a', 1), ('b', 2)"), 2);
    equal($c->lastInsertId(), '2');
    equal($c->query('select name from items order by id')->fetchAll(PDO::FETCH_COLUMN), ['a', 'b']);
    $c->exec("insert into items (n) values (3); insert into items (n) values (4)");
    equal(value($c, 'select count(*) from items'), 4);
    $large = $c->query("select n, repeat('x', 1000) as s from generate_series(1, 20000) n");
    $seen = 0;
    foreach ($large as $row) {
        equal([$row['n'], strlen($row['s'])], [++$seen, 1000]);
    }
    equal($seen, 20000);
    $huge = str_repeat('y', 5000000);
    equal(value($c, 'select ?::text', [$huge]), $huge);
}

// Prepare, execute, forget, in a loop, and several clients at it.
function defaults_loop(): void
{
    $clients = [connect(), connect(), connect(), connect()];
    for ($turn = 0; $turn < 50; $turn++) {
        foreach ($clients as $i => $c) {
            $statement = $c->prepare("select 'client $i ' || ?::text");
            for ($n = 0; $n < 3; $n++) {
                $statement->execute([$n]);
                equal($statement->fetchColumn(), "client $i $n");
            }
            $statement = null;
        }
    }
    // Some of them kept.
    $kept = [];
    foreach ($clients as $i => $c) {
        for ($n = 0; $n < 5; $n++) {
            $kept["$i $n"] = $c->prepare("select '$i $n' where ?::int > 0");
        }
    }
    foreach ([1, 2] as $turn) {
        foreach ($kept as $wanted => $statement) {
            $statement->execute([$turn]);
            equal($statement->fetchColumn(), $wanted);
        }
    }
}

function modes(): void
{
    // Emulated: the values are written into the string. Without preparation: unnamed statements.
    foreach ([[PDO::ATTR_EMULATE_PREPARES => true], [PDO::PGSQL_ATTR_DISABLE_PREPARES => true], []] as $options) {
        $c = connect($options);
        $statement = $c->prepare('insert into items (name, n) values (?, ?) returning n');
        for ($n = 0; $n < 20; $n++) {
            $statement->execute(["it's", $n]);
            equal($statement->fetchColumn(), $n);
        }
        expect('22012', fn () => value($c, 'select 1/?::int', [0]));
        equal(value($c, "select 'alive'"), 'alive');
    }
}

function transactions(): void
{
    $c = connect();
    $c->beginTransaction();
    $insert = $c->prepare('insert into items (name, n) values (?, ?)');
    $insert->execute(['t', 1000]);
    $c->exec('savepoint inner_one');
    expect('22012', fn () => $c->exec('select 1/0'));
    expect('25P02', fn () => $c->exec('select 1'));
    $c->exec('rollback to inner_one');
    $insert->execute(['t', 1001]);
    equal($c->inTransaction(), true);
    $c->commit();
    $c->beginTransaction();
    $insert->execute(['t', 1002]);
    $c->rollBack();
    equal($c->inTransaction(), false);
    equal(value($c, 'select array_agg(n order by n)::text from items where n >= ?', [1000]), '{1000,1001}');
    // A statement that is forgotten in a failed transaction cannot be deallocated there.
    $c->beginTransaction();
    $statement = $c->prepare('select 1/?::int');
    expect('22012', fn () => $statement->execute([0]));
    $statement = null;
    $c->rollBack();
    equal(value($c, "select 'alive'"), 'alive');
    $c->exec('begin isolation level serializable read only');
    equal(value($c, 'show transaction_isolation'), 'serializable');
    expect('25006', fn () => $c->exec('insert into items (n) values (1)'));
    $c->exec('rollback');
}

function copies(): void
{
    $c = connect();
    $c->exec('create table copied (n int, s text)');
    $lines = array_map(fn ($n) => "$n\trow $n\n", range(0, 19999));
    equal($c->pgsqlCopyFromArray('copied', $lines), true);
    equal($c->pgsqlCopyToArray('copied'), $lines);
    expect('22P02', fn () => $c->pgsqlCopyFromArray('copied', ["no number\tx\n"]));
    equal(value($c, 'select count(*) from copied'), 20000);
    $c->beginTransaction();
    $oid = $c->pgsqlLOBCreate();
    $stream = $c->pgsqlLOBOpen($oid, 'w');
    fwrite($stream, str_repeat('x', 100000));
    fclose($stream);
    $stream = $c->pgsqlLOBOpen($oid, 'r');
    equal(strlen(stream_get_contents($stream)), 100000);
    fclose($stream);
    $c->pgsqlLOBUnlink($oid);
    $c->commit();
}

function types(): void
{
    $c = connect();
    $statement = $c->prepare('select ?::bool, ?::bytea, ?::text, ?::numeric, ?::text');
    $bytes = implode(array_map('chr', range(0, 255)));
    $statement->bindValue(1, true, PDO::PARAM_BOOL);
    $statement->bindValue(2, $bytes, PDO::PARAM_LOB);
    $statement->bindValue(3, 'سلام 🂡');
    $statement->bindValue(4, '1.50');
    $statement->bindValue(5, null, PDO::PARAM_NULL);
    foreach ([1, 2, 3] as $turn) {
        $statement->execute();
        [$truth, $stream, $text, $number, $nothing] = $statement->fetch(PDO::FETCH_NUM);
        equal([$truth, stream_get_contents($stream), $text, $number, $nothing], [true, $bytes, 'سلام 🂡', '1.50', null]);
    }
    // It asks the catalog for what it does not know.
    equal($c->query("select 'x'::name")->getColumnMeta(0)['native_type'], 'name');
    equal($c->query('select id from items')->getColumnMeta(0)['table'], 'items');
}

function cursors(): void
{
    $c = connect();
    $c->beginTransaction();
    $statement = $c->prepare('select n from generate_series(1, 10) n', [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
    $statement->execute();
    equal($statement->fetchColumn(), 1);
    equal($statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_LAST)[0], 10);
    equal($statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_ABS, 5)[0], 5);
    $statement = null;
    $c->commit();
}

function listen(): void
{
    [$listener, $speaker] = [connect(), connect()];
    $listener->exec('listen events');
    $speaker->exec("notify events, 'one'");
    value($speaker, "select pg_notify('events', ?)", ['two']);
    foreach (['one', 'two'] as $wanted) {
        $heard = $listener->pgsqlGetNotify(PDO::FETCH_ASSOC, 30000);
        equal([$heard['message'], $heard['payload']], ['events', $wanted]);
    }
    $listener->exec('unlisten *');
}

function persistent(): void
{
    for ($turn = 0; $turn < 5; $turn++) {
        $c = connect([PDO::ATTR_PERSISTENT => true]);
        equal(value($c, 'select ?::int', [$turn]), $turn);
        $c->beginTransaction();
        $c->exec("insert into items (name, n) values ('persistent', $turn)");
        // The request ends without a word about its transaction.
        $c = null;
    }
    $c = connect([PDO::ATTR_PERSISTENT => true]);
    if ($c->inTransaction()) {
        $c->rollBack();
    }
    equal(value($c, "select count(*) from items where name = 'persistent'"), 0);
}

// PHP's older functions, which know asynchronous queries and cancel.
function plain_pgsql(): void
{
    $c = pg_connect('');
    equal(pg_fetch_result(pg_query_params($c, 'select $1::int + 1', [41]), 0, 0), '42');
    pg_prepare($c, 'mine', 'select $1::int * 2');
    foreach ([1, 2, 3] as $n) {
        equal(pg_fetch_result(pg_execute($c, 'mine', [$n]), 0, 0), (string) (2 * $n));
    }
    pg_send_query($c, 'select 1 as a; select 2 as b');
    equal(pg_fetch_all(pg_get_result($c)), [['a' => '1']]);
    equal(pg_fetch_all(pg_get_result($c)), [['b' => '2']]);
    equal(pg_get_result($c), false);
    // A cancel that comes before its query hits nothing, which is nobody's fault.
    for ($turn = 0, $seconds = 3; $seconds >= 3; $turn++) {
        equal($turn < 20, true);
        $since = microtime(true);
        pg_send_query($c, 'select pg_sleep(3)');
        equal(pg_cancel_query($c), true);
        while (pg_get_result($c));
        $seconds = microtime(true) - $since;
    }
    equal(pg_fetch_result(pg_query($c, "select 'alive'"), 0, 0), 'alive');
    equal(pg_connection_reset($c), true);
    equal(pg_insert($c, 'items', ['name' => 'plain', 'n' => 5]) !== false, true);
    pg_close($c);
}

function errors(): void
{
    $c = connect();
    expect('42P01', fn () => $c->query('select * from no_such_table'));
    expect('42P01', fn () => value($c, 'select * from no_such_table where n = ?', [1]));
    expect('23505', fn () => $c->exec('insert into items (id) values (1)'));
    expect('42601', fn () => $c->exec('selec'));
    $c->exec("set statement_timeout = '200ms'");
    expect('57014', fn () => $c->exec('select pg_sleep(600)'));
    equal(value(connect(), 'show statement_timeout'), '0');
}

function settings(): void
{
    $cards = connect([], ";options='-c work_mem=5MB -c search_path=pg_catalog,public';application_name=cards");
    $other = connect();
    $cards->exec("set names 'LATIN1'");
    for ($i = 0; $i < 5; $i++) {
        equal(value($cards, 'show work_mem'), '5MB');
        equal(value($cards, 'show application_name'), 'cards');
        equal(value($cards, "select chr(233)"), "\xe9");
        equal(value($other, "select chr(233)"), "\xc3\xa9");
        equal(value($other, 'show work_mem') === '5MB', false);
    }
}
