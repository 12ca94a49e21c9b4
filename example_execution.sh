#!/usr/bin/env bash
# Runs all four experiments on a benchmark with engine vllm. The defaults suit one GPU of 24 GB or more.
#
#   ./example_execution.sh                 Qwen3-4B on AIME 2025, results under outputs/
#   DEMO=1 ./example_execution.sh          the embedded model on the task `demo`, on a CPU, in minutes
#
# Any further option goes through: ./example_execution.sh --limit 4 --max_tokens 2048
set -euo pipefail
cd "$(dirname "$0")"

if [[ "${DEMO:-0}" == 1 ]]; then
    defaults=(--model_name demo --data_name demo --max_sequences 8 --max_tokens 256 --device cpu --limit 8)
else
    defaults=(--model_name Qwen/Qwen3-4B --data_name opencompass/AIME2025 --max_sequences 32)
fi

output_dir="${OUTPUT_DIR:-outputs/example-$(date +%Y-%m-%d_%H-%M-%S)}"

python -m src.main_vllm \
    "${defaults[@]}" \
    --temperature 0.6 \
    --entropy_threshold 2.2 \
    --experiments all \
    --output_dir "$output_dir" \
    --seed 55 \
    "$@"
