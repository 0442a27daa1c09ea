#!/usr/bin/env bash
# A short round (user_dir_tests/attacks/round.sh) in all surroundings that are promised.
#   scripts/matrix.sh [LEG...]
# LEG: wheel spaces locale home user, which take the .venv that is there; and 3.12 3.13 oldest newest, which make a
# .venv-matrix-LEG each (outside PyPI's CPU builds, of which there are none for Linux, torch takes several GB).
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=$(realpath "${VENV:-.venv}")/bin/python
export HF_HUB_OFFLINE=1
place=$(mktemp -d)
chmod 755 "$place"
trap 'rm -rf "$place"' EXIT

inputs() { # copied, as not everybody may read the repository
    mkdir -p "$1/passages"
    cp -r examples/pretrained/mini "$1/weights"
    cp user_dir_tests/support/passages/valid/b1-*.json "$1/passages"
}
inputs "$place/inputs"

round() { # PYTHON FOLDER COMMAND...: the round there, by a command such as env
    local python=$1 folder=$2
    shift 2
    mkdir -p "$folder"
    (cd "$folder" && "$@" bash "$root/user_dir_tests/attacks/round.sh" "$python" "${INPUTS:-$place/inputs}")
}

installed() { # LEG PYTHON TORCH EXTRAS
    PYTHON=$2 VENV=.venv-matrix-$1 TORCH=$3 bash scripts/setup.sh "$4"
    ".venv-matrix-$1/bin/python" -m pip install --quiet aiosmtpd
    round "$root/.venv-matrix-$1/bin/python" "$place/$1" env
}

leg() {
    case $1 in
    3.12) installed 3.12 python3.12 2.13.0 fairseq ;;
    3.13) installed 3.13 python3.13 2.13.0 keyring ;;
    oldest) installed oldest python3.11 2.6.0 fairseq ;;
    newest) installed newest python3.11 2.14.1 fairseq ;;
    wheel) # and nothing of the repository; what it needs comes from the .venv
        "$python" -m pip wheel --quiet --no-deps --wheel-dir "$place" .
        "$python" -m venv --without-pip "$place/venv"
        local packages
        packages=$("$place/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
        "$python" -c 'import site; print(site.getsitepackages()[0])' >"$packages/others.pth" # lines in it are not run
        "$python" -m pip --python "$place/venv/bin/python" install --quiet --no-deps "$place"/*.whl
        cd "$place"
        "$place/venv/bin/python" -c "import fairseq_cloze; assert fairseq_cloze.__file__.startswith('$packages')"
        "$place/venv/bin/fairseq-cloze" examples # which it holds
        cmp examples/pretrained/mini/model.pt inputs/weights/model.pt
        round "$place/venv/bin/python" "$place/wheel" env
        ;;
    spaces)
        local folder="$place/Prüfung Nº 1/完形 填空"
        inputs "$folder/inputs"
        cp -r fairseq_cloze "$folder"
        INPUTS="$folder/inputs" round "$python" "$folder/round" env PYTHONPATH="$folder"
        ;;
    locale) round "$python" "$place/locale" env -u LANGUAGE LANG=C LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0 ;;
    home) round "$python" "$place/home" env -u XDG_CONFIG_HOME -u XDG_STATE_HOME -u XDG_CACHE_HOME HOME=/nonexistent ;;
    user) # nobody, and a number without a name
        local uid found=$python path
        as() { setpriv --reuid="$1" --regid=65534 --clear-groups "${@:2}"; }
        path=$("$python" -c 'import site; print(site.getsitepackages()[0])')
        as 65534 bash -c '"$0" -c ""' "$found" 2>/dev/null || found=/usr/bin/python3.$("$python" -c 'import sys; print(sys.version_info[1])')
        for uid in 65534 12345; do
            mkdir -p "$place/user-$uid"
            chown "$uid" "$place/user-$uid"
            (cd "$place/user-$uid" && as "$uid" env -u HOME PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root:$path" \
                bash "$root/user_dir_tests/attacks/round.sh" "$found" "$place/inputs")
        done
        ;;
    *) echo "no leg $1" >&2 && exit 2 ;;
    esac
}

legs=("$@")
[ $# -gt 0 ] || legs=(wheel spaces locale home user 3.12 3.13 oldest newest)
failed=()
for each in "${legs[@]}"; do
    if [ "$each" = user ] && [ "$(id -u)" != 0 ]; then
        echo "user: skipped, as this is not root"
        continue
    fi
    status=0
    (leg "$each") >"$place/$each.log" 2>&1 &
    wait $! || status=$? # a condition around it would switch -e off inside
    if [ $status = 0 ]; then
        echo "$each: passed"
    else
        failed+=("$each")
        tail -n 15 "$place/$each.log" | sed "s/^/$each: /"
        echo "$each: FAILED"
    fi
done
[ ${#failed[@]} = 0 ]
