#!/usr/bin/env bash
# The whole round: weights, data-bin, training with a watcher beside it that scores every checkpoint, report.
#
#   scripts/log.sh bash scripts/finetune.sh                          the example passages
#   TRAIN=my/train VALID=my/valid WEIGHTS=roberta-large UPDATES=2000 WARMUP=200 OUT=work/large \
#       scripts/log.sh bash scripts/finetune.sh --update-freq 4      yours; options go to fairseq-train
#
# Run it again to go on where it was interrupted: what is there is not made again. OUT belongs to the content of TRAIN,
# VALID and WEIGHTS: with others it is refused. Told to stop by USR1 or TERM it saves
# and exits with 75 (docs/round.md).
set -euo pipefail
here=$(dirname "$(realpath "$0")")/..
if [ -x "$here/.venv/bin/fairseq-cloze" ]; then
    PATH="$here/.venv/bin:$PATH"
fi

train=${TRAIN:-$here/examples/passages/train}
valid=${VALID:-$here/examples/passages/valid}
weights=${WEIGHTS:-roberta-base}   # of the Hugging Face hub, or a folder: of Hugging Face, or with a model.pt
out=${OUT:-work/finetune}
updates=${UPDATES:-24}             # an epoch of CLOTH is about 220 of 8192 tokens
warmup=${WARMUP:-4}
rate=${LR:-1e-5}                   # or less for large models
max_tokens=${MAX_TOKENS:-4096}     # fairseq-cloze fit-batch finds what fits
save_every=${SAVE_EVERY:-10}       # updates
watch_device=${WATCH_DEVICE:-cpu}  # cuda:1 where a second GPU is free

precision=()
if nvidia-smi -L >/dev/null 2>&1; then
    precision=(--fp16)
fi

fail() { echo "finetune.sh: $*" >&2; exit 1; }
content() { # a digest of a file, or of the files in a folder with their names; a name of the hub stands for itself
    if [ -d "$1" ]; then (cd "$1" && find -L . -type f -not -path '*/.*' -print0 | LC_ALL=C sort -z | xargs -0r sha256sum)
    elif [ -e "$1" ]; then sha256sum <"$1"; else echo "$1"; fi | sha256sum
}
[ -e "$train" ] || fail "TRAIN: $train: no such file or folder"
[ -e "$valid" ] || fail "VALID: $valid: no such file or folder"
inputs="" others=""
for input in "TRAIN=$train" "VALID=$valid" "WEIGHTS=$weights"; do
    digest=$(content "${input#*=}")
    line="${input%%=*} ${digest%% *}"
    grep -qxF "$line" "$out/inputs.txt" 2>/dev/null || others+=" ${input%%=*}"
    inputs+="$line"$'\n'
done
if [ -e "$out/inputs.txt" ] || [ -e "$out/data-bin" ] || [ -e "$out/weights" ] || [ -e "$out/checkpoints" ]; then
    [ -z "$others" ] || fail "$out holds the data of another$others; choose another OUT, or remove that folder first"
else
    mkdir -p "$out"
    printf %s "$inputs" >"$out/inputs.txt.new" && mv "$out/inputs.txt.new" "$out/inputs.txt"
fi

if [ -f "$weights/model.pt" ]; then
    pretrained=$weights
else
    pretrained=$out/weights
    [ -f "$pretrained/model.pt" ] || fairseq-cloze import-hf "$weights" --out "$pretrained"
fi
[ -f "$out/data-bin/manifest.json" ] ||
    fairseq-cloze prepare --train "$train" --valid "$valid" --pretrained "$pretrained" --out "$out/data-bin"

export PYTHONWARNINGS=ignore # fairseq's

# Signals are for fairseq-train, which saves. This shell waits for it.
trap : USR1 TERM
mkdir -p "$out/checkpoints"
rm -f "$out/checkpoints/run.json" # of an earlier run: the watcher would see that one end
fairseq-cloze watch "$out/checkpoints" "$out/data-bin" --device "$watch_device" &
watcher=$!

status=0
fairseq-train "$out/data-bin" --user-dir "$here/fairseq_cloze" --task cloze_ranking --criterion cloze_ranking \
    --arch cloze_roberta --finetune-from-model "$pretrained/model.pt" "${precision[@]}" \
    --optimizer fused_adamw --adam-betas "(0.9, 0.98)" --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1.0 \
    --lr "$rate" --lr-scheduler polynomial_decay --warmup-updates "$warmup" --total-num-update "$updates" \
    --max-update "$updates" --max-tokens "$max_tokens" --log-format json --log-interval 5 \
    --save-dir "$out/checkpoints" --save-interval-updates "$save_every" --keep-interval-updates 3 \
    --no-epoch-checkpoints --disable-validation "$@" || status=$?
if [ $status != 0 ]; then
    kill $watcher 2>/dev/null || true
    exit $status
fi

wait $watcher # until it has scored the last checkpoint
fairseq-cloze report "$out/checkpoints" --out "$out/report.html"
echo "best: $out/checkpoints/checkpoint_best_accuracy.pt, all: $out/checkpoints/validation.txt, report: $out/report.html"
