#!/bin/bash
# A crawl on Slurm: a Ray of this job alone, its head on the first node, workers on all, the driver beside the head.
#
#   sbatch configs/cluster/slurm.sh mine.yaml
#
#SBATCH --job-name=openwit
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

config=${1:?the config of the crawl}
venv=${OPENWIT_VENV:-$PWD/.venv}
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
port=$((20000 + SLURM_JOB_ID % 20000))
head="${nodes[0]}:$port"

# One token for this job, in a file that only its user can read: Ray takes commands from whoever reaches its ports.
# `srun` passes the environment on; the file must lie where all nodes see it, as a home does.
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/openwit-$SLURM_JOB_ID.token"
mkdir -p "$HOME/.ray"
"$venv/bin/python" -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH"

# Scratch on each node's own disk. Ray's sockets lie there too, and their paths may not pass 107 bytes.
export TMPDIR="${OPENWIT_SCRATCH:-/tmp}/ow$SLURM_JOB_ID"
everywhere=(srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1)
clean_up() {
    kill "${ray[@]}" 2> /dev/null || true
    wait "${ray[@]}" 2> /dev/null || true
    "${everywhere[@]}" rm -rf "$TMPDIR" || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
ray=()
trap clean_up EXIT
"${everywhere[@]}" mkdir -p "$TMPDIR"

start() { # NODE WORDS...
    srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$1" \
        "$venv/bin/ray" start --block --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --temp-dir="$TMPDIR" "${@:2}" &
    ray+=($!)
}

start "${nodes[0]}" --head --port="$port"
for _ in $(seq 60); do
    srun --overlap --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" "$venv/bin/ray" health-check --address "$head" && break
    sleep 2
done
for node in "${nodes[@]:1}"; do
    start "$node" --address="$head"
done

RAY_ADDRESS="$head" srun --overlap --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
    "$venv/bin/python" -m pipeline run "$config"
