// What applications do with Drizzle, over node-postgres and over postgres.js, through the proxy that libpq's environment variables point at.

import pg from 'pg'
import postgres from 'postgres'
import { desc, eq, relations, sql } from 'drizzle-orm'
import { drizzle as over_pg } from 'drizzle-orm/node-postgres'
import { migrate as migrate_pg } from 'drizzle-orm/node-postgres/migrator'
import { drizzle as over_postgresjs } from 'drizzle-orm/postgres-js'
import { migrate as migrate_postgresjs } from 'drizzle-orm/postgres-js/migrator'
import { integer, pgTable, serial, text, timestamp, jsonb } from 'drizzle-orm/pg-core'
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { assert, main } from './check.mjs'

const players = pgTable('players', {
  id: serial('id').primaryKey(),
  name: text('name').notNull().unique(),
  tricks: integer('tricks').notNull().default(0),
  extra: jsonb('extra'),
  seen: timestamp('seen', { withTimezone: true }).defaultNow(),
})
const cards = pgTable('cards', { id: serial('id').primaryKey(), player: integer('player').references(() => players.id), face: text('face') })
const schema = {
  players,
  cards,
  playersRelations: relations(players, ({ many }) => ({ cards: many(cards) })),
  cardsRelations: relations(cards, ({ one }) => ({ owner: one(players, { fields: [cards.player], references: [players.id] }) })),
}

const MIGRATION = `create table players (id serial primary key, name text not null unique, tricks int not null default 0, extra jsonb, seen timestamptz default now());
--> statement-breakpoint
create table cards (id serial primary key, player int references players, face text);`

/** A directory as drizzle-kit writes it. */
async function migrated(migrate, db) {
  const folder = mkdtempSync(join(tmpdir(), 'drizzle-'))
  mkdirSync(join(folder, 'meta'))
  const entry = { idx: 0, version: '7', when: 1700000000000, tag: '0000_first', breakpoints: true }
  writeFileSync(join(folder, 'meta/_journal.json'), JSON.stringify({ version: '7', dialect: 'postgresql', entries: [entry] }))
  writeFileSync(join(folder, '0000_first.sql'), MIGRATION)
  await migrate(db, { migrationsFolder: folder })
  await migrate(db, { migrationsFolder: folder })
  rmSync(folder, { recursive: true })
}

async function use(db) {
  const [ada] = await db.insert(players).values({ name: 'ada', extra: { suit: 'hearts' } }).returning()
  assert.deepEqual([ada.tricks, ada.extra], [0, { suit: 'hearts' }])
  await db.insert(players).values(Array.from({ length: 500 }, (_, i) => ({ name: `p${i}`, tricks: i })))
  await db.insert(players).values({ name: 'ada' }).onConflictDoUpdate({ target: players.name, set: { tricks: sql`${players.tricks} + 1` } })
  assert.equal((await db.select().from(players).where(eq(players.name, 'ada')))[0].tricks, 1)
  await db.transaction(async (tx) => {
    await tx.insert(cards).values([{ player: ada.id, face: 'king' }, { player: ada.id, face: 'queen' }])
    await assert.rejects(
      tx.transaction(async (inner) => {
        await inner.insert(cards).values({ player: ada.id, face: 'joker' })
        inner.rollback()
      }),
      /Rollback/,
    )
  })
  await assert.rejects(db.transaction((tx) => tx.execute(sql`select 1/0`), { isolationLevel: 'serializable' }))
  const whole = await db.query.players.findFirst({ where: eq(players.name, 'ada'), with: { cards: true } })
  assert.deepEqual(whole.cards.map((card) => card.face).sort(), ['king', 'queen'])
  const best = db.select({ name: players.name }).from(players).orderBy(desc(players.tricks)).limit(sql.placeholder('limit')).prepare('best')
  for (let i = 1; i < 20; i++) assert.equal((await best.execute({ limit: i })).length, i)
  const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => db.select().from(players).where(eq(players.name, `p${i}`))))
  assert.deepEqual(answers.map((rows) => rows[0].tricks), Array.from({ length: 50 }, (_, i) => i))
  assert.equal(await db.$count(players), 501)
  await db.delete(cards)
  await db.delete(players)
}

async function node_postgres() {
  const pool = new pg.Pool({ max: 8 })
  const db = over_pg(pool, { schema })
  await migrated(migrate_pg, db)
  await use(db)
  await db.execute(sql`drop table cards, players; drop schema drizzle cascade`)
  await pool.end()
}

async function postgres_js() {
  const client = postgres({ max: 8, onnotice: () => {} })
  const db = over_postgresjs(client, { schema })
  await migrated(migrate_postgresjs, db)
  await use(db)
  await client.end()
}

await main(node_postgres, postgres_js)
