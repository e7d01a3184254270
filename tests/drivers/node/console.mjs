// The admin console as Node's drivers see it: pg by both protocols, postgres.js with its prepared statements.

import pg from 'pg'
import postgres from 'postgres'
import { assert, main } from './check.mjs'

async function node_postgres() {
  for (const database of ['pgbouncer', 'hakem']) {
    const c = new pg.Client({ database })
    await c.connect()
    for (const query of ['SHOW POOLS', { text: 'SHOW POOLS', values: [], name: 'pools' }, { text: 'show pools;', queryMode: 'extended' }]) {
      const { rows, fields } = await c.query(query)
      assert.deepEqual(fields.slice(0, 2).map((field) => field.name), ['database', 'user'])
      assert.ok(rows.length > 0 && rows.every((row) => typeof row.cl_active === 'number' || /^\d+$/.test(row.cl_active)))
    }
    await assert.rejects(c.query('SHOW NONSENSE'), /invalid command/)
    assert.match((await c.query('SHOW VERSION')).rows[0].version, /^PgBouncer 1\./)
    await c.end()
  }
}

async function postgres_js() {
  // Unless it is told not to, it asks the catalog for types.
  const sql = postgres({ database: 'pgbouncer', max: 1, fetch_types: false })
  for (let turn = 0; turn < 3; turn++) assert.ok((await sql`SHOW DATABASES`).some((row) => row.name === 'pgbouncer'))
  assert.ok((await sql.unsafe('SHOW LISTS')).every((row) => row.items >= 0))
  await sql.end()
}

await main(node_postgres, postgres_js)
