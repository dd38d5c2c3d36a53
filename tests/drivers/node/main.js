// node-postgres: parameters of many types, transactions, savepoints, named statements, batches, COPY, streams,
// notices, errors, cancel, reconnect, notifications (session mode), a client-side pool with forty at once.
'use strict'
const assert = require('assert')
const crypto = require('crypto')
const { pipeline } = require('stream/promises')
const { Readable } = require('stream')
const { once } = require('events')
const { Client, Pool, Query } = require('pg')
const Cursor = require('pg-cursor')
const { from: copyFrom, to: copyTo } = require('pg-copy-streams')

const table = process.env.PGTABLE
const session = process.env.POOL_MODE !== 'transaction'

async function connect (options) {
  const client = new Client(options)
  client.on('error', () => {}) // also said of a connection that ends while nobody asks
  await client.connect()
  return client
}

async function expect (code, promise) {
  const told = await promise.then(() => assert.fail(`no error ${code}`), told => told)
  assert.strictEqual(told.code, code, told)
  console.log(code, told.message)
}

async function main () {
  let client = await connect()
  await client.query(`create table ${table} (id int primary key, name text, amount numeric, raw bytea, at timestamptz,
    tags text[], data jsonb, yes bool, big int8, ratio float8)`)
  for (let n = 0; n < 100; n++) {
    await client.query(`insert into ${table} values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
      [n, n % 7 ? `näme ${n} 🐘` : null, `${n}.50`, Buffer.from([n, 0, 255]), new Date(Date.UTC(2024, 1, 29, 12)),
        ['a', `${n}`], { n }, n % 2 === 0, 2n ** 40n + BigInt(n), n / 8])
  }
  const shown = await client.query(`select * from ${table} where id = any($1) order by id`, [[0, 1, 77]])
  shown.rows.forEach(row => console.log(JSON.stringify(row)))
  assert.deepStrictEqual((await client.query({ text: `select raw, ratio from ${table} where id = $1`, values: [5], rowMode: 'array' })).rows,
    [[Buffer.from([5, 0, 255]), 0.625]])
  console.log('rows')

  await client.query('begin')
  await client.query(`delete from ${table}`)
  await expect('22012', client.query('select 1/0'))
  await expect('25P02', client.query('select 1'))
  await expect('25P02', client.query('select $1::int', [1]))
  await client.query('rollback')
  await client.query('begin; savepoint here')
  await expect('23505', client.query(`insert into ${table} (id) values ($1)`, [1]))
  await client.query('rollback to here')
  await client.query(`insert into ${table} (id, name) values ($1, $2)`, [1000, 'kept'])
  await client.query('commit')
  assert.deepStrictEqual((await client.query(`select count(*)::int as n from ${table}`)).rows, [{ n: 101 }])
  await expect('22P02', client.query('select $1::int', ['x']))
  await expect('22012', client.query('select 1; select 1/0; select 2'))
  const both = await client.query('select 1 as a; select 2 as b')
  assert.deepStrictEqual(both.map(one => one.rows[0]), [{ a: 1 }, { b: 2 }])
  console.log('transactions and errors')

  const asked = await Promise.all(Array.from({ length: 100 }, (_, n) => client.query(
    n % 10 === 5 ? 'select 1/$1::int as n' : 'select $1::int as n', [n % 10 === 5 ? 0 : n]).catch(told => told.code)))
  assert.deepStrictEqual(asked.map(one => one.rows ? one.rows[0].n : one), Array.from({ length: 100 }, (_, n) => n % 10 === 5 ? '22012' : n))
  console.log('queued queries')

  for (let n = 0; n < 10; n++) {
    const { rows } = await client.query({ name: 'plus one', text: 'select $1::int + 1 as n', values: [n] })
    assert.strictEqual(rows[0].n, n + 1)
  }
  await expect('42703', client.query({ name: 'wrong', text: 'select nothing_here' }))
  assert.strictEqual((await client.query({ name: 'wrong', text: 'select 1 as n' })).rows[0].n, 1)
  for (let round = 0; round < 2; round++) {
    for (let n = 0; n < 150; n++) {
      const { rows } = await client.query({ name: `of many ${n}`, text: `select $1::int + ${n} as n`, values: [round] })
      assert.strictEqual(rows[0].n, n + round)
    }
  }
  console.log('named statements')

  const many = client.query(new Cursor('select n, md5(n::text) as m from generate_series(1, $1::int) n', [20000]))
  const digest = crypto.createHash('md5')
  let read = 0
  for (let rows; (rows = await many.read(700)).length;) rows.forEach(({ n, m }) => { digest.update(`${n},${m}`); read++ })
  await many.close()
  console.log(read, 'rows', digest.digest('hex'))
  const large = 'x'.repeat(5 * 1024 * 1024)
  assert.strictEqual((await client.query('select $1::text as t', [large])).rows[0].t, large)
  console.log('large results')

  await pipeline(Readable.from(Array.from({ length: 3000 }, (_, n) => `${2000 + n}\tcopied ü\n`)),
    client.query(copyFrom(`copy ${table} (id, name) from stdin`)))
  let lines = 0
  const out = client.query(copyTo(`copy (select id, name from ${table} where id >= 2000) to stdout`))
  let text = ''
  for await (const chunk of out) text += chunk.toString('latin1')
  lines = text.split('\n').length - 1
  assert.strictEqual(lines, 3000)
  await expect('22P02', pipeline(Readable.from(['no number\n']), client.query(copyFrom(`copy ${table} (id) from stdin`))))
  console.log('copy')

  const notices = []
  client.on('notice', notice => notices.push(`${notice.severity} ${notice.message}`))
  await client.query("do $$ begin raise notice 'hear %', 'this'; raise warning 'and ü'; end $$")
  console.log(notices)

  const look = { name: 'look', text: `select name from ${table} where id = $1`, values: [1000] }
  const all = { name: 'all', text: `select * from ${table} where id = $1`, values: [1000] }
  assert.strictEqual((await client.query(look)).rows[0].name, 'kept')
  assert.strictEqual((await client.query(all)).fields.length, 10)
  await client.query(`alter table ${table} add column more int default 7`)
  assert.strictEqual((await client.query(look)).rows[0].name, 'kept')
  try {
    assert.strictEqual((await client.query(all)).fields.length, 11)
  } catch (told) {
    assert.strictEqual(told.code, '0A000', told)
    assert.strictEqual((await client.query({ ...all, name: 'all again' })).fields.length, 11)
  }
  console.log('alter table')

  // A cancel that overtakes its query is lost, and one that has not ended may hit the next; with or without a pooler.
  const other = await connect()
  const slow = client.query(new Query('select pg_sleep($1)', [20]))
  const ended = once(slow, 'end')
  const asleep = "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
  while ((await other.query(asleep)).rows.length === 0);
  const messenger = new Client()
  const delivered = once(messenger.connection, 'end')
  messenger.cancel(client, slow)
  await expect('57014', ended)
  await delivered
  await expect('57014', client.query("begin; set local statement_timeout = '100ms'; select pg_sleep(20)"))
  await client.query('rollback')
  assert.deepStrictEqual((await client.query('select 1 as n')).rows, [{ n: 1 }])
  console.log('cancel and timeout')

  await expect('57P01', client.query('select pg_terminate_backend(pg_backend_pid())'))
  client = await connect()
  assert.deepStrictEqual((await client.query('select $1::int as n', [3])).rows, [{ n: 3 }])
  console.log('reconnected')

  // LISTEN needs the same backend for as long as it lasts.
  if (session) {
    const heard = new Promise(resolve => client.once('notification', resolve))
    await client.query('listen news')
    await other.query("select pg_notify('news', 'grüße')")
    console.log('session:', (await heard).payload)
  }
  await other.end()
  await client.end()

  const pool = new Pool({ max: session ? 4 : 40 })
  await Promise.all(Array.from({ length: 40 }, async (_, number) => {
    for (let n = 0; n < 15; n++) {
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
  // One name, another text in each of forty.
  const each = await Promise.all(Array.from({ length: session ? 4 : 40 }, () => connect()))
  for (let n = 0; n < 5; n++) {
    await Promise.all(each.map(async (mine, number) => {
      const { rows } = await mine.query({ name: 'mine', text: `select $1::int + ${number} as n`, values: [n] })
      assert.strictEqual(rows[0].n, n + number)
    }))
  }
  await Promise.all(each.map(mine => mine.end()))
  console.log('forty at once')
  console.log('done')
}

main().catch(problem => {
  console.error(problem)
  process.exit(1)
})
