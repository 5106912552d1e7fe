// postgres.js through the proxy: what its users do, checked; prints "done".
import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import postgres from 'postgres'

const url = process.argv[2]
const sql = postgres(url, { max: 4, onnotice: () => {} })

async function prepared() {
  for (let n = 0; n < 20; n++) {
    const [row] = await sql`INSERT INTO account (email, tags) VALUES (${'p' + n + '@js'}, ${['a', 'b']}) RETURNING id, tags`
    assert.deepEqual(row.tags, ['a', 'b'])
  }
  const changed = await sql`UPDATE account SET name = ${'x'} WHERE email LIKE 'p1%@js'`
  assert.deepEqual([changed.command, changed.count], ['UPDATE', 11])
  const described = await sql`SELECT id, email FROM account WHERE id = ${1}`.describe()
  assert.deepEqual(described.columns.map(column => column.name), ['id', 'email'])
  const many = await sql`SELECT 1 AS one; SELECT 2 AS two`.simple()
  assert.deepEqual(many.map(rows => Object.values(rows[0])), [[1], [2]])
}

async function pipelined() {
  const rows = await Promise.all(Array.from({ length: 300 }, (_, n) =>
    sql`INSERT INTO account (email) VALUES (${'b' + n + '@js'}) RETURNING email`))
  assert.deepEqual(rows.map(([row]) => row.email), Array.from({ length: 300 }, (_, n) => 'b' + n + '@js'))
  const mixed = await Promise.allSettled([sql`SELECT 1 / ${1}::int AS n`, sql`SELECT 1 / ${0}::int`, sql`SELECT 1 / ${1}::int AS n`])
  assert.deepEqual(mixed.map(each => each.reason?.code ?? each.value[0].n), [1, '22012', 1])
}

async function transactions() {
  await sql.begin('isolation level serializable', async sql => {
    const [{ id }] = await sql`INSERT INTO account (email) VALUES ('t@js') RETURNING id`
    await assert.rejects(sql.savepoint(sql => sql`INSERT INTO entry VALUES (${id}, 1, 0)`), { code: '23514' })
    await sql`INSERT INTO entry VALUES (${id}, 1, 5)`
  })
  await assert.rejects(sql.begin(async sql => { await sql`DELETE FROM entry`; throw new Error('no') }), { message: 'no' })
  assert.equal((await sql`SELECT amount FROM entry`)[0].amount, '5.00')
}

async function copies() {
  const lines = Array.from({ length: 500 }, (_, n) => 'c' + n + '@js\n')
  await pipeline(Readable.from(lines), await sql`COPY account (email) FROM STDIN`.writable())
  let size = 0
  for await (const part of await sql`COPY (SELECT email FROM account WHERE email LIKE 'c%@js') TO STDOUT`.readable()) size += part.toString().split('\n').length - 1
  assert.equal(size, 500)
}

async function cursors() {
  let seen = 0
  for await (const rows of sql`SELECT id FROM account ORDER BY id`.cursor(60)) seen += rows.length
  assert.equal(seen, 821)
  for await (const rows of sql`SELECT id FROM account ORDER BY id`.cursor(60)) { assert.equal(rows.length, 60); break }
}

async function cancels() {
  const sleeping = sql`SELECT pg_sleep(64)`
  const cancelled = assert.rejects(sleeping.execute(), { code: '57014' })
  while (!(await sql`SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(64)' AND state = 'active'`).length);
  sleeping.cancel()
  await cancelled
  assert.equal((await sql`SELECT 7 AS n`)[0].n, 7)
}

async function failures() {
  const text = '/* ü */ UPDATE account SET nope = 1'
  await assert.rejects(sql.unsafe(text), { code: '42703', position: String(text.indexOf('nope') + 1) })
  await assert.rejects(sql`INSERT INTO account (email) VALUES ('t@js')`, { code: '23505' })
}

async function listens() {
  let tell
  const heard = new Promise(resolve => { tell = resolve })
  const { unlisten } = await sql.listen('news', tell)
  await sql.notify('news', 'hello')
  assert.equal(await heard, 'hello')
  await unlisten()
}

async function reconnects() {
  for (let n = 0; n < 5; n++) {
    const again = postgres(url, { max: 1 })
    assert.equal((await again`SELECT ${n}::int AS n`)[0].n, n)
    await again.end()
  }
}

for (const work of [prepared, pipelined, transactions, copies, cursors, cancels, failures, listens, reconnects]) await work()
await sql.end()
console.log('done')
