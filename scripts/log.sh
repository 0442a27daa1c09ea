#!/usr/bin/env bash
# Run any command under a log in logs/ and mail how it went.
#   bash scripts/log.sh bash finetune.sh
# FAIRSEQ_CLOZE_EMAIL holds the addresses, with commas between them; without it there is no mail.
# Uses the repository's .venv if fairseq-cloze is there, else the fairseq-cloze on PATH.
set -euo pipefail
venv=${VENV:-.venv}
[[ $venv = /* ]] || venv=$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../$venv
cloze=$venv/bin/fairseq-cloze
[ -x "$cloze" ] || cloze=$(command -v fairseq-cloze) || {
    echo "log.sh: fairseq-cloze is neither in $venv nor on PATH; install it with 'bash scripts/setup.sh fairseq'" >&2
    exit 127
}
exec "$cloze" run -- "$@"
