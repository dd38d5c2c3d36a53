# Sourced by contrib/try: a throw-away PostgreSQL and a place for files, both
# gone when the script ends, however it ends.
#
# After `scratch_postgres`: $scratch (a directory), $pg_port, and a superuser
# "postgres" trusted on 127.0.0.1. Programs started in the background are ended
# too, and `scratch_before_cleanup` is called first, if there is one. However
# something failed, the exit status is 1, except after a signal.

scratch=$(mktemp -d "${TMPDIR:-/tmp}/pg_doorman-try.XXXXXX")
chmod 755 "$scratch"

scratch_cleanup() {
    local status=$? pid
    trap '' INT TERM HUP
    set +e
    for pid in $(jobs -p); do
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    # After an upgrade the pooler is no child of this shell; its configuration lies in here.
    pkill -f "$scratch/pg_doorman.toml" 2>/dev/null
    if [ "$(type -t scratch_before_cleanup)" = function ]; then
        scratch_before_cleanup
    fi
    if [ -f "$scratch/data/postmaster.pid" ]; then
        as_postgres "$(postgres_bin)/pg_ctl" -D "$scratch/data" -m immediate -s stop
    fi
    rm -rf "$scratch"
    case $status in
    0 | 129 | 130 | 143) exit "$status" ;;
    *) exit 1 ;;
    esac
}
trap scratch_cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# PostgreSQL does not run as root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && runuser -u postgres -- "$@")
    else
        (cd / && "$@")
    fi
}

# A port nobody listens on.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            printf '%s\n' "$port"
            return
        fi
    done
}

wait_for_port() {
    local tries
    for tries in $(seq 200); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then
            return 0
        fi
        sleep 0.05
    done
    return 1
}

scratch_postgres() {
    local bin
    bin=$(postgres_bin)
    pg_port=$(free_port)
    mkdir "$scratch/run"
    if [ "$(id -u)" = 0 ]; then
        chown postgres: "$scratch" "$scratch/run"
    fi
    as_postgres "$bin/initdb" -D "$scratch/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 \
        --no-sync --no-instructions >"$scratch/initdb.log" || die "$(cat "$scratch/initdb.log")"
    as_postgres "$bin/pg_ctl" -D "$scratch/data" -l "$scratch/data/log" -w -s start -o \
        "-p $pg_port -k $scratch/run -c listen_addresses=127.0.0.1 -c fsync=off -c synchronous_commit=off -c max_connections=200" \
        || die "$(cat "$scratch/data/log")"
}
