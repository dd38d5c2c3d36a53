# Ruby's pg: parameters of many types, transactions, exec_prepared, describe, single rows, pipeline, COPY,
# large objects, notices, errors, cancel, reconnect, notifications (session mode), forty at once.

require 'pg'
require 'digest'

TABLE = ENV.fetch('PGTABLE')
SESSION = ENV.fetch('POOL_MODE') != 'transaction'

def check(what, is, wanted)
  abort("#{caller(1..1).first}: #{what}: #{is.inspect}, not #{wanted.inspect}") unless is == wanted
end

def expect(state)
  yield
rescue PG::Error => told
  is = told.result&.error_field(PG::Result::PG_DIAG_SQLSTATE)
  abort("#{caller(1..1).first}: #{is}, not #{state}: #{told.message}") unless is == state
  puts "#{state} #{told.result.error_field(PG::Result::PG_DIAG_MESSAGE_PRIMARY)}"
else
  abort("#{caller(1..1).first}: no error #{state}")
end

def values(result) = result.values.inspect

connection = PG.connect
connection.exec("create table #{TABLE} (id int primary key, name text, amount numeric, raw bytea, at timestamptz, tags text[], " \
                'data jsonb, yes bool, big int8, ratio float8)')
connection.prepare('insert', "insert into #{TABLE} values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
100.times do |n|
  connection.exec_prepared('insert', [n, n % 7 == 0 ? nil : "näme #{n} 🐘", "#{n}.50", { value: [n, 0, 255].pack('C3'), format: 1 },
                                      '2024-02-29 12:00:00+00', "{a,#{n}}", "{\"n\": #{n}}", n.even?, 2**40 + n, n / 8.0])
end
puts values(connection.exec_params("select * from #{TABLE} where id = any($1::int[]) order by id", ['{0,1,77}']))
puts values(connection.exec_params("select id, raw from #{TABLE} where id = $1", [{ value: [5].pack('N'), type: 23, format: 1 }], 1))
puts connection.describe_prepared('insert').then { |d| [d.nparams, d.paramtype(0), d.paramtype(9)].inspect }

begin
  connection.transaction do |inner|
    inner.exec("update #{TABLE} set name = 'changed' where id < 10")
    inner.exec('select 1/0')
  end
rescue PG::DivisionByZero
  puts 'undone'
end
check('rolled back', connection.exec("select count(*) from #{TABLE} where name = 'changed'").getvalue(0, 0), '0')
connection.transaction do
  connection.exec('savepoint here')
  expect('23505') { connection.exec_params("insert into #{TABLE} (id) values ($1)", [1]) }
  expect('25P02') { connection.exec('select 1') }
  connection.exec('rollback to here')
  connection.exec_params("insert into #{TABLE} (id, name) values ($1, $2)", [1000, 'kept'])
end
check('kept', connection.exec("select name from #{TABLE} where id = 1000").getvalue(0, 0), 'kept')
expect('22P02') { connection.exec_params('select $1::int', ['x']) }
expect('42P05') { connection.prepare('insert', 'select 1') }
expect('26000') { connection.exec_prepared('nobody', []) }
expect('22012') { connection.exec('select 1; select 1/0; select 2') }
puts 'transactions and errors'

connection.send_query('select 1 as a; select 2 as b, 3 as c')
while (result = connection.get_result)
  puts values(result)
end
connection.send_query_params('select n, md5(n::text) from generate_series(1, $1) n', [20_000])
connection.set_single_row_mode
digest, rows = Digest::MD5.new, 0
while (result = connection.get_result)
  result.each_row { |row| digest << row.join(','); rows += 1 }
end
puts "single rows: #{rows} #{digest}"
large = 'x' * 3_000_000
check('large value', connection.exec_params('select $1::text', [large]).getvalue(0, 0) == large, true)

if connection.respond_to?(:enter_pipeline_mode)
  connection.enter_pipeline_mode
  connection.send_prepare('plus', 'select $1::int + $2::int')
  50.times { |n| connection.send_query_prepared('plus', [n, n]) }
  connection.send_query_params('select 1/$1::int', [0])
  connection.send_query_prepared('plus', [1, 1])
  connection.pipeline_sync
  50.times { |n| connection.send_query_prepared('plus', [n, 1]) }
  connection.pipeline_sync
  said, syncs = [], 0
  while syncs < 2
    result = connection.get_result or next
    case result.result_status
    when PG::PGRES_PIPELINE_SYNC then syncs += 1
    when PG::PGRES_TUPLES_OK then said << result.getvalue(0, 0)
    when PG::PGRES_FATAL_ERROR then said << result.error_field(PG::Result::PG_DIAG_SQLSTATE)
    when PG::PGRES_PIPELINE_ABORTED then said << 'aborted'
    end
  end
  connection.exit_pipeline_mode
  puts "pipeline: #{said.join(' ')}"
end

connection.copy_data("copy #{TABLE} (id, name) from stdin", PG::TextEncoder::CopyRow.new) do
  3000.times { |n| connection.put_copy_data([2000 + n, "tab\tand ü"]) }
end
copied = 0
connection.copy_data("copy (select id, name from #{TABLE} where id >= 2000) to stdout", PG::TextDecoder::CopyRow.new) do
  while (row = connection.get_copy_data)
    copied += row[1] == "tab\tand ü" ? 1 : 0
  end
end
check('copied', copied, 3000)
expect('22P02') do
  connection.copy_data("copy #{TABLE} (id) from stdin") { connection.put_copy_data("no number\n") }
end
puts 'copy'

connection.transaction do
  oid = connection.lo_creat(PG::INV_READ | PG::INV_WRITE)
  object = connection.lo_open(oid, PG::INV_READ | PG::INV_WRITE)
  connection.lo_write(object, 'y' * 100_000)
  connection.lo_lseek(object, 0, PG::SEEK_SET)
  check('large object', connection.lo_read(object, 200_000).length, 100_000)
  connection.lo_close(object)
  connection.lo_unlink(oid)
end
puts 'large object'

notices = []
connection.set_notice_processor { |text| notices << text }
connection.exec("do $$ begin raise notice 'hear %', 'this'; raise warning 'and ü'; end $$")
puts notices.inspect

# A statement outlives a change of its table that leaves its result as it was, and in the end one that does not.
connection.prepare('look', "select name from #{TABLE} where id = $1")
connection.prepare('all', "select * from #{TABLE} where id = $1")
check('look', connection.exec_prepared('look', [1000]).values, [['kept']])
check('all', connection.exec_prepared('all', [1000]).nfields, 10)
connection.exec("alter table #{TABLE} add column more int default 7")
check('look', connection.exec_prepared('look', [1000]).values, [['kept']])
begin
  check('all', connection.exec_prepared('all', [1000]).nfields, 11)
rescue PG::FeatureNotSupported
  connection.prepare('all again', "select * from #{TABLE} where id = $1")
  check('all', connection.exec_prepared('all again', [1000]).nfields, 11)
end
puts 'alter table'

connection.exec('deallocate look')
expect('26000') { connection.exec_prepared('look', [1000]) }
connection.prepare('look', 'select $1::text')
check('another under the same name', connection.exec_prepared('look', ['x']).values, [['x']])
connection.exec('deallocate all')
expect('26000') { connection.exec_prepared('look', [1000]) }

# A cancel that overtakes its query is lost, and one that has not ended may hit the next; with or without a pooler.
watch = PG.connect
cancelling = Thread.new do
  sleep 0.005 until watch.exec("select 1 from pg_stat_activity where wait_event = 'PgSleep'").ntuples == 1
  connection.cancel
end
expect('57014') { connection.exec('select pg_sleep(20)') }
cancelling.join
watch.close
connection.transaction do
  connection.exec("set local statement_timeout = '100ms'")
  expect('57014') { connection.exec('select pg_sleep(20)') }
  connection.exec('rollback')
end
check('alive', connection.exec('select 1').values, [['1']])
puts 'cancel and timeout'

begin
  connection.exec('select pg_terminate_backend(pg_backend_pid())')
  abort('it is still there')
rescue PG::Error => told
  puts told.message[/terminating connection.*/]
end
connection.reset
check('back', connection.exec_params('select $1::int', [3]).values, [['3']])
puts 'reset'

if SESSION
  other = PG.connect
  connection.exec('listen news')
  other.exec_params('select pg_notify($1, $2)', ['news', 'grüße'])
  puts "session: #{connection.wait_for_notify(10) { |channel, _, payload| break [channel, payload] }.inspect}"
  other.close
end
connection.close

threads = Array.new(40) do |number|
  Thread.new do
    mine = PG.connect
    mine.prepare('same', "update #{TABLE} set name = $1 where id = $2 returning name")
    mine.prepare('mine', "select $1::int + #{number}")
    15.times do |n|
      mine.transaction do
        check('same', mine.exec_prepared('same', ["by #{number}", number]).values, [["by #{number}"]])
        check('mine', mine.exec_prepared('mine', [n]).values, [[(n + number).to_s]])
      end
      check('mine', mine.exec_prepared('mine', [-n]).values, [[(number - n).to_s]])
    end
    mine.close
  end
end
threads.each { |thread| thread.report_on_exception = true; thread.join }
puts 'forty at once'
puts 'done'
