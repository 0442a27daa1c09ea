#!/usr/bin/env bash
# A short round in the working folder: prepare, train, evaluate, predict, report, run, mail.
#   round.sh PYTHON INPUTS     INPUTS holds weights/ (model.pt, dict.txt and BPE) and passages/
# Where fairseq is not installed, nothing is trained.
set -euo pipefail
python=$1 inputs=$2
cloze=("$python" -m fairseq_cloze)
plugin=$("$python" -c 'import fairseq_cloze, os; print(os.path.dirname(fairseq_cloze.__file__))')
checkpoint=$inputs/weights/model.pt
export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore

"${cloze[@]}" prepare --train "$inputs/passages" --valid "$inputs/passages" --pretrained "$inputs/weights" --out bin
if "$python" -c 'import fairseq' 2>/dev/null; then
    "$python" -m fairseq_cli.train bin --user-dir "$plugin" --task cloze_ranking --criterion cloze_ranking \
        --arch cloze_roberta --finetune-from-model "$inputs/weights/model.pt" --optimizer adam --lr 1e-5 --max-tokens 512 \
        --max-update 2 --save-dir saved --num-workers 0 --disable-validation --log-format simple >train.log 2>&1 ||
        { cat train.log; exit 1; }
    checkpoint=saved/checkpoint_last.pt
    [ "$(grep -c '"type":"finished"' saved/metrics.jsonl)" = 1 ]
fi
"${cloze[@]}" evaluate "$checkpoint" bin --json figures.json
"${cloze[@]}" predict "$checkpoint" "$inputs/passages" --out answers.json --scores
"${cloze[@]}" report answers.json --passages "$inputs/passages" --out page.html
grep -q '</html>' page.html

port=$("$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$python" -u -m aiosmtpd -n -l "127.0.0.1:$port" -c aiosmtpd.handlers.Debugging stdout >mails.txt 2>server.log &
server=$!
trap 'kill $server' EXIT
for _ in $(seq 100); do
    "$python" -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null && break
    sleep 0.1
done
export FAIRSEQ_CLOZE_MAIL_HOST=127.0.0.1 FAIRSEQ_CLOZE_MAIL_PORT=$port FAIRSEQ_CLOZE_MAIL_SECURITY=plain
export FAIRSEQ_CLOZE_MAIL_FROM=me@example.org FAIRSEQ_CLOZE_MAIL_TO=me@example.org
"${cloze[@]}" mail test
"${cloze[@]}" run --log-dir logs --email a@example.org -- echo 'done: é'
grep -q 'done: é' logs/*.log
grep -q '# status: 0' logs/*.log
[ "$(grep -c 'MESSAGE FOLLOWS' mails.txt)" = 2 ]
