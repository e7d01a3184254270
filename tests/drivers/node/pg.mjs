// What applications do with node-postgres, through the proxy that libpq's environment variables point at.

import { pipeline } from 'node:stream/promises'
import { Readable, Writable } from 'node:stream'
import pg from 'pg'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import copy from 'pg-copy-streams'
import { assert, cancelled, eventually, expect, main } from './check.mjs'

const connect = async (options = {}) => {
  const client = new pg.Client(options)
  await client.connect()
  return client
}

async function basics() {
  const c = await connect()
  await c.query('create table items (id serial primary key, name text, n int)')
  assert.deepEqual((await c.query('select $1::int + 1 as sum', [41])).rows, [{ sum: 42 }])
  assert.deepEqual((await c.query({ text: 'select 1, 2', rowMode: 'array' })).rows, [[1, 2]])
  assert.equal((await c.query("insert into items (name, n) values ('a', 1), ('b', 2)")).rowCount, 2)
  assert.deepEqual((await c.query('insert into items (name, n) values ($1, $2) returning n', ['c', 3])).rows, [{ n: 3 }])
  // The simple protocol answers several statements with several results.
  const several = await c.query('select 1 as a; select 2 as b; insert into items (n) values (9)')
  assert.deepEqual(several.map((result) => result.command), ['SELECT', 'SELECT', 'INSERT'])
  assert.equal((await c.query('')).command, null)
  assert.equal((await c.query('-- nothing')).rowCount, null)
  await expect('22012', c.query('select 1/0'))
  await expect('22012', c.query('select 1/$1::int', [0]))
  await expect('42P01', c.query('select * from no_such_table'))
  await expect('23505', c.query('insert into items (id) values (1)'))
  const failure = await expect('22P02', c.query('select $1::int', ['no number']))
  assert.equal(failure.severity, 'ERROR')
  const notices = []
  c.on('notice', (notice) => notices.push(notice.message))
  await c.query("do $$ begin raise notice 'hear me'; end $$")
  assert.deepEqual(notices, ['hear me'])
  await c.end()
}

async function types() {
  const c = await connect()
  const values = [
    ['int8', '1152921504606846976', '1152921504606846976'],
    ['text', 'سلام 🂡', 'سلام 🂡'],
    ['bytea', Buffer.from([0, 1, 254, 255]), Buffer.from([0, 1, 254, 255])],
    ['numeric', '1.50', '1.50'],
    ['timestamptz', new Date(1700000000000), new Date(1700000000000)],
    ['int4[]', [1, 2, null], [1, 2, null]],
    ['jsonb', { a: [1, { b: null }] }, { a: [1, { b: null }] }],
    ['bool', true, true],
    ['float8', 0.1, 0.1],
    ['text', null, null],
  ]
  for (const [type, value, wanted] of values) {
    for (const binary of [false, true]) {
      if (binary && !['bool'].includes(type)) continue // pg decodes few types from binary
      const found = (await c.query({ text: `select $1::${type} as v`, values: [value], binary })).rows[0].v
      assert.deepEqual(found, wanted, type)
    }
  }
  // Many columns and a large result.
  const wide = Array.from({ length: 1000 }, (_, i) => `${i} as c${i}`).join(', ')
  assert.equal(Object.keys((await c.query(`select ${wide}`)).rows[0]).length, 1000)
  const large = await c.query("select n, repeat('x', 1000) as s from generate_series(1, 20000) n")
  assert.equal(large.rows.length, 20000)
  assert.ok(large.rows.every((row) => row.s.length === 1000))
  const huge = 'y'.repeat(5_000_000)
  assert.equal((await c.query('select $1::text as s', [huge])).rows[0].s, huge)
  await c.end()
}

async function prepared() {
  // Statements with a name are pg's prepared statements; each client has its own under the same name.
  const clients = await Promise.all([0, 1, 2, 3, 4].map(() => connect()))
  for (let turn = 0; turn < 3; turn++) {
    for (const [i, c] of clients.entries()) {
      const { rows } = await c.query({ name: 'same', text: `select 'client ${i}' as who, $1::int as turn`, values: [turn] })
      assert.deepEqual(rows, [{ who: `client ${i}`, turn }])
    }
  }
  const [c] = clients
  for (let i = 0; i < 30; i++) {
    const { rows } = await c.query({ name: `many ${i}`, text: `select ${i} + $1::int as n`, values: [i] })
    assert.equal(rows[0].n, 2 * i)
  }
  await expect('42703', c.query({ name: 'bad', text: 'select nothing_like_it' }))
  assert.equal((await c.query({ name: 'good', text: 'select 1 as n' })).rows[0].n, 1)
  await expect('22012', c.query({ name: 'divide', text: 'select 10 / $1::int as n', values: [0] }))
  assert.equal((await c.query({ name: 'divide', text: 'select 10 / $1::int as n', values: [5] })).rows[0].n, 2)
  await Promise.all(clients.map((c) => c.end()))
}

async function queued() {
  // One client queues what is asked at once; the answers come in order, errors among them.
  const c = await connect()
  const asked = Array.from({ length: 100 }, (_, i) =>
    i % 10 === 7 ? expect('22012', c.query('select 1/$1::int', [0])) : c.query('select $1::int as n', [i]),
  )
  const answers = await Promise.all(asked)
  for (const [i, answer] of answers.entries()) if (i % 10 !== 7) assert.equal(answer.rows[0].n, i)
  await c.end()
}

async function pipelined() {
  // Sent without waiting for the answers.
  const c = await connect({ pipeline: true })
  const asked = Array.from({ length: 100 }, (_, i) =>
    i % 10 === 7
      ? expect('22012', c.query({ name: 'wrong', text: 'select 1/$1::int', values: [0] }))
      : i % 10 === 3
        ? c.query('insert into items (name, n) values ($1, $2) returning n', ['pipe', i])
        : c.query({ name: 'right', text: 'select $1::int as n', values: [i] }),
  )
  const answers = await Promise.all(asked)
  for (const [i, answer] of answers.entries()) if (i % 10 !== 7) assert.equal(answer.rows[0].n, i)
  await c.end()
}

async function transactions() {
  const c = await connect()
  const count = async (where) => Number((await c.query(`select count(*) from items where ${where}`)).rows[0].count)
  await c.query('begin')
  await c.query("insert into items (name, n) values ('t', 1000)")
  await c.query('savepoint inner_one')
  await expect('22012', c.query('select 1/0'))
  await expect('25P02', c.query('select 1'))
  await c.query('rollback to savepoint inner_one')
  await c.query("insert into items (name, n) values ('t', 1001)")
  await c.query('commit')
  assert.equal(await count('n between 1000 and 1001'), 2)
  await c.query('begin isolation level serializable read only')
  assert.equal((await c.query('show transaction_isolation')).rows[0].transaction_isolation, 'serializable')
  await expect('25006', c.query('insert into items (n) values (1)'))
  assert.equal((await c.query('commit')).command, 'ROLLBACK')
  await c.query('begin')
  await c.query("insert into items (name, n) values ('t', 2000)")
  await c.query('rollback')
  assert.equal(await count('n = 2000'), 0)
  await c.end()
}

async function pool() {
  const pool = new pg.Pool({ max: 10, idleTimeoutMillis: 1000 })
  await Promise.all(
    Array.from({ length: 60 }, async (_, i) => {
      const client = await pool.connect()
      try {
        await client.query('begin')
        await client.query('insert into items (name, n) values ($1, $2)', [`pool ${i}`, i])
        assert.equal((await client.query('select count(*)::int as n from items where name = $1', [`pool ${i}`])).rows[0].n, 1)
        await client.query(i % 2 ? 'commit' : 'rollback')
      } finally {
        client.release()
      }
    }),
  )
  const { rows } = await pool.query("/* hakem: primary */ select count(*)::int as n from items where name like 'pool %'")
  assert.equal(rows[0].n, 30)
  await pool.end()
}

async function cursors() {
  const c = await connect()
  // Outside of a transaction: a portal lives up to the next Sync, which pg-cursor does not send before it is closed.
  const cursor = c.query(new Cursor('select n from generate_series(1, $1::int) n', [1000]))
  assert.deepEqual((await cursor.read(10)).map((row) => row.n), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  assert.equal((await cursor.read(100)).at(-1).n, 110)
  await cursor.close()
  assert.equal((await c.query('select 1 as n')).rows[0].n, 1)
  await c.query('begin')
  const inside = c.query(new Cursor('select n from generate_series(1, 1000) n'))
  assert.equal((await inside.read(500)).length, 500)
  assert.equal((await inside.read(600)).length, 500)
  assert.equal((await inside.read(1)).length, 0)
  await c.query('commit')
  await expect('22012', c.query(new Cursor('select 1/(n - 5) from generate_series(1, 10) n')).read(10))
  let sum = 0
  for await (const row of c.query(new QueryStream('select n from generate_series(1, 1000) n', [], { batchSize: 33 }))) sum += row.n
  assert.equal(sum, 500500)
  // A stream that is left early.
  for await (const row of c.query(new QueryStream('select n from generate_series(1, 100000) n'))) if (row.n === 5) break
  assert.equal((await c.query('select 2 as n')).rows[0].n, 2)
  await c.end()
}

async function copies() {
  const c = await connect()
  await c.query('create table copied (n int, s text)')
  const lines = Array.from({ length: 20000 }, (_, i) => `${i}\trow ${i}\n`)
  const sink = c.query(copy.from('copy copied from stdin'))
  await pipeline(Readable.from(lines), sink)
  assert.equal(sink.rowCount, 20000)
  const parts = []
  await pipeline(
    c.query(copy.to('copy (select * from copied where n < 100 order by n) to stdout')),
    new Writable({ write: (part, _, next) => (parts.push(part), next()) }),
  )
  assert.equal(Buffer.concat(parts).toString(), lines.slice(0, 100).join(''))
  await assert.rejects(pipeline(Readable.from(['no number\tx\n']), c.query(copy.from('copy copied from stdin'))), { code: '22P02' })
  await assert.rejects(
    pipeline(
      Readable.from(
        (async function* () {
          yield '1\tx\n'
          throw new Error('mine')
        })(),
      ),
      c.query(copy.from('copy copied from stdin')),
    ),
    /mine/,
  )
  await eventually(async () => (await c.query('select count(*)::int as n from copied')).rows[0].n === 20000)
  await c.end()
}

async function listen() {
  const [listener, speaker] = [await connect(), await connect()]
  const heard = []
  listener.on('notification', ({ channel, payload }) => heard.push([channel, payload]))
  await listener.query('listen events')
  await speaker.query("notify events, 'one'")
  await speaker.query("select pg_notify('events', $1)", ['two'])
  await eventually(() => heard.length === 2)
  assert.deepEqual(heard, [['events', 'one'], ['events', 'two']])
  assert.equal((await listener.query('select 1 as n')).rows[0].n, 1)
  await listener.query('unlisten *')
  await speaker.query("notify events, 'three'")
  assert.equal((await listener.query('select 1 as n')).rows[0].n, 1)
  assert.equal(heard.length, 2)
  await listener.end()
  await speaker.end()
}

async function cancels() {
  // statement_timeout goes out with the startup packet; query_timeout is pg's own and ends the connection.
  const c = await connect({ statement_timeout: 200 })
  await expect('57014', c.query('select pg_sleep(600)'))
  assert.equal((await c.query("select 'alive' as s")).rows[0].s, 'alive')
  const d = await connect()
  assert.equal((await d.query('show statement_timeout')).rows[0].statement_timeout, '0')
  await c.end()
  // pg's own way to cancel: a connection of its own with the key of the first.
  await cancelled(
    () => d.query('select pg_sleep(3)'),
    () => {
      const canceller = new pg.Client()
      canceller.connection.connect(Number(process.env.PGPORT), process.env.PGHOST)
      canceller.connection.on('connect', () => canceller.connection.cancel(d.processID, d.secretKey))
    },
  )
  assert.equal((await d.query("select 'alive' as s")).rows[0].s, 'alive')
  await d.end()
}

async function settings() {
  const c = await connect({ application_name: 'cards', options: '-c search_path=pg_catalog,public -c work_mem=5MB' })
  const d = await connect()
  const show = async (c, name) => Object.values((await c.query(`show ${name}`)).rows[0])[0]
  await c.query("set timezone to 'Asia/Tehran'")
  for (let i = 0; i < 5; i++) {
    assert.equal(await show(c, 'application_name'), 'cards')
    assert.equal(await show(c, 'work_mem'), '5MB')
    assert.equal(await show(c, 'timezone'), 'Asia/Tehran')
    assert.notEqual(await show(d, 'work_mem'), '5MB')
    assert.notEqual(await show(d, 'timezone'), 'Asia/Tehran')
  }
  await c.end()
  await d.end()
}

await main(basics, types, prepared, queued, pipelined, transactions, pool, cursors, copies, listen, cancels, settings)
