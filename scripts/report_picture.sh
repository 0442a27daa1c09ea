#!/usr/bin/env bash
# The picture of the report in the README: docs/report.png, of what scripts/quickstart.sh has made, in headless Chromium.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$(realpath "${VENV:-.venv}")/bin:$PATH"

page=${1:-work/quickstart/report.html}
out=${2:-docs/report.png}
[[ -f $page ]] || { echo "$page: no such page; run 'bash scripts/quickstart.sh' first" >&2; exit 1; }
chromium=$(command -v chromium || command -v google-chrome) ||
    { echo "expected chromium or google-chrome, found neither; apt-get install chromium" >&2; exit 1; }
raw=$(mktemp --suffix .png)
trap 'rm -f "$raw"' EXIT
"$chromium" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --force-prefers-reduced-motion \
    --virtual-time-budget=3000 --window-size=1280,1092 --screenshot="$raw" "file://$(realpath "$page")" 2>/dev/null
python - "$raw" "$out" <<'PNG' # 128 colours are enough for it
import sys
from PIL import Image

with Image.open(sys.argv[1]) as picture:
    picture.convert("RGB").quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
PNG
echo "wrote $out: $(stat -c %s "$out") bytes"
