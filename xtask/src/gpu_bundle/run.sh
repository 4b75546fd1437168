#!/usr/bin/env bash
# Runs this bundle on a machine with an NVIDIA driver and NVRTC 13. No Rust toolchain, no git.
#
#   bash run.sh test [FILTER…]       every test; evidence and logs go to $OUT (default: out)
#   bash run.sh sanitize [FILTER…]   every test on short case lists under compute-sanitizer
#   bash run.sh bench [ARGUMENT…]    the theria command's benchmark
#   bash run.sh theria [ARGUMENT…]   the theria command
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# Some ways to copy a folder lose what may be executed.
chmod +x "$here"/test-* "$here/theria" 2>/dev/null || true

# What this bundle was made from; suites write it into their evidence.
export THERIA_REVISION="${THERIA_REVISION:-$here/REVISION}"
revision="$(sed -n 's/^ *"git": "\(.*\)",*$/\1/p' "$here/REVISION")"
[ -z "$revision" ] || export THERIA_GIT_REVISION="${THERIA_GIT_REVISION:-$revision}"

rows=()
failed=0
ran=0
ignored_in_all=0

# Runs one test executable, `run_one LABEL LOG COMMAND…`, and notes a row of the summary.
run_one() {
    local label="$1" log="$2" start status result verdict
    shift 2
    echo
    echo "== $label"
    start=$SECONDS
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    # The last line of this form is the harness's own: a test may print another.
    result="$(grep '^test result: ' "$log" | tail -n 1)"
    count() { sed -n "s/.*[^0-9]\([0-9][0-9]*\) $1.*/\1/p" <<<"$result"; }
    verdict=passed
    if [ "$status" -ne 0 ] || [ -z "$result" ]; then
        verdict=FAILED
        failed=$((failed + 1))
    elif [ "$(count passed)" = 0 ]; then
        verdict=ignored
    fi
    ran=$((ran + $(count passed || true) + 0))
    ignored_in_all=$((ignored_in_all + $(count ignored || true) + 0))
    rows+=("$(printf '%-44s %-7s %7s %7s %8s %6ss' "$label" "$verdict" \
        "$(count passed)" "$(count failed)" "$(count ignored)" "$((SECONDS - start))")")
}

summarise() {
    echo
    printf '%-44s %-7s %7s %7s %8s %7s\n' "" "" passed failed ignored time
    printf '%s\n' "${rows[@]}"
    if [ "$ignored_in_all" -gt 0 ]; then
        echo "$ignored_in_all tests were ignored: the names above say why"
    fi
    if [ "$ran" -eq 0 ]; then
        echo "NOTHING RAN: this says nothing about the kernels"
    fi
    [ "$failed" -eq 0 ]
}

prepare_out() {
    mkdir -p "${OUT:-out}/logs" || exit 1
    out="$(cd "${OUT:-out}" && pwd)"
}

run_tests() {
    prepare_out
    # A suite that fails early must not leave the evidence of an earlier run in its place.
    rm -f "$out"/phase*.json
    export THERIA_EVIDENCE_DIR="$out"
    local test
    for test in "$here"/test-*; do
        run_one "$(basename "$test")" "$out/logs/$(basename "$test").log" "$test" "$@"
    done
    summarise
}

sanitize() {
    if ! command -v compute-sanitizer >/dev/null 2>&1; then
        echo "compute-sanitizer is not on PATH, so nothing was checked; it comes with the CUDA toolkit" >&2
        exit 2
    fi
    prepare_out
    # Everything is up to a hundred times slower: suites take their short lists.
    export THERIA_CASES=short
    # Wrong kernels may read anything, and proofs and random problems launch ten thousand times what conformance does
    # once.
    local skipped=(--skip wrong_ --skip every_proof --skip random_)
    local tool test
    for tool in memcheck racecheck; do
        for test in "$here"/test-*; do
            # Compiles and calls no device, which the sanitizer takes for an error.
            [[ "$test" == *-nvrtc ]] && continue
            run_one "$tool $(basename "$test")" "$out/logs/$tool-$(basename "$test").log" \
                compute-sanitizer --tool "$tool" --error-exitcode 1 --report-api-errors no \
                "$test" --test-threads 1 "${skipped[@]}" "$@"
        done
    done
    summarise
}

task="${1:-}"
[ $# -eq 0 ] || shift
case "$task" in
    test) run_tests "$@" ;;
    sanitize) sanitize "$@" ;;
    bench) exec "$here/theria" bench "$@" ;;
    theria) exec "$here/theria" "$@" ;;
    *)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        case "$task" in "" | -h | --help | help) exit 0 ;; esac
        echo "error: \`$task\` is none of: test, sanitize, bench, theria" >&2
        exit 2
        ;;
esac
