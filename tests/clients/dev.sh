#!/bin/sh
# Runs `PROGRAM dev ARGUMENTS...` until standard input closes, and then stops it with SIGTERM. The tests hold the other end of that
# pipe, so the gateway cannot outlive them, however they end.
set -u
program=$1
shift
"$program" dev "$@" </dev/null &
gateway=$!
# The gateway alone holds standard output now: when it dies, the reader sees the end.
exec >&-
cat >/dev/null
kill "$gateway" 2>/dev/null
wait "$gateway"
