#!/bin/sh
# The GPU rows of docs/benchmarks.md: presets in PyTorch (eager and compiled), TorchScript, .pt2 and ONNX Runtime on this machine's
# first NVIDIA GPU, in fp32, fp16 and bf16, batches of 1, 8 and 32.
#
#   results/gpu.sh IMAGES [musiq-bench options, such as --labels labels.csv]
#
# IMAGES is a folder of 200 photographs or more. Needs musiq[gpu,train,bench]. Checkpoints, artifacts and the whole
# report lie in $WORK (default: build/gpu); report.json is copied to $RESULT (results/gpu.json). What is missing is made:
# random weights, on which latency does not depend; put a checkpoint there as models/PRESET.safetensors to measure your own.
# Stopped in the middle, it goes on where it was. $PRESETS, $PRECISIONS, $BASELINES, $BATCHES, $DEVICES, $WIDTH, $HEIGHT,
# $CALLS and $ROUNDS narrow it down.
#
# Engines of TensorRT are made by: musiq-export --format trt --precision fp16 --batch 1..32 --out build/gpu/models ...
set -eu
images=$1
shift
work=${WORK:-build/gpu}
width=${WIDTH:-1024} height=${HEIGHT:-768} batches=${BATCHES:-1 8 32}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work/models"

export_as() { # PRESET NAME OPTION...
    preset=$1 name=$2
    shift 2
    done=$work/models/$name.log
    [ ! -f "$done" ] || return 0
    echo "== $name" >&2
    # A format that is refused costs its own row and no other.
    musiq-export --checkpoint "$work/models/$preset.safetensors" --name "$name" --out "$work/models" --height "$height" \
        --width "$width" --tune-for gpu "$@" >"$done.part" 2>&1 || [ $? -eq 1 ]
    grep -e 'built in' -e '^Error' "$done.part" >&2 || true
    mv "$done.part" "$done"
}

largest=1 asked=
for batch in $batches; do
    asked="$asked --batch $batch"
    [ "$batch" -le "$largest" ] || largest=$batch
done
for preset in ${PRESETS:-musiq resnet50}; do
    [ -f "$work/models/$preset.safetensors" ] ||
        python3 -m musiq_bench.profiling.random_checkpoint "$preset" "$work/models/$preset.safetensors"
    for precision in ${PRECISIONS:-fp32 fp16 bf16}; do
        # ONNX Runtime has no MaxPool in bf16.
        onnx="--format onnx"
        [ "$precision" != bf16 ] || onnx=
        # shellcheck disable=SC2086
        export_as "$preset" "$preset-$precision" --precision "$precision" $onnx --format torchscript --batch "1..$largest"
    done
    # One batch size for CUDA graphs; what PyTorch compiles when it opens it.
    for batch in $batches; do
        export_as "$preset" "$preset-fp16-only$batch" --precision fp16 --format onnx --batch "$batch"
    done
    export_as "$preset" "$preset-fp16-exported" --precision fp16 --format pt2 --batch "1..$largest"
done
for baseline in ${BASELINES:-eager:fp16 eager:bf16 compile compile:fp16 compile:bf16}; do
    asked="$asked --baseline $baseline"
done
for device in ${DEVICES:-cuda:0 cuda-graph:0 cuda-compile:0}; do
    asked="$asked --device $device"
done
trap : INT # Ctrl-C ends the measuring; what was finished is reported, and copied below
# shellcheck disable=SC2086
musiq-bench --images "$images" --models "$work/models" $asked --calls "${CALLS:-100}" --rounds "${ROUNDS:-2}" \
    --max-images 200 --out "$work/report" --resume "$@" || ended=$?
[ ! -f "$work/report/report.json" ] || cp "$work/report/report.json" "${RESULT:-$root/results/gpu.json}"
exit "${ended:-0}"
