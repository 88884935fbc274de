#!/bin/sh
# How time and memory grow with the batch, the size of images and their number, into results/growth.json and .png:
#
#   results/growth.sh IMAGES
#
# Weights are random, on which time and memory do not depend. Batches and image sizes that memory has no room for become
# rows that say so. $WORK (default: build/growth) keeps artifacts and reports; stopped in the middle, it goes on where it was.
set -eu
images=$1
work=${WORK:-build/growth}
preset=${PRESET:-musiq}
many=${MANY:-tiny} # the preset that scores thousands of images
sizes=${SIZES:-512x512 1024x768 1600x1200 2048x1536 2832x2128 4000x3000}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work/sizes"

make_one() { # PRESET WIDTHxHEIGHT
    weights=$work/$1.safetensors
    [ -f "$weights" ] || python -m musiq_bench.profiling.random_checkpoint "$1" "$weights"
    [ -f "$work/sizes/$1-$2.onnx.json" ] || musiq-export --checkpoint "$weights" --name "$1-$2" --out "$work/sizes" \
        --width "${2%x*}" --height "${2#*x}" --format onnx --images "$images" --max-images 1 >&2
}

for size in $sizes; do
    make_one "$preset" "$size"
done
measure() { # REPORT MODEL... -- OPTIONS
    musiq-bench --images "$images" --checkpoint "$work/$preset.safetensors" --baseline none --max-images 1 \
        --calls "${CALLS:-5}" --seconds 2 --rounds 1 --warmup 1 --resume "$@" >&2
}
measure --out "$work/over-sizes" $(for size in $sizes; do echo "--models $work/sizes/$preset-$size.onnx"; done)
measure --out "$work/over-batches" --models "$work/sizes/$preset-${SIZE:-1024x768}.onnx" \
    $(for batch in ${BATCHES:-1 2 4 8 16 32 64}; do echo "--batch $batch"; done)
make_one "$many" "${SIZE:-1024x768}"
python -m musiq_bench.profiling.scaling --batches "$work/over-batches" --sizes "$work/over-sizes" --images "$images" \
    --model "$work/sizes/$many-${SIZE:-1024x768}.onnx" ${COUNTS:+$(for n in $COUNTS; do echo "--count $n"; done)} \
    --out "${RESULT:-$root/results/growth.json}"
