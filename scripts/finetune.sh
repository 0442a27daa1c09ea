#!/usr/bin/env bash
# The whole round with `fairseq-cloze train`: weights, data-bin, training with a watcher beside it, table, report.
#
#   scripts/log.sh bash scripts/finetune.sh                          the example passages
#   TRAIN=my/train VALID=my/valid WEIGHTS=roberta-large UPDATES=2000 WARMUP=200 OUT=work/large \
#       scripts/log.sh bash scripts/finetune.sh --update-freq 4      yours; options go to fairseq-train
#
# Run it again to go on where it was interrupted. Told to stop by USR1 or TERM it exits with 75 (docs/round.md).
set -euo pipefail
here=$(dirname "$(realpath "$0")")/..
if [ -x "$here/.venv/bin/fairseq-cloze" ]; then
    PATH="$here/.venv/bin:$PATH"
fi

# What is left out is decided by fairseq-cloze train. WEIGHTS: of the Hugging Face hub, or a folder.
exec fairseq-cloze train "${TRAIN:-$here/examples/passages/train}" --valid "${VALID:-$here/examples/passages/valid}" \
    --pretrained "${WEIGHTS:-roberta-base}" --out "${OUT:-work/finetune}" --watch "${WATCH_DEVICE:-cpu}" \
    --log-format json --log-interval 5 \
    ${UPDATES:+--max-update "$UPDATES"} ${WARMUP:+--warmup-updates "$WARMUP"} ${LR:+--lr "$LR"} \
    ${MAX_TOKENS:+--max-tokens "$MAX_TOKENS"} ${SAVE_EVERY:+--save-interval-updates "$SAVE_EVERY"} "$@"
