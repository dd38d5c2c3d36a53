#!/usr/bin/env bash
# pgbench in protocol $PROTOCOL: its TPC-B, and with the extended protocol a script of pipelines; forty clients.
set -euo pipefail
cd "$(dirname "$0")"

# pgbench waits for each of its PREPAREs with its whole thread: clients of one thread that are in the middle of
# a transaction would wait for each other, so each has a thread of its own.
run() { pgbench --no-vacuum --protocol="$PROTOCOL" --client=40 --jobs=40 --transactions=15 "$@" >/dev/null; }

pgbench --initialize --scale=1 --quiet 2>/dev/null
run --builtin=tpcb-like
psql -qAtc "select count(*), count(distinct tid) > 5 from pgbench_history"
psql -qAtc "select sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts"
if [ "$PROTOCOL" = extended ]; then
    run --file=pipeline.sql
    psql -qAtc "select count(*) from pgbench_history where filler = 'piped'"
fi
echo done
