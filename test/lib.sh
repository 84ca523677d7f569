# Shared by test/kafka/kafka, test/cluster/cluster, test/check and test/demo/demo: sourced, never run.
# What lives here: where things are, who runs them, free ports, pids, waiting for a condition.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$("$TOP/scripts/build_dir")
PG_MAJOR=${PG_MAJOR:-15}
PG_BIN=${PG_BIN:-$BUILD/${PG_COPY:-pg}/usr/lib/postgresql/$PG_MAJOR/bin}
WAIT_SECONDS=${WAIT_SECONDS:-180}

say() { echo "$me: $*"; }
die() { echo "$me: $*" >&2; exit 1; }

# Under root the servers run as user postgres; $drop is the prefix of a command that does.
drop=()
if [ "$(id -u)" = 0 ]; then
	drop=(setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/nonexistent)
fi

own() {		# give files to the user who runs the servers
	[ "$(id -u)" != 0 ] || chown postgres: "$@"
}

# A port below the range that the kernel takes for outgoing connections, and free now. It is claimed for as long as the
# caller's folder ($dir) is there, so that nobody else takes it while a server of ours is down.
free_port() {
	local port claims=${TMPDIR:-/tmp}/sentinai-ports.$UID
	mkdir -p "$claims"
	find "$claims" -xtype l -delete 2>/dev/null || true
	while :; do
		port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && ln -sT "${dir:-$BUILD}" "$claims/$port" 2>/dev/null; then
			echo "$port"
			return
		fi
	done
}

# alive PIDFILE WORD: the process of the file runs, and is ours (its command line has the word)
alive() {
	local pid
	[ -s "$1" ] && read -r pid <"$1" && grep -aqsF -- "$2" "/proc/$pid/cmdline"
}

gone() {	# wait until process $1 is no more
	wait_for "process $1 to end" process_gone "$1"
}
process_gone() { ! kill -0 "$1" 2>/dev/null; }

# wait_for WHAT COMMAND...: until it succeeds, at most WAIT_SECONDS; then say what didn't come
wait_for() {
	local what=$1 end=$((SECONDS + WAIT_SECONDS))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || die "waited $WAIT_SECONDS s in vain for $what"
		sleep 0.05
	done
}
