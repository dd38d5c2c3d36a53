// node-postgres: rows, transactions, named statements, errors,
// notifications (session mode), a client-side pool.
'use strict'
const assert = require('assert')
const { Client, Pool } = require('pg')

const table = process.env.PGTABLE
const session = process.env.POOL_MODE !== 'transaction'

async function main () {
  const client = new Client()
  await client.connect()
  await client.query(`create table ${table} (id int primary key, name text, data jsonb)`)
  for (let n = 0; n < 50; n++) {
    await client.query(`insert into ${table} values ($1, $2, $3)`, [n, `näme ${n}`, { n }])
  }
  for (let n = 0; n < 20; n++) {
    const { rows } = await client.query(`select name, data from ${table} where id = $1`, [n])
    assert.deepStrictEqual(rows, [{ name: `näme ${n}`, data: { n } }])
  }
  console.log('rows')

  await client.query('begin')
  await client.query(`delete from ${table}`)
  await assert.rejects(client.query('select 1/0'), { code: '22012' })
  await assert.rejects(client.query('select 1'), { code: '25P02' })
  await client.query('rollback')
  const { rows } = await client.query(`select count(*)::int as n from ${table}`)
  assert.strictEqual(rows[0].n, 50)
  await assert.rejects(client.query('select $1::int', ['x']), { code: '22P02' })
  console.log('transactions and errors')

  const [a, b, c] = await Promise.all([1, 2, 3].map(n => client.query('select $1::int as n', [n])))
  assert.deepStrictEqual([a, b, c].map(r => r.rows[0].n), [1, 2, 3])
  console.log('queued queries')

  for (let n = 0; n < 10; n++) {
    const { rows } = await client.query({ name: 'plus one', text: 'select $1::int + 1 as n', values: [n] })
    assert.strictEqual(rows[0].n, n + 1)
  }
  await assert.rejects(client.query({ name: 'wrong', text: 'select nothing_here' }), { code: '42703' })
  assert.strictEqual((await client.query({ name: 'wrong', text: 'select 1 as n' })).rows[0].n, 1)
  console.log('named statements')

  // LISTEN needs the same backend for as long as it lasts.
  if (session) {
    const heard = new Promise(resolve => client.once('notification', resolve))
    await client.query('listen news')
    const other = new Client()
    await other.connect()
    await other.query("select pg_notify('news', 'hello')")
    await other.end()
    assert.strictEqual((await heard).payload, 'hello')
    console.log('session: notifications')
  }

  const large = 'x'.repeat(5 * 1024 * 1024)
  assert.strictEqual((await client.query('select $1::text as t', [large])).rows[0].t, large)
  console.log('large values')
  await client.end()

  const pool = new Pool({ max: session ? 4 : 12 })
  await Promise.all(Array.from({ length: 12 }, async (_, number) => {
    for (let n = 0; n < 20; n++) {
      const mine = await pool.connect()
      await mine.query('begin')
      await mine.query({
        name: 'change', text: `update ${table} set name = $1 where id = $2`, values: [`by ${number}`, number]
      })
      const { rows } = await mine.query({
        name: 'look', text: `select name from ${table} where id = $1`, values: [number]
      })
      assert.strictEqual(rows[0].name, `by ${number}`)
      await mine.query('commit')
      mine.release()
    }
  }))
  await pool.end()
  console.log('twelve at once')
  console.log('done')
}

main().catch(problem => {
  console.error(problem)
  process.exit(1)
})
