\set account random(1, 100000)
\set delta random(-5000, 5000)
\startpipeline
begin;
select abalance from pgbench_accounts where aid = :account;
insert into pgbench_history (tid, bid, aid, delta, mtime, filler) values (1, 1, :account, :delta, now(), 'piped');
savepoint here;
delete from pgbench_history where aid = :account and filler <> 'piped';
rollback to here;
commit;
select count(*) from pgbench_history where aid = :account;
\endpipeline
