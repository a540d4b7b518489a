#!/usr/bin/env bash
# Everything that only a GPU can show, in a few minutes; rows go to a folder (default: gpu_results) as they come.
#   tools/speed/gpu.sh [FOLDER]        from the checkout's root, in an environment with torch for CUDA
set -u
out=${1:-gpu_results}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH="$PWD:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/gpu.txt"
"$python" -m tools.speed.bench_device --rows "$out/rows.jsonl" 2>&1 | tee "$out/bench_device.log"
"$python" -m tools.speed.bench_search --device cuda --steps 100 --settings bnas --json "$out/search_speed.json" \
    2>&1 | tee "$out/bench_search.log"
"$python" -m binas search demo_digits --runs "$out/runs" 2>&1 | tee "$out/demo.log"
"$python" -m pytest -q -m gpu -p no:cacheprovider tests/engine tests/data tests/run 2>&1 | tee "$out/tests.log"
