#!/bin/sh
# Profiles the kernel that serves one shape with Nsight Compute, and holds a few numbers against gates.
#
#   benches/profile.sh 4,16,4096,128                 forward of cuda-fused in bf16
#   benches/profile.sh 4,16,4096,128,causal f16 cuda-fused forward
#   THERIA=target/release/theria OUT=profile benches/profile.sh 2,8,512,64
#
# SHAPE is B,H,T,D or B,H,T,D,causal. Writes the report (OUT.ncu-rep, for ncu-ui), the metrics (OUT.csv) and
# the warp states and memory tables (OUT.txt). docs/bench.md says how to read each. The clocks stay as they
# are: nothing of the device's settings is changed.
#
# Exit code: 0 every gate holds, 1 one does not, 2 nothing was profiled.
set -eu

usage() {
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
}
case "${1:-}" in '' | -h | --help) usage ;; esac
shape=$1
dtype=${2:-bf16}
backend=${3:-cuda-fused}
rule=${4:-forward}
program=${THERIA:-target/release/theria}
out=${OUT:-profile-$backend-$rule-$dtype-$(printf %s "$shape" | tr , x)}

complain() {
    echo "error: $1" >&2
    exit 2
}
command -v ncu >/dev/null || complain "ncu is not on PATH; it comes with the CUDA toolkit (Nsight Compute)"
[ -x "$program" ] || complain "$program is not there; run cargo build --release, or set THERIA to the program"

# Metric, gate, what it is. A gate is a lower bound (>=) or an upper bound (<=); - has none.
gates='
gpu__time_duration.sum|-|time of the kernel
sm__inst_executed_pipe_tensor.sum|-|instructions of the tensor pipe
sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active|>=60|tensor pipe active
dram__throughput.avg.pct_of_peak_sustained_elapsed|<=80|device memory, of its peak
lts__t_sector_hit_rate.pct|>=60|second-level cache, sectors that hit
sm__warps_active.avg.pct_of_peak_sustained_active|>=12|occupancy that was reached
smsp__issue_active.avg.pct_of_peak_sustained_active|<=85|cycles in which a scheduler issues
smsp__warps_eligible.avg.per_cycle_active|>=0.5|warps ready to issue
l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum|-|shared memory, bank conflicts of loads
l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum|-|shared memory, bank conflicts of stores
l1tex__data_pipe_lsu_wavefronts_mem_shared.sum|-|shared memory, wavefronts
smsp__inst_executed_op_local_ld.sum|<=0|loads of spilled registers
smsp__inst_executed_op_local_st.sum|<=0|stores of spilled registers
smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio|-|stall: a busy arithmetic pipe
smsp__average_warps_issue_stalled_wait_per_issue_active.ratio|-|stall: a fixed latency
smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio|<=2|stall: device memory or its caches
smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio|<=2|stall: shared memory or special functions
smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio|<=1|stall: a barrier of the block
smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio|<=1|stall: queue of shared memory instructions
smsp__average_warps_issue_stalled_gmma_per_issue_active.ratio|-|stall: asynchronous matrix products
'
# A metric that the device has not would end the run: only those that it lists are asked for.
listed=$(ncu --query-metrics 2>/dev/null | cut -d' ' -f1 || true)
metrics=$(printf %s "$gates" | cut -d'|' -f1 | grep . | while read -r metric; do
    if [ -z "$listed" ] || printf '%s\n' "$listed" | grep -qxF "${metric%%.*}"; then echo "$metric"; fi
done | paste -sd, -)
[ -n "$metrics" ] || complain "ncu lists none of the metrics for this device"

# The first launches are the check of the result and the warm-up. Every kernel of theria is called `kernel`.
set +e
ncu --clock-control none --kernel-name kernel --launch-skip 2 --launch-count 3 --force-overwrite \
    --section SpeedOfLight --section WarpStateStats --section MemoryWorkloadAnalysis_Tables \
    --section Occupancy --section SourceCounters --metrics "$metrics" --export "$out" \
    "$program" bench --shape "$shape" --dtype "$dtype" --backend "$backend" --rules "$rule" --runs 3 >"$out.log" 2>&1
status=$?
set -e
if [ $status -ne 0 ] || [ ! -s "$out.ncu-rep" ]; then
    tail -20 "$out.log" >&2
    complain "ncu ended with $status; $out.log has all of it (ERR_NVGPUCTRPERM: counters need rights on this machine)"
fi
ncu --import "$out.ncu-rep" --page details >"$out.txt"
ncu --import "$out.ncu-rep" --page raw --csv --print-units base --metrics "$metrics" >"$out.csv"

# The mean over the launches, beside its gate.
python3 - "$out.csv" "$gates" <<'PYTHON'
import csv
import sys

path, gates = sys.argv[1:]
lines = [line for line in open(path) if line.startswith('"')]
names, _units, *launches = list(csv.reader(lines))
failed, means = 0, {}
print(f"{len(launches)} launches")
for entry in gates.strip().splitlines():
    metric, gate, meaning = entry.split("|")
    values = []
    for launch in launches:
        text = launch[names.index(metric)].replace(",", "") if metric in names else ""
        try:
            values.append(float(text))
        except ValueError:
            pass  # a metric that this device has not
    if not values:
        print(f"{'-':>16}           not on this device   {meaning}")
        continue
    mean = means[metric] = sum(values) / len(values)
    holds = gate == "-" or (mean >= float(gate[2:]) if gate.startswith(">=") else mean <= float(gate[2:]))
    failed += not holds
    verdict = "" if gate == "-" else "holds" if holds else "FAILED"
    print(f"{mean:16.2f} {gate if gate != '-' else '':>6} {verdict:>7}   {meaning}")
conflicts = sum(v for m, v in means.items() if "bank_conflicts" in m)
waves = means.get("l1tex__data_pipe_lsu_wavefronts_mem_shared.sum", 0)
if waves:
    share, holds = 100 * conflicts / waves, conflicts <= 0.1 * waves
    failed += not holds
    print(f"{share:16.2f}   <=10 {'holds' if holds else 'FAILED':>7}   shared memory, % of wavefronts that are conflicts")
sys.exit(1 if failed else 0)
PYTHON
