#!/bin/sh
# The CPU rows of the README: three presets at 1024x768 in every format and precision that a CPU runs, beside eager PyTorch.
#
#   results/cpu.sh PICTURES [musiq-bench options, such as --labels labels.csv]
#
# PICTURES is a folder of at least 200 photographs. Checkpoints and artefacts lie in $WORK (default: build/cpu) and are made
# where missing: weights as random as those of the tests, on which latency does not depend; put FILE there as
# PRESET.safetensors to measure your own. Stopped in the middle, it goes on where it was. Hours: `--plan` says how many.
#
# Left out: pt2 and torchscript in fp16, for which PyTorch on CPUs takes several times as long as for fp32; ONNX in bf16,
# which runs on CUDA only.
set -eu
pictures=$1
shift
work=${WORK:-build/cpu}
report=${REPORT:-results/cpu}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work/exports"

export_all() { # PRESET
    checkpoint=$work/$1.safetensors
    [ -f "$checkpoint" ] || PYTHONPATH=$root python -m tests.recipe "$1" "$checkpoint"
    make_one "$1" fp32 "" onnx openvino pt2 torchscript
    make_one "$1" fp16 -fp16 onnx openvino
    make_one "$1" bf16 -bf16 openvino pt2 torchscript
    make_one "$1" int8 -int8 onnx openvino
}

make_one() { # PRESET PRECISION SUFFIX FORMAT...
    preset=$1 precision=$2 suffix=$3
    shift 3
    for format in "$@"; do
        ending=$format
        [ "$format" != openvino ] || ending=xml
        file=$work/exports/$preset-1024x768$suffix.$ending
        [ ! -f "$file" ] && [ ! -f "$file.refused" ] || continue
        echo "== $preset $format $precision" >&2
        # A format that is refused (too far from fp32, or int8 slower than it) costs its own row and no other.
        musiq-export --checkpoint "$work/$preset.safetensors" --name "$preset-1024x768$suffix" --out "$work/exports" \
            --height 768 --width 1024 --format "$format" --precision "$precision" --images "$pictures" --max-images 16 \
            --calibration-images "${CALIBRATION:-$pictures}" || touch "$file.refused"
    done
}

for preset in musiq resnet50 resnet50-classic; do
    export_all "$preset"
done
musiq-bench --images "$pictures" --models "$work/exports" --batch 1 --batch 8 --calls 10 --seconds 10 --rounds 2 --warmup 2 \
    --max-images 200 --out "$report" --resume "$@"
