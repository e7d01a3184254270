// What applications do with Sequelize, over node-postgres, through the proxy that libpq's environment variables point at.

import { DataTypes, QueryTypes, Sequelize, Transaction } from 'sequelize'
import { assert, main } from './check.mjs'

const options = {
  dialect: 'postgres',
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  username: process.env.PGUSER,
  password: process.env.PGPASSWORD,
  database: process.env.PGDATABASE,
  logging: false,
}
// Each of its connections sets its own time zone when it is made.
const sequelize = new Sequelize({ ...options, pool: { max: 8 }, timezone: '+03:30' })

const Player = sequelize.define('player', {
  name: { type: DataTypes.STRING, unique: true, allowNull: false },
  tricks: { type: DataTypes.INTEGER, defaultValue: 0 },
  extra: DataTypes.JSONB,
  tags: DataTypes.ARRAY(DataTypes.TEXT),
  suit: DataTypes.ENUM('hearts', 'spades'),
}, { paranoid: true, defaultScope: { order: [['name', 'ASC']] }, scopes: { good: { where: { suit: 'hearts' } } } })
const Card = sequelize.define('card', { face: DataTypes.STRING })
Player.hasMany(Card, { onDelete: 'CASCADE' })
Card.belongsTo(Player)

async function models() {
  await sequelize.authenticate()
  await sequelize.sync({ force: true })
  await sequelize.sync({ alter: true })
  const ada = await Player.create({ name: 'ada', extra: { deep: { suit: 'hearts' } }, tags: ['a', 'b'], suit: 'hearts' })
  await Player.bulkCreate(Array.from({ length: 500 }, (_, i) => ({ name: `p${i}`, tricks: i, suit: 'spades' })))
  const [again, made] = await Player.findOrCreate({ where: { name: 'ada' }, defaults: { tricks: 9 } })
  assert.deepEqual([again.id, made, again.tags], [ada.id, false, ['a', 'b']])
  await Player.upsert({ name: 'ada', tricks: 3 }, { conflictFields: ['name'] })
  await ada.increment('tricks', { by: 2 })
  assert.equal((await ada.reload()).tricks, 5)
  await ada.createCard({ face: 'king' })
  await Card.bulkCreate([{ face: 'queen', playerId: ada.id }, { face: 'jack', playerId: ada.id }])
  const whole = await Player.scope('good').findOne({ where: { 'extra.deep.suit': 'hearts' }, include: Card })
  assert.deepEqual(whole.cards.map((card) => card.face).sort(), ['jack', 'king', 'queen'])
  const page = await Player.findAndCountAll({ where: { suit: 'spades' }, limit: 10, offset: 5 })
  assert.deepEqual([page.count, page.rows.length], [500, 10])
  await assert.rejects(Player.create({ name: 'ada' }), { name: 'SequelizeUniqueConstraintError' })
  await assert.rejects(Card.create({ face: 'ten', playerId: 0 }), { name: 'SequelizeForeignKeyConstraintError' })
  await Player.destroy({ where: { name: 'p7' } })
  assert.equal(await Player.count(), 500)
  assert.equal(await Player.count({ paranoid: false }), 501)
}

async function transactions() {
  await sequelize.transaction(async (transaction) => {
    const ada = await Player.findOne({ where: { name: 'ada' }, lock: transaction.LOCK.UPDATE, transaction })
    // A savepoint.
    const inner = sequelize.transaction({ transaction }, async (transaction) => {
      await ada.update({ tricks: 99 }, { transaction })
      throw new Error('undone')
    })
    await assert.rejects(inner, /undone/)
    await ada.reload({ transaction })
    assert.equal(ada.tricks, 5)
    await ada.update({ tricks: 6 }, { transaction })
  })
  const { SERIALIZABLE, REPEATABLE_READ } = Transaction.ISOLATION_LEVELS
  for (const isolationLevel of [SERIALIZABLE, REPEATABLE_READ]) {
    const level = await sequelize.transaction({ isolationLevel }, (transaction) =>
      sequelize.query('show transaction_isolation', { transaction, type: QueryTypes.SELECT, plain: true }),
    )
    assert.equal(level.transaction_isolation, isolationLevel.toLowerCase())
  }
  const managed = await sequelize.transaction()
  await Player.update({ tricks: 0 }, { where: {}, transaction: managed })
  await managed.rollback()
  assert.equal((await Player.findOne({ where: { name: 'ada' } })).tricks, 6)
}

async function queries() {
  const asked = Array.from({ length: 100 }, (_, i) =>
    sequelize.query('select $1::int as n, $2::text as name', { bind: [i, `p${i}`], type: QueryTypes.SELECT, plain: true }),
  )
  assert.deepEqual((await Promise.all(asked)).map((row) => row.n), Array.from({ length: 100 }, (_, i) => i))
  const named = await sequelize.query('select :name as name', { replacements: { name: "it's" }, type: QueryTypes.SELECT })
  assert.deepEqual(named, [{ name: "it's" }])
  const zones = await Promise.all(Array.from({ length: 20 }, () => sequelize.query('show timezone', { type: QueryTypes.SELECT, plain: true })))
  assert.equal(new Set(zones.map((row) => JSON.stringify(row))).size, 1, JSON.stringify(zones))
  const moment = new Date('2026-11-29T12:00:00Z')
  const kept = await sequelize.query("select $1::timestamptz as at", { bind: [moment.toISOString()], type: QueryTypes.SELECT, plain: true })
  assert.deepEqual(kept.at, moment)
}

/** Reads and writes by pools of their own. */
async function replication() {
  const { host, port, username, password, database } = options
  const node = { host, port, username, password, database }
  const split = new Sequelize({ ...options, replication: { read: [node, node], write: node }, pool: { max: 4 } })
  await split.query('create table if not exists split (n int)')
  for (let n = 1; n <= 10; n++) {
    await split.query('insert into split values ($1)', { bind: [n], type: QueryTypes.INSERT })
    const row = await split.query('select count(*)::int as n from split', { type: QueryTypes.SELECT, plain: true, useMaster: n % 2 === 0 })
    // Whether another connection's read sees it is up to the consistency.
    assert.ok(row.n <= n)
  }
  await split.query('drop table split')
  await split.close()
}

async function end() {
  await sequelize.drop({})
  await sequelize.close()
}

await main(models, transactions, queries, replication, end)
