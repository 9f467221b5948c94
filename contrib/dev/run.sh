# For the scripts beside it: how they end with a message and how they run what takes long. They set WHO and LOG.

die() { printf '\n%s: %s\n' "$WHO" "$1" >&2; exit 1; }

# Runs a command with its output in the log, and says every few seconds that it is still at it.
run() {
    local label=$1 started=$SECONDS; shift
    printf '  %s ...\n' "$label"
    "$@" >>"$LOG" 2>&1 &
    local job=$!
    while kill -0 "$job" 2>/dev/null; do
        sleep 1
        if (( (SECONDS - started) % 15 == 14 )); then printf '    %ds: %s\n' $((SECONDS - started)) "$(tail -n 1 "$LOG" | cut -c1-90)"; fi
    done
    wait "$job" || { tail -n 30 "$LOG" >&2; die "$label failed; the whole log is in $LOG"; }
    printf '    done in %ds\n' $((SECONDS - started))
}
