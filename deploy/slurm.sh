#!/bin/bash
# A Ray on Slurm whose history outlives the job. Every node has raytrail[objects] in Ray's Python:
#   RAYTRAIL_AGENT_TO=s3://ray-history/ray-events sbatch --nodes 2 deploy/slurm.sh driver.py
#SBATCH --job-name=ray
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
set -euo pipefail

driver=${1:?name a driver: sbatch deploy/slurm.sh driver.py}
: "${RAYTRAIL_AGENT_TO:?name a broker or a bucket that all nodes reach, such as s3://ray-history/ray-events}"
case $RAYTRAIL_AGENT_TO in
file:*)
    echo "file:// is for one machine, and not for a file system that nodes share; give another RAYTRAIL_AGENT_TO" >&2
    exit 2
    ;;
esac
export RAYTRAIL_AGENT_TO RAYTRAIL_TAIL_CLUSTER=${RAYTRAIL_TAIL_CLUSTER:-$SLURM_JOB_NAME}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))
address=${nodes[0]}:$port

# Ray and its agent are one step of each node. It ends when the file appears, and the agent once it has shipped the rest.
over=$SLURM_SUBMIT_DIR/.ray-$SLURM_JOB_ID-over
# shellcheck disable=SC2016  # the node's own shell is to read it
node='
    over=$1 directory=/tmp/ray-$SLURM_JOB_ID
    shift
    mkdir -p "$directory"
    raytrail agent --with-ray --temp-dir "$directory" --state-dir "$directory/raytrail" &
    agent=$!
    raytrail run -- ray start "$@"
    until test -e "$over"; do sleep 2; done
    ray stop
    wait "$agent"
    rm -rf "$directory"'
on() { srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" bash -c "$node" ray "$over" "${@:2}"; }

on "${nodes[0]}" --head "--port=$port" "--temp-dir=/tmp/ray-$SLURM_JOB_ID" &
started=$!
until ray status --address "$address" >/dev/null 2>&1; do
    kill -0 "$started" || exit 1
    sleep 2
done
for name in "${nodes[@]:1}"; do
    on "$name" "--address=$address" &
done

status=0
raytrail run -- env "RAY_ADDRESS=$address" python "$driver" || status=$?
touch "$over"
wait
rm -f "$over"
exit "$status"
