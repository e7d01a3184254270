# What applications do with Ruby's pg and Rails' Active Record, through the proxy that libpq's environment variables point at.
#
# Active Record takes an advisory lock around migrations, sets a few parameters in each new connection, and prepares as a1, a2, ...

require "pg"
require "active_record"

def main
  %i[plain pipelines copies migrations records transactions threads statements listen].each do |part|
    send(part)
    puts "ok #{part}"
  end
  puts "done"
end

def check(condition, what = "check")
  raise "#{what} failed" unless condition
end

def equal(found, wanted)
  check(found == wanted, "#{found.inspect} instead of #{wanted.inspect}:")
end

def expect(error)
  yield
rescue error => e
  e
else
  raise "no #{error}"
end

def plain
  c, d = PG.connect, PG.connect
  c.exec("create table items (id serial primary key, name text, n int)")
  equal(c.exec_params("select $1::int + 1", [41]).getvalue(0, 0), "42")
  [c, d].each_with_index { |x, i| x.prepare("same", "select 'client #{i} ' || $1") }
  3.times { [c, d].each_with_index { |x, i| equal(x.exec_prepared("same", ["x"]).getvalue(0, 0), "client #{i} x") } }
  expect(PG::DuplicatePstatement) { c.prepare("same", "select 1") }
  equal(c.describe_prepared("same").nfields, 1)
  expect(PG::DivisionByZero) { c.exec("select 1/0") }
  expect(PG::UndefinedTable) { c.exec_params("select * from no_such_table where n = $1", [1]) }
  c.transaction { |t| t.exec("insert into items (name, n) values ('t', 1)") }
  expect(RuntimeError) { c.transaction { |t| t.exec("insert into items (n) values (2)") && raise("mine") } }
  equal(c.exec("select count(*) from items").getvalue(0, 0), "1")
  c.send_query("select n, repeat('x', 1000) from generate_series(1, 20000) n")
  c.set_single_row_mode
  sum = 0
  c.get_result.stream_each_row { |n, _| sum += n.to_i }
  c.get_last_result
  equal(sum, 200_010_000)
  # A cancel that comes before its query hits nothing, which is nobody's fault.
  cancelled = 20.times.find do
    c.send_query("select pg_sleep(3)")
    c.cancel
    !c.get_last_result
  rescue PG::QueryCanceled
    true
  end
  check(cancelled, "cancelling")
  equal(c.exec("select 'alive'").getvalue(0, 0), "alive")
  c.set_client_encoding("LATIN1")
  5.times { equal([c, d].map { |x| x.exec("select chr(233)").getvalue(0, 0).bytes }, [[0xe9], [0xc3, 0xa9]]) }
  [c, d].each(&:close)
end

def pipelines
  c = PG.connect
  c.enter_pipeline_mode
  100.times { |n| c.send_query_params("select $1::int", [n]) }
  c.pipeline_sync
  c.send_query_params("select 1/$1::int", [0])
  c.send_query_params("insert into items (name) values ($1)", ["never"])
  c.pipeline_sync
  c.send_query_params("insert into items (name) values ($1) returning name", ["after"])
  c.pipeline_sync
  100.times do |n|
    equal(c.get_result.getvalue(0, 0), n.to_s)
    equal(c.get_result, nil)
  end
  equal(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
  expect(PG::DivisionByZero) { c.get_result.check }
  c.get_result
  equal(c.get_result.result_status, PG::PGRES_PIPELINE_ABORTED)
  c.get_result
  equal(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
  equal(c.get_result.getvalue(0, 0), "after")
  c.get_result
  equal(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
  c.exit_pipeline_mode
  equal(c.exec("select count(*) from items where name = 'never'").getvalue(0, 0), "0")
  c.close
end

def copies
  c = PG.connect
  c.exec("create table copied (n int, s text)")
  c.copy_data("copy copied from stdin") { 20_000.times { |n| c.put_copy_data("#{n}\trow #{n}\n") } }
  lines = 0
  c.copy_data("copy copied to stdout") { lines += 1 while c.get_copy_data }
  equal(lines, 20_000)
  expect(PG::InvalidTextRepresentation) { c.copy_data("copy copied from stdin") { c.put_copy_data("no number\tx\n") } }
  expect(RuntimeError) { c.copy_data("copy copied from stdin") { raise "mine" } }
  equal(c.exec("select count(*) from copied").getvalue(0, 0), "20000")
  c.close
end

class First < ActiveRecord::Migration[6.1]
  def change
    create_table(:players) do |t|
      t.string :name, null: false, index: { unique: true }
      t.integer :tricks, default: 0
      t.jsonb :extra
      t.string :tags, array: true, default: []
      t.integer :lock_version, default: 0
      t.timestamps
    end
    create_table(:cards) do |t|
      t.references :player, foreign_key: true
      t.string :face
    end
  end
end

class Second < ActiveRecord::Migration[6.1]
  disable_ddl_transaction!
  def change
    add_index :players, :tricks, algorithm: :concurrently
  end
end

class Player < ActiveRecord::Base
  has_many :cards, dependent: :destroy
  validates :name, uniqueness: true
end

class Card < ActiveRecord::Base
  belongs_to :player
end

def connect(**options)
  ActiveRecord::Base.establish_connection(
    adapter: "postgresql", host: ENV["PGHOST"], port: ENV["PGPORT"], username: ENV["PGUSER"], password: ENV["PGPASSWORD"],
    database: ENV["PGDATABASE"], pool: 8, **options
  )
end

def migrations
  connect
  ActiveRecord::Migration.verbose = false
  # Twice: the second time there is nothing to do. Each takes an advisory lock and gives it back.
  2.times do
    migrations = [First, Second].each_with_index.map { |m, i| ActiveRecord::MigrationProxy.new(m.name, i + 1, nil, nil).tap { |p| p.instance_variable_set(:@migration, m.new(m.name, i + 1)) } }
    ActiveRecord::Migrator.new(:up, migrations, ActiveRecord::SchemaMigration).migrate
  end
  c = ActiveRecord::Base.connection
  equal(c.tables.sort, %w[ar_internal_metadata cards copied items players schema_migrations])
  equal(c.indexes("players").map(&:columns).sort, [["name"], ["tricks"]])
  equal(c.foreign_keys("cards").map(&:to_table), ["players"])
  check(c.get_advisory_lock(42))
  equal(c.select_value("/* hakem: primary */ select count(*) from pg_locks where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database())"), 1)
  check(c.release_advisory_lock(42))
end

def records
  ada = Player.create!(name: "ada", extra: { "a" => [1, nil] }, tags: %w[x y], cards: [Card.new(face: "king"), Card.new(face: "queen")])
  ada.reload
  equal([ada.extra, ada.tags, ada.cards.map(&:face).sort], [{ "a" => [1, nil] }, %w[x y], %w[king queen]])
  now = Time.now
  Player.insert_all((0...1000).map { |n| { name: "p#{n}", tricks: n, created_at: now, updated_at: now } })
  Player.upsert_all([{ name: "ada", tricks: 9, created_at: now, updated_at: now }], unique_by: :name)
  equal(ada.reload.tricks, 9)
  equal(Player.where(tricks: 5..).order(tricks: :desc).limit(3).pluck(:tricks), [999, 998, 997])
  equal(Player.find_each(batch_size: 100).sum(&:tricks), 499_509)
  equal(Player.includes(:cards).find_by(name: "ada").cards.size, 2)
  20.times { |n| equal(Player.find_by(name: "p#{n}").tricks, n) }
  stale = Player.find(ada.id)
  ada.update!(tricks: 10)
  expect(ActiveRecord::StaleObjectError) { stale.update!(tricks: 11) }
  expect(ActiveRecord::RecordNotUnique) { Player.insert!({ name: "ada", created_at: now, updated_at: now }) }
  expect(ActiveRecord::RecordInvalid) { Player.create!(name: "ada") }
  check(Player.where(name: "ada").exists?)
  ada.with_lock { ada.update!(tricks: 12) }
  equal(Player.connection.exec_query("select $1::int as n", "SQL", [ActiveRecord::Relation::QueryAttribute.new("n", 7, ActiveRecord::Type::Integer.new)]).rows, [[7]])
end

def transactions
  Player.transaction do
    Player.create!(name: "outer")
    Player.transaction(requires_new: true) do
      Player.create!(name: "inner")
      raise ActiveRecord::Rollback
    end
    expect(ActiveRecord::StatementInvalid) { Player.transaction(requires_new: true) { Player.connection.execute("select 1/0") } }
  end
  equal(Player.where(name: %w[outer inner]).pluck(:name), ["outer"])
  %i[serializable repeatable_read read_committed].each do |level|
    Player.transaction(isolation: level) { equal(Player.connection.select_value("show transaction_isolation"), level.to_s.tr("_", " ")) }
  end
  expect(RuntimeError) { Player.transaction { Player.create!(name: "gone") && raise("mine") } }
  check(!Player.exists?(name: "gone"))
end

def threads
  failures = []
  workers = 8.times.map do |i|
    Thread.new do
      ActiveRecord::Base.connection_pool.with_connection do
        10.times do |n|
          Player.create!(name: "thread #{i} #{n}")
          equal(Player.where("name like ?", "thread #{i} %").count, n + 1)
        end
      end
    rescue Exception => e
      failures << e
    end
  end
  workers.each(&:join)
  raise failures.first if failures.any?
end

def statements
  # A bound on what it keeps prepared: it deallocates by SQL. And none at all, as its users are told to do behind a pooler.
  connect(statement_limit: 3)
  20.times { |n| equal(Player.where("tricks + #{n % 7} = ?", 500 + n % 7).where(name: "p500").count, 1) }
  connect(prepared_statements: false, advisory_locks: false)
  10.times { |n| equal(Player.find_by(name: "p#{n}").tricks, n) }
  # Time enough for what Rails asks of a new connection, on a machine with other things to do.
  connect(variables: { work_mem: "5MB", statement_timeout: 1500 }, schema_search_path: "public")
  c = ActiveRecord::Base.connection
  3.times { equal(c.select_value("show work_mem"), "5MB") }
  expect(ActiveRecord::QueryCanceled) { c.execute("select pg_sleep(600)") }
  # DDL beside prepared statements: Rails knows the error and prepares again.
  connect
  equal(Player.find_by(name: "ada").name, "ada")
  Player.connection.execute("alter table players add column later int")
  equal(Player.find_by(name: "ada").name, "ada")
  c = Player.connection
  c.reset!
  c.reconnect!
  check(c.active?)
  c.disconnect!
end

def listen
  listener, speaker = PG.connect, PG.connect
  listener.exec("listen events")
  speaker.exec("notify events, 'one'")
  speaker.exec_params("select pg_notify('events', $1)", ["two"])
  heard = []
  2.times { check(listener.wait_for_notify(30) { |_, _, payload| heard << payload }, "listening") }
  equal(heard, %w[one two])
  listener.exec("unlisten *")
  [listener, speaker].each(&:close)
end

main
