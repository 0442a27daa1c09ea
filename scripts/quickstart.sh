#!/usr/bin/env bash
# The whole way in a few minutes, on any machine, without network after installation: a small pretrained RoBERTa, example
# passages, fine-tuning, validation, answers, a page with the results. They go to work/quickstart; running it again starts
# over.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh fairseq
export PATH="$(realpath "${VENV:-.venv}")/bin:$PATH"
export PYTHONWARNINGS=ignore OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"

mini=examples/pretrained/mini
passages=examples/passages
out=work/quickstart
seed=${SEED:-1}
updates=${QUICKSTART_UPDATES:-160}
rm -rf "$out"
mkdir -p "$out/checkpoints"
step=0
say() { step=$((step + 1)) && printf '\n== %s of 7: %s\n' "$step" "$*"; }
shown() { "$@" 2>"$out/last.log" || { cat "$out/last.log" >&2; exit 1; }; } # without warnings, unless it fails

progress() { # the events of a training (docs/formats.md) as lines
    python -u -c '
import json, sys
names = {"update": "update {update} of " + sys.argv[1], "validation": "validation"}
for event in map(json.loads, sys.stdin):
    if event["type"] in names:
        print((names[event["type"]] + ", epoch {epoch}: loss={loss:.3f}, accuracy={accuracy:.2f}").format(**event))
' "$updates"
}

say "prepare: passages -> data-bin"
fairseq-cloze prepare --train $passages/train --valid $passages/valid --test $passages/test \
    --pretrained $mini --out "$out/data-bin"

say "what the pretrained model knows ($mini)"
shown fairseq-cloze evaluate $mini/model.pt "$out/data-bin" --split test \
    --predictions "$out/zero-shot-answers.json"

say "calibrate it"
shown fairseq-cloze calibrate $mini/model.pt "$out/data-bin" --out "$out/calibrated.pt"

say "fine-tune it (log: $out/checkpoints/train.log)"
FAIRSEQ_CLOZE_EVENTS=/dev/fd/3 fairseq-train "$out/data-bin" --user-dir fairseq_cloze --task cloze_ranking --criterion cloze_ranking \
    --arch cloze_roberta --finetune-from-model "$out/calibrated.pt" --contrast 0 --seed "$seed" \
    --optimizer adam --adam-betas "(0.9, 0.98)" --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1.0 \
    --lr 3e-4 --lr-scheduler polynomial_decay --warmup-updates $((updates / 10)) --total-num-update "$updates" \
    --max-update "$updates" --max-tokens 4096 --save-dir "$out/checkpoints" --no-epoch-checkpoints \
    --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric \
    --log-format simple --log-interval 10 --num-workers 0 3>&1 >"$out/checkpoints/train.log" 2>&1 | progress ||
    { tail -n 20 "$out/checkpoints/train.log"; exit 1; }

best=$out/checkpoints/checkpoint_best.pt
say "validate with fairseq's own command"
shown fairseq-validate "$out/data-bin" --user-dir fairseq_cloze --task cloze_ranking --path "$best" \
    --max-tokens 4096 --num-workers 0 | grep '| valid |' | sed 's/.*subset | //'

say "answer the test passages"
shown fairseq-cloze predict "$best" $passages/test --out "$out/answers.json"
shown fairseq-cloze evaluate "$best" "$out/data-bin" --split test \
    --predictions "$out/fine-tuned-answers.json"

say "the page"
fairseq-cloze report "$out/checkpoints" "$out/zero-shot-answers.json" "$out/fine-tuned-answers.json" \
    --passages "$out/data-bin" --out "$out/report.html"

printf '\nThe test passages, before (A) and after (B) training; guessing gives 25%%\n'
fairseq-cloze compare "$out/zero-shot-answers.json" "$out/fine-tuned-answers.json"

cat <<TEXT

Look at every passage with every answer: $PWD/$out/report.html

Next, with passages of yours (docs/formats.md): answers from this model; what the hub's weights need; all of it with RoBERTa
  ${VENV:-.venv}/bin/fairseq-cloze predict $best YOUR/passages --out answers.json
  bash scripts/setup.sh fairseq,hub
  TRAIN=YOUR/train VALID=YOUR/valid WEIGHTS=roberta-base scripts/log.sh bash scripts/finetune.sh
TEXT
