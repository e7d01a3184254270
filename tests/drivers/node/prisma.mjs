// What applications do with Prisma 7, through the proxy that libpq's environment variables point at.

import { PrismaPg } from '@prisma/adapter-pg'
import client from '../prisma/index.js'
import { assert, expect, main } from './check.mjs'

const { PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE } = process.env
const connectionString = `postgresql://${PGUSER}:${PGPASSWORD}@${PGHOST}:${PGPORT}/${PGDATABASE}`
const prisma = new client.PrismaClient({ adapter: new PrismaPg({ connectionString, max: 8 }) })

async function basics() {
  // What `prisma migrate` would have made; it needs the engine that is downloaded.
  await prisma.$executeRaw`create table "Player" (id serial primary key, name text not null unique, tricks int not null default 0,
    extra jsonb, score decimal(65, 30) not null default 0, seen timestamp(3) not null default current_timestamp)`
  await prisma.$executeRaw`create table "Card" (id serial primary key, face text not null, "playerId" int references "Player")`
  const ada = await prisma.player.create({ data: { name: 'ada', score: '1.5', extra: { suit: 'hearts' }, cards: { create: [{ face: 'king' }, { face: 'queen' }] } }, include: { cards: true } })
  assert.deepEqual([ada.cards.length, ada.extra, String(ada.score)], [2, { suit: 'hearts' }, '1.5'])
  assert.equal((await prisma.player.createMany({ data: Array.from({ length: 500 }, (_, i) => ({ name: `p${i}`, tricks: i })) })).count, 500)
  assert.equal((await prisma.player.createMany({ data: [{ name: 'ada' }], skipDuplicates: true })).count, 0)
  await prisma.player.upsert({ where: { name: 'ada' }, update: { tricks: { increment: 5 } }, create: { name: 'ada' } })
  const found = await prisma.player.findUnique({ where: { name: 'ada' }, include: { cards: { orderBy: { face: 'asc' } } } })
  assert.deepEqual([found.tricks, found.cards.map((card) => card.face)], [5, ['king', 'queen']])
  await expect('P2002', prisma.player.create({ data: { name: 'ada' } }))
  await expect('P2025', prisma.player.update({ where: { name: 'nobody' }, data: { tricks: 1 } }))
  assert.equal((await prisma.player.findMany({ where: { tricks: { gte: 490 } }, orderBy: { tricks: 'desc' }, take: 3, skip: 1 }))[0].name, 'p498')
  assert.equal((await prisma.player.aggregate({ _sum: { tricks: true }, where: { name: { startsWith: 'p' } } }))._sum.tricks, 124750)
  assert.deepEqual(await prisma.$queryRaw`select ${1}::int as n`, [{ n: 1 }])
}

async function transactions() {
  const [updated, count] = await prisma.$transaction([
    prisma.player.update({ where: { name: 'p1' }, data: { tricks: 1000 } }),
    prisma.player.count(),
  ])
  assert.deepEqual([updated.tricks, count], [1000, 501])
  await prisma.$transaction(
    async (tx) => {
      await tx.card.create({ data: { face: 'ace' } })
      assert.equal(await tx.card.count(), 3)
    },
    { isolationLevel: 'Serializable' },
  )
  await assert.rejects(
    prisma.$transaction(async (tx) => {
      await tx.card.create({ data: { face: 'joker' } })
      throw new Error('mine')
    }),
    /mine/,
  )
  assert.equal(await prisma.card.count(), 3)
}

async function at_once() {
  const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => prisma.player.findUnique({ where: { name: `p${i + 2}` } })))
  assert.deepEqual(answers.map((player) => player.tricks), Array.from({ length: 100 }, (_, i) => i + 2))
  await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      prisma.$transaction(async (tx) => {
        await tx.player.update({ where: { name: `p${i + 2}` }, data: { tricks: { increment: 1 } } })
        const { tricks } = await tx.player.findUniqueOrThrow({ where: { name: `p${i + 2}` } })
        assert.equal(tricks, i + 3)
      }, { maxWait: 30_000, timeout: 30_000 }),
    ),
  )
}

async function anew() {
  // Who has written nothing waits for nothing that was written.
  const reader = new client.PrismaClient({ adapter: new PrismaPg({ connectionString, max: 1 }) })
  for (let i = 0; i < 20; i++) assert.equal(await reader.player.count(), 501)
  await reader.$disconnect()
}

await main(basics, transactions, at_once, anew)
await prisma.$disconnect()
