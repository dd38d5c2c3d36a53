# Sourced by tests/run, contrib/try and bench/run's wrapper: installs what a
# checkout needs and is not there yet. Looks before it installs, so that it
# costs a few milliseconds when everything is in place. Debian and its
# derivatives only; elsewhere it says what is missing and stops.

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "This needs root or sudo: $*"
    fi
}

package_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]
}

# The programs of PostgreSQL live outside PATH on Debian.
postgres_bin() {
    local dir
    for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
        if [ -x "$dir/initdb" ]; then
            printf '%s\n' "$dir"
            return
        fi
    done
    dir=$(dirname "$(command -v initdb || true)")
    [ "$dir" != . ] && printf '%s\n' "$dir"
}

# install_missing PACKAGE[:COMMAND]...
# With :COMMAND the package counts as present when the command exists, wherever
# it came from.
install_missing() {
    local item package missing=()
    for item in "$@"; do
        package=${item%%:*}
        if [ "$item" != "$package" ] && command -v "${item#*:}" >/dev/null; then
            continue
        fi
        if command -v dpkg-query >/dev/null && package_installed "$package"; then
            continue
        fi
        missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "Not on Debian; please install by hand: ${missing[*]}"
    say "Installing: ${missing[*]}"
    # Debian starts a cluster of its own when PostgreSQL is installed; the tests
    # bring theirs, so this one is not wanted.
    local cluster=/etc/postgresql-common/createcluster.conf ours=no
    if [ ! -e $cluster ]; then
        ours=yes
        as_root mkdir -p "${cluster%/*}"
        echo 'create_main_cluster = false' | as_root tee $cluster >/dev/null
    fi
    local status=0
    as_root env DEBIAN_FRONTEND=noninteractive sh -c '
        apt-get -q update >/dev/null &&
        apt-get -q install -y --no-install-recommends "$@" >/dev/null' sh "${missing[@]}" >&2 || status=$?
    # The machine keeps its own defaults.
    if [ $ours = yes ]; then
        as_root rm -f $cluster
    fi
    return $status
}

# The version of a package that apt would install; nothing if there is none.
candidate_of() {
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v '^(none)$'
}

# Compiler and OpenSSL headers, and a cargo that knows edition 2024: the one that is there, or Debian's.
# Debian 12 has a newer one beside its own for the sake of its browsers, in packages named -web.
install_rust() {
    install_missing gcc:cc libc6-dev pkg-config:pkg-config libssl-dev
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    if ! command -v cargo >/dev/null; then
        local suffix candidate
        if command -v apt-get >/dev/null; then
            as_root apt-get -q update >/dev/null
        fi
        for suffix in '' -web; do
            candidate=$(candidate_of "rustc$suffix") || continue
            if dpkg --compare-versions "$candidate" ge 1.85; then
                install_missing ca-certificates "rustc$suffix" "cargo$suffix"
                rust_suffix=$suffix
                break
            fi
        done
    fi
    command -v cargo >/dev/null || die "No cargo found, and Debian's is older than 1.85 (or absent).
Install Rust 1.85 or later (https://rustup.rs) and run this again."
    local version
    version=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '1.85\n%s\n' "$version" | sort -V | head -n 1)" = 1.85 ] ||
        die "cargo $version is too old: Rust 1.85 or later is needed (https://rustup.rs)."
}

install_postgres() {
    install_missing postgresql postgresql-client:psql
    [ -n "$(postgres_bin)" ] || die "PostgreSQL's programs (initdb) were not found."
}

# cargo fmt and cargo clippy, from where cargo came.
install_rust_checks() {
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        install_missing "rustfmt${rust_suffix:-}" "rust${rust_suffix:-}-clippy" ||
            die "cargo fmt and cargo clippy are needed: rustup component add rustfmt clippy"
    fi
}
