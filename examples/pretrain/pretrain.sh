#!/usr/bin/env bash
# Pretrain a small RoBERTa on prose: vocabulary, data, masked words, a folder of float16 weights.
#
#   examples/pretrain/pretrain.sh TEXT OUT                            from random weights
#   TEACHER=weights/model.pt examples/pretrain/pretrain.sh TEXT OUT   from a larger RoBERTa, made small (shrink.py)
#   START=weights/model.pt examples/pretrain/pretrain.sh TEXT OUT     on from weights of the same shape and vocabulary
#
# TEXT holds a paragraph per line, OUT/weights is the result. Run it again to go on where it was interrupted. Options
# after OUT go to fairseq-train. On a CPU, PROCESSES=2 trains with a process per core, each with one thread.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
text=$1 out=$2
shift 2

rows=${ROWS:-16000}        # of the vocabulary
layers=${LAYERS:-0 2 3 5}  # of the teacher; from random weights, their number counts
dim=${DIM:-256}
ffn=${FFN:-$((4 * dim))}
heads=${HEADS:-$((dim / 64))}
length=${LENGTH:-128}      # tokens of a sample
batch=${BATCH:-128}        # samples of an update, over all processes
updates=${UPDATES:-3400}
warmup=${WARMUP:-100}
rate=${LR:-1e-3}
processes=${PROCESSES:-1}

mkdir -p "$out"
if [ ! -d "$out/data" ]; then
    rm -rf "$out/data.partial"
    python "$here/binarize.py" "$text" --out "$out/data.partial" --size "$rows"
    mv "$out/data.partial" "$out/data"
fi
start=()
if [ -n "${START:-}" ]; then
    python - "$START" "$out/data" <<'CHECK'
import sys
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.weights.checkpoint import Checkpoint

weights, data = sys.argv[1:]
try:
    print(Checkpoint.read(weights).check_vocabulary(Vocabulary.load(data), data)[0])
except ClozeError as error:
    sys.exit(f"Error: {error}")
CHECK
    start=(--finetune-from-model "$START")
elif [ -n "${TEACHER:-}" ]; then
    # shellcheck disable=SC2086
    [ -f "$out/start/model.pt" ] || python "$here/shrink.py" "$TEACHER" "$text" "$out/data" --out "$out/start/model.pt" \
        --layers $layers --dim "$dim" --ffn "$ffn" --heads "$heads" --length "$length"
    start=(--finetune-from-model "$out/start/model.pt")
fi

train() { # options of one process; stands for it, so that a signal reaches it
    exec fairseq-train "$out/data" --user-dir "$here/masked_words" --task masked_words --criterion masked_words \
        --arch cloze_roberta_base --encoder-layers "$(wc -w <<<"$layers")" --encoder-embed-dim "$dim" \
        --encoder-ffn-embed-dim "$ffn" --encoder-attention-heads "$heads" --max-positions "$length" "${start[@]}" \
        --tokens-per-sample "$length" --batch-size $((batch / processes)) --dropout 0 --attention-dropout 0 \
        --optimizer muon --clip-norm 1.0 --autocast \
        --lr "$rate" --lr-scheduler polynomial_decay --warmup-updates "$warmup" --total-num-update "$updates" \
        --max-update "$updates" --save-dir "$out/checkpoints" --save-interval-updates 200 --keep-interval-updates 1 \
        --no-epoch-checkpoints --validate-interval-updates 200 --log-format simple --log-interval 20 --num-workers 1 "$@"
}

if [ "$processes" = 1 ]; then
    train "$@" 2>&1 | tee -a "$out/train.log"
else
    trap 'kill -KILL $(jobs -p) 2>/dev/null || true' EXIT
    export OMP_NUM_THREADS=1
    port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    pids=()
    for rank in $(seq 0 $((processes - 1))); do
        train --distributed-init-method "tcp://127.0.0.1:$port" --distributed-world-size "$processes" \
            --distributed-rank "$rank" --device-id "$rank" --distributed-no-spawn --distributed-backend gloo \
            --ddp-backend legacy_ddp "$@" 2>&1 | { if [ "$rank" = 0 ]; then tee -a "$out/train.log"; else cat >>"$out/train.$rank.log"; fi; } &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
fi
python "$here/finish.py" "$out/checkpoints/checkpoint_last.pt" "$out/data" --out "$out/weights"
