#!/bin/sh
# The CPU rows of docs/benchmarks.md: three presets in every format and precision that a CPU runs, beside eager PyTorch; each
# for one size, and for any (over the images at their own sizes) where it has such a form.
#
#   results/cpu.sh IMAGES [musiq-bench options, such as --labels labels.csv]
#
# IMAGES is a folder of 200 photographs or more. Checkpoints, artifacts and the whole report lie in $WORK (default:
# build/cpu); report.json is copied to $RESULT (results/cpu.json). What is missing is made: random weights, on which
# latency does not depend; put a checkpoint there as models/PRESET.safetensors to measure your own. Stopped in the middle,
# it goes on where it was. It takes hours: with --plan it says how many. $PRESETS, $PRECISIONS, $SIZES (fixed, any), $WIDTH and
# $HEIGHT narrow it down.
#
# Left out: pt2 and torchscript in fp16, for which PyTorch takes several times as long as for fp32 on CPUs without
# instructions for it (results/cpu-fp16-*.json: one that has some), and in bf16 on CPUs that lack those for it; ONNX in bf16,
# which no ONNX Runtime computes.
set -eu
images=$1
shift
work=${WORK:-build/cpu}
presets=${PRESETS:-musiq resnet50 resnet50-classic}
width=${WIDTH:-1024} height=${HEIGHT:-768}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work/models"

make_all() { # PRESET fixed|any
    [ -f "$work/models/$1.safetensors" ] ||
        python -m musiq_bench.profiling.random_checkpoint "$1" "$work/models/$1.safetensors"
    for precision in ${PRECISIONS:-fp32 fp16 bf16 int8}; do
        case $precision in
            fp32) make_some "$1" "$2" fp32 onnx openvino pt2 torchscript ;;
            # shellcheck disable=SC2086
            bf16) make_some "$1" "$2" bf16 openvino $bf16_in_pytorch ;;
            *) make_some "$1" "$2" "$precision" onnx openvino ;;
        esac
    done
}

make_some() { # PRESET fixed|any PRECISION FORMAT...
    preset=$1 precision=$3
    case $2 in
        any) size="--size any" name=$1-any-$3 ;;
        *) size="--height $height --width $width" name=$1-$3 ;;
    esac
    shift 3
    done=$work/models/$name.log
    [ ! -f "$done" ] || return 0
    formats=
    for format in "$@"; do
        formats="$formats --format $format"
    done
    echo "== $name" >&2
    # A format that is refused (too far from fp32, or int8 that is slower than it) costs its own row and no other. In one
    # call, because they share the minutes that int8 takes to calibrate.
    # shellcheck disable=SC2086
    musiq-export --checkpoint "$work/models/$preset.safetensors" --name "$name" --out "$work/models" \
        $size $formats --precision "$precision" --images "$images" \
        --max-images 16 --calibration-images "${CALIBRATION:-$images}" >"$done.part" 2>&1 ||
        [ $? -eq 1 ]
    grep -e 'built in' -e '^Error' "$done.part" >&2 || true
    mv "$done.part" "$done"
}

bf16_in_pytorch="pt2 torchscript"
python -c 'import sys, torch; sys.exit(not torch.ops.mkldnn._is_mkldnn_bf16_supported())' 2>/dev/null || bf16_in_pytorch=
for each in $presets; do
    for size in ${SIZES:-fixed any}; do
        [ "$each-$size" = resnet50-classic-any ] || make_all "$each" "$size"
    done
done
trap : INT # Ctrl-C ends the measuring; what was finished is reported, and copied below
musiq-bench --images "$images" --models "$work/models" --batch 1 --batch 8 --calls 10 --seconds 10 --rounds 2 --warmup 2 \
    --max-images 200 --out "$work/report" --resume "$@" || ended=$?
[ ! -f "$work/report/report.json" ] || cp "$work/report/report.json" "${RESULT:-$root/results/cpu.json}"
exit "${ended:-0}"
