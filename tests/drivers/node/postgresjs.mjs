// What applications do with postgres.js, through the proxy that libpq's environment variables point at.
//
// With its defaults: it prepares every statement under a name (Parse, Describe and Flush, and Bind only after the answer), and sends
// up to a hundred of them over one connection without waiting.

import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import postgres from 'postgres'
import { assert, cancelled, eventually, expect, main } from './check.mjs'

const connect = (options = {}) => postgres({ max: 1, onnotice: () => {}, ...options })

async function basics() {
  const sql = connect()
  await sql`create table items (id serial primary key, name text, n int)`
  assert.deepEqual([...(await sql`select ${41}::int + 1 as sum`)], [{ sum: 42 }])
  const rows = Array.from({ length: 100 }, (_, i) => ({ name: `m${i}`, n: i }))
  assert.equal((await sql`insert into items ${sql(rows)}`).count, 100)
  assert.deepEqual([...(await sql`select n from items where n in ${sql([3, 5])} order by n`)], [{ n: 3 }, { n: 5 }])
  assert.deepEqual([...(await sql`update items set ${sql({ name: 'renamed' })} where n = 7 returning name`)], [{ name: 'renamed' }])
  const several = await sql`select 1 as a; select 2 as b`.simple()
  assert.deepEqual(several.map((result) => result[0]), [{ a: 1 }, { b: 2 }])
  assert.equal((await sql.unsafe('')).length, 0)
  const described = await sql`select n, name from items where n = ${1}`.describe()
  assert.deepEqual(described.columns.map((column) => column.name), ['n', 'name'])
  assert.deepEqual((await sql`select 1 as a, 2 as b`.values())[0], [1, 2])
  await expect('22012', sql`select 1/0`)
  await expect('22012', sql`select 1/${0}::int`)
  await expect('42P01', sql`select * from no_such_table`)
  await expect('42601', sql`selec`)
  await expect('23505', sql`insert into items (id) values (1)`)
  const notices = []
  const loud = connect({ onnotice: (notice) => notices.push(notice.message) })
  await loud`do $$ begin raise notice 'hear me'; end $$`
  assert.deepEqual(notices, ['hear me'])
  await loud.end()
  await sql.end()
}

async function types() {
  const sql = connect()
  const values = [
    ['int8', '1152921504606846976'],
    ['text', 'سلام 🂡'],
    ['bytea', Buffer.from([0, 1, 254, 255])],
    ['numeric', '1.50'],
    ['timestamptz', new Date(1700000000000)],
    ['int4[]', [1, 2, 3]],
    ['jsonb', { a: [1, { b: null }] }],
    ['bool', true],
    ['float8', 0.1],
    ['text', null],
  ]
  for (const [type, value] of values) {
    const found = (await sql`select ${type === 'jsonb' ? sql.json(value) : value}::${sql.unsafe(type)} as v`)[0].v
    assert.deepEqual(found, value, type)
  }
  const large = await sql`select n, repeat('x', 1000) as s from generate_series(1, 20000) n`
  assert.ok(large.length === 20000 && large.every((row) => row.s.length === 1000))
  const huge = 'y'.repeat(5_000_000)
  assert.equal((await sql`select ${huge}::text as s`)[0].s, huge)
  await sql.end()
}

async function prepared() {
  // Every connection has statements of its own, and the proxy's servers are fewer than these.
  const clients = Array.from({ length: 6 }, () => connect())
  for (let turn = 0; turn < 5; turn++) {
    await Promise.all(
      clients.map(async (sql, i) => {
        assert.deepEqual([...(await sql`select ${`client ${i}`} as who, ${turn}::int as turn`)], [{ who: `client ${i}`, turn }])
        assert.equal((await sql.unsafe(`select ${i} as i, $1::int as turn`, [turn], { prepare: true }))[0].i, i)
      }),
    )
  }
  const [sql] = clients
  for (let i = 0; i < 50; i++) assert.equal((await sql.unsafe(`select ${i} + $1::int as n`, [i], { prepare: true }))[0].n, 2 * i)
  // Without prepared statements, as its documentation tells those who are behind a pooler.
  const unnamed = connect({ prepare: false })
  for (let i = 0; i < 10; i++) assert.equal((await unnamed`select ${i}::int as n`)[0].n, i)
  await unnamed.end()
  await Promise.all(clients.map((sql) => sql.end()))
}

async function pipelined() {
  const sql = connect()
  const asked = Array.from({ length: 300 }, (_, i) =>
    i % 10 === 7
      ? expect('22012', sql`select 1/${0}::int`)
      : i % 10 === 3
        ? sql`insert into items (name, n) values ('pipe', ${i}) returning n`
        : sql`select ${i}::int as n`,
  )
  const answers = await Promise.all(asked)
  for (const [i, answer] of answers.entries()) if (i % 10 !== 7) assert.equal(answer[0].n, i)
  await sql.end()
}

async function transactions() {
  const sql = connect({ max: 4 })
  const count = async (where) => (await sql`/* hakem: primary */ select count(*)::int as n from items where ${where}`)[0].n
  await sql.begin(async (sql) => {
    await sql`insert into items (name, n) values ('t', 1000)`
    await expect('22012', sql.savepoint(async (sql) => {
      await sql`insert into items (name, n) values ('inner', 1001)`
      await sql`select 1/0`
    }))
    await sql.savepoint('named', (sql) => sql`insert into items (name, n) values ('t', 1002)`)
  })
  assert.equal(await count(sql`n between 1000 and 1002`), 2)
  await assert.rejects(
    sql.begin(async (sql) => {
      await sql`insert into items (name, n) values ('t', 2000)`
      throw new Error('mine')
    }),
    /mine/,
  )
  assert.equal(await count(sql`n = 2000`), 0)
  await expect('25006', sql.begin('read only', (sql) => sql`insert into items (n) values (1)`))
  const level = await sql.begin('isolation level repeatable read', (sql) => sql`show transaction_isolation`)
  assert.equal(level[0].transaction_isolation, 'repeatable read')
  // Several statements of one transaction at once.
  const sums = await sql.begin((sql) => [1, 2, 3].map((n) => sql`insert into items (name, n) values ('both', ${n}) returning n`))
  assert.deepEqual(sums.map((rows) => rows[0].n), [1, 2, 3])
  // A connection reserved for one's own statements.
  const own = await sql.reserve()
  await own`set work_mem = '5MB'`
  assert.equal((await own`show work_mem`)[0].work_mem, '5MB')
  await own`reset work_mem`
  own.release()
  await sql.end()
}

async function pool() {
  const sql = connect({ max: 10, idle_timeout: 1, max_lifetime: 60 })
  await Promise.all(
    Array.from({ length: 60 }, (_, i) =>
      sql.begin(async (sql) => {
        await sql`insert into items (name, n) values (${`pool ${i}`}, ${i})`
        assert.equal((await sql`select count(*)::int as n from items where name = ${`pool ${i}`}`)[0].n, 1)
      }),
    ),
  )
  assert.equal((await sql`/* hakem: primary */ select count(*)::int as n from items where name like 'pool %'`)[0].n, 60)
  await sql.end()
}

async function cursors() {
  const sql = connect()
  let sum = 0
  for await (const rows of sql`select n from generate_series(1, 1000) n`.cursor(33)) for (const { n } of rows) sum += n
  assert.equal(sum, 500500)
  // One that is left early, and one that fails.
  for await (const [{ n }] of sql`select n from generate_series(1, 100000) n`.cursor()) if (n === 5) break
  assert.equal((await sql`select 1 as n`)[0].n, 1)
  await expect('22012', sql`select 1/(n - 5) as q from generate_series(1, 10) n`.cursor(2, () => {}))
  await sql.begin(async (sql) => {
    const batches = []
    await sql`select n from generate_series(1, 10) n`.cursor(4, (rows) => void batches.push(rows.length))
    assert.deepEqual(batches, [4, 4, 2])
  })
  let seen = 0
  await sql`select n from generate_series(1, 1000) n`.forEach(() => void seen++)
  assert.equal(seen, 1000)
  await sql.end()
}

async function copies() {
  const sql = connect()
  await sql`create table copied (n int, s text)`
  const lines = Array.from({ length: 20000 }, (_, i) => `${i}\trow ${i}\n`)
  await pipeline(Readable.from(lines), await sql`copy copied from stdin`.writable())
  const parts = []
  for await (const part of await sql`copy (select * from copied where n < 100 order by n) to stdout`.readable()) parts.push(part)
  assert.equal(Buffer.concat(parts).toString(), lines.slice(0, 100).join(''))
  // A COPY that the server refuses is not tried: postgres.js tells nobody of its end, on a direct connection either.
  assert.equal((await sql`select count(*)::int as n from copied`)[0].n, 20000)
  await sql.end()
}

async function listen() {
  const sql = connect({ max: 2 })
  const heard = []
  // It listens over a connection of its own.
  const { unlisten } = await sql.listen('events', (payload) => heard.push(payload))
  await sql.notify('events', 'one')
  await sql`select pg_notify('events', ${'two'})`
  await eventually(() => heard.length === 2)
  assert.deepEqual(heard, ['one', 'two'])
  await unlisten()
  await sql.notify('events', 'three')
  assert.equal((await sql`select 1 as n`)[0].n, 1)
  assert.equal(heard.length, 2)
  await sql.end()
}

async function cancels() {
  const sql = connect()
  // Its queries start when they are awaited, or told to.
  await cancelled(
    () => sql`select pg_sleep(3)`.execute(),
    (query) => query.cancel(),
  )
  assert.equal((await sql`select 'alive' as s`)[0].s, 'alive')
  await sql.end()
  const hasty = connect({ connection: { statement_timeout: 200 } })
  await expect('57014', hasty`select pg_sleep(600)`)
  assert.equal((await hasty`select 'alive' as s`)[0].s, 'alive')
  await hasty.end()
}

async function settings() {
  const cards = connect({ connection: { application_name: 'cards', search_path: 'pg_catalog, public' } })
  const other = connect()
  await cards`set timezone to 'Asia/Tehran'`
  for (let i = 0; i < 5; i++) {
    assert.equal((await cards`show application_name`)[0].application_name, 'cards')
    assert.equal((await cards`show search_path`)[0].search_path, 'pg_catalog, public')
    assert.equal((await cards`select current_setting('timezone') as tz`)[0].tz, 'Asia/Tehran')
    assert.notEqual((await other`select current_setting('timezone') as tz`)[0].tz, 'Asia/Tehran')
    assert.equal((await other`show application_name`)[0].application_name, 'postgres.js')
  }
  await cards.end()
  await other.end()
}

await main(basics, types, prepared, pipelined, transactions, pool, cursors, copies, listen, cancels, settings)
