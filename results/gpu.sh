#!/bin/sh
# The GPU rows of docs/benchmarks.md on this machine's first NVIDIA GPU, the most telling first; results are written as they
# come, so that a GPU that is lent for minutes is well used:
#
# - any: models for images of any size over the images at their own sizes, into results/gpu-PRESET-any.json: ONNX of images and of
#   patches, padded or not, in ONNX Runtime, as CUDA graphs, and as TensorRT engines where TensorRT is installed; beside them
#   one for a fixed size, and PyTorch.
# - fixed: presets for one size in PyTorch (eager and compiled), TorchScript, .pt2 and ONNX Runtime, in fp32, fp16 and bf16,
#   into results/gpu.json.
#
#   results/gpu.sh IMAGES [musiq-bench options, such as --labels labels.csv]
#
# IMAGES is a folder of 200 photographs or more, for the first part of many sizes (musiq_bench.profiling.sized_photos makes
# one). Needs musiq[gpu,train,bench]. Checkpoints, artifacts and whole reports lie in $WORK (default: build/gpu). What is
# missing is made: random weights, on which latency does not depend; put a checkpoint there as models/PRESET.safetensors to
# measure your own. Stopped in the middle, it goes on where it was. $PARTS, $PRESETS, $PRECISIONS, $BASELINES, $BATCHES,
# $DEVICES, $WIDTH, $HEIGHT, $TOKENS (of the longest image), $CALLS and $ROUNDS narrow it down; $RESULT_ANY and $RESULT say
# where results go.
#
# Engines for one size are made by: musiq-export --format trt --precision fp16 --batch 1..32 --out build/gpu/models ...
set -eu
images=$1
shift
work=${WORK:-build/gpu}
width=${WIDTH:-1024} height=${HEIGHT:-768} batches=${BATCHES:-1 8 32}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work/models"

largest=1 asked=
for batch in $batches; do
    asked="$asked --batch $batch"
    [ "$batch" -le "$largest" ] || largest=$batch
done

export_as() { # FOLDER PRESET NAME OPTION...
    to=$1 preset=$2 name=$3
    shift 3
    [ -f "$work/models/$preset.safetensors" ] ||
        python3 -m musiq_bench.profiling.random_checkpoint "$preset" "$work/models/$preset.safetensors"
    done=$to/$name.log
    [ ! -f "$done" ] || return 0
    echo "== $name" >&2
    # A format that is refused costs its own row and no other.
    musiq-export --checkpoint "$work/models/$preset.safetensors" --name "$name" --out "$to" --tune-for gpu "$@" \
        >"$done.part" 2>&1 || [ $? -eq 1 ]
    grep -e 'built in' -e '^Error' "$done.part" >&2 || true
    mv "$done.part" "$done"
}

trap : INT # Ctrl-C ends the measuring; what was finished is reported, and copied below
ended=0
measure() { # OUT RESULT OPTION...
    out=$1 result=$2
    shift 2
    # shellcheck disable=SC2086
    musiq-bench --images "$images" $asked --calls "${CALLS:-100}" --rounds "${ROUNDS:-2}" --max-images 200 --out "$out" \
        --resume "$@" || ended=$?
    [ ! -f "$out/report.json" ] || cp "$out/report.json" "$result"
    [ "$ended" -ne 130 ] || exit 130
}

devices() { # DEVICE...
    for device in "$@"; do
        printf ' --device %s' "$device"
    done
}

any_size() { # PRESET [musiq-bench options]
    preset=$1 folder=$work/any-$1
    shift
    mkdir -p "$folder/models"
    patches="--size any --inputs patches --padded"
    add() { # NAME OPTION...
        name=$1
        shift
        # shellcheck disable=SC2086
        export_as "$folder/models" "$preset" "$preset-$name" --precision fp16 "$@"
    }
    now() { # measure all that is there by now: [musiq-bench options]
        # shellcheck disable=SC2046,SC2086
        measure "$folder/report" "${RESULT_ANY:-$root/results/gpu-$preset-any.json}" --models "$folder/models" \
            --checkpoint "$work/models/$preset.safetensors" $(devices ${DEVICES:-cuda:0 cuda-graph:0}) "$@"
    }
    add any --size any --format onnx --batch "1..$largest"
    now --baseline none "$@"
    # shellcheck disable=SC2086
    case $preset in
        resnet50*) ;; # whose trunk sees whole images
        *)
            add padded $patches --format onnx --batch "1..$largest"
            add patches --size any --inputs patches --format onnx --batch "1..$largest"
            now --baseline none "$@"
            if python3 -c 'import tensorrt' 2>/dev/null; then
                add engine $patches --format trt --batch "1..$largest" ${TOKENS:+--tokens "1..$TOKENS"}
            fi
            for batch in $batches; do
                add "graph$batch" $patches --format onnx --batch "$batch" --tokens "${TOKENS:-2304}"
            done
            now --baseline none "$@"
            ;;
    esac
    add fixed --width "$width" --height "$height" --format onnx --batch "1..$largest"
    now --baseline none "$@"
    baselines=
    for baseline in ${BASELINES:-eager:fp16}; do
        case $baseline in
            compile*) ;; # which makes code for one size
            *) baselines="$baselines --baseline $baseline" ;;
        esac
    done
    # shellcheck disable=SC2086
    now $baselines "$@"
}

fixed_size() { # [musiq-bench options]
    size="--width $width --height $height"
    for preset in ${PRESETS:-musiq resnet50}; do
        for precision in ${PRECISIONS:-fp32 fp16 bf16}; do
            # ONNX Runtime has no MaxPool in bf16.
            onnx="--format onnx"
            [ "$precision" != bf16 ] || onnx=
            # shellcheck disable=SC2086
            export_as "$work/models" "$preset" "$preset-$precision" $size --precision "$precision" $onnx \
                --format torchscript --batch "1..$largest"
        done
        # One batch size for CUDA graphs; what PyTorch compiles when it opens it.
        for batch in $batches; do
            # shellcheck disable=SC2086
            export_as "$work/models" "$preset" "$preset-fp16-only$batch" $size --precision fp16 --format onnx \
                --batch "$batch"
        done
        # shellcheck disable=SC2086
        export_as "$work/models" "$preset" "$preset-fp16-exported" $size --precision fp16 --format pt2 --batch "1..$largest"
    done
    baselines=
    for baseline in ${BASELINES:-eager:fp16 eager:bf16 compile compile:fp16 compile:bf16}; do
        baselines="$baselines --baseline $baseline"
    done
    # shellcheck disable=SC2046,SC2086
    measure "$work/report" "${RESULT:-$root/results/gpu.json}" --models "$work/models" $baselines \
        $(devices ${DEVICES:-cuda:0 cuda-graph:0 cuda-compile:0}) "$@"
}

for part in ${PARTS:-any fixed}; do
    case $part in
        any)
            for each in ${PRESETS:-musiq}; do
                any_size "$each" "$@"
            done
            ;;
        *) fixed_size "$@" ;;
    esac
done
exit "$ended"
