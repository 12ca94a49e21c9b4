#!/usr/bin/env bash
# Runs all four experiments on a benchmark with engine vllm. The defaults suit one GPU of 24 GB or more.
#
#   ./example_execution.sh                 Qwen3-4B on AIME 2025
#   DEMO=1 ./example_execution.sh          the embedded model on the task `demo`, on a CPU, in minutes
#
# Results go to outputs/MODEL/DATA/TIMESTAMP, where the two scripts beside this one find them by these three names.
# Any further option goes through: ./example_execution.sh --limit 4 --max_tokens 2048
set -euo pipefail
cd "$(dirname "$0")"

if [[ "${DEMO:-0}" == 1 ]]; then
    model_name=demo data_name=demo
    # A fixed threshold: see docs/method.md on answers as short as these.
    defaults=(--max_sequences 8 --max_tokens 256 --device cpu --limit 8 --threshold_percentile none)
else
    model_name=Qwen/Qwen3-4B data_name=opencompass/AIME2025
    defaults=(--max_sequences 32)
fi
model_name="${MODEL_NAME:-$model_name}" data_name="${DATA_NAME:-$data_name}"
timestamp="${TIMESTAMP:-$(date +%F_%H-%M-%S)}"

python -m src.main_vllm \
    --model_name "$model_name" \
    --data_name "$data_name" \
    --temperature 0.6 \
    --entropy_threshold 2.2 \
    --experiments all \
    --output_dir "outputs/$(basename "$model_name")/$(basename "$data_name")/$timestamp" \
    --seed 55 \
    "${defaults[@]}" \
    "$@"

echo "python script_manual_parallel_recapper.py $model_name $data_name $timestamp"
