#!/bin/sh
# Runs every ablation of this folder one after the other, going on where an earlier call was stopped:
#   configs/ablations/run.sh --labels labels.csv --trunk-weights resnet50.npz
# Then: python -m musiq.training.compare_runs runs/ablations/*
set -e
here=$(dirname "$0")
for recipe in "$here"/*.toml; do
    name=$(basename "$recipe" .toml)
    out=${RUNS:-runs}/ablations/$name
    echo "== $name"
    case $name in
        pyramid | native) own="--trunk-weights none" ;; # `tiny` has no ResNet
        *) own= ;;
    esac
    # shellcheck disable=SC2086
    "${PYTHON:-python}" "$here/../../train.py" --config "$recipe" --out "$out" --resume "$@" $own
done
