# Shared by scripts/quickstart, scripts/test and .ci/run: a virtual environment beside the code, installed once.
# Sourced, not run. Needs bash and Python 3.10 or newer; works from any working directory and reads no input.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

say() { printf '\n==> %s\n' "$*"; }

fail() {
    printf '\n%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Print the first Python that is new enough and can make virtual environments.
find_python() {
    local candidate found=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        command -v "$candidate" >/dev/null || continue
        found="$found $candidate ($("$candidate" -c 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null || echo broken))"
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            "$candidate" -c 'import ensurepip, venv' 2>/dev/null ||
                fail "$candidate cannot make virtual environments (no venv or ensurepip). On Debian and Ubuntu: apt install python3-venv"
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.10 or newer is needed, found:${found:- none}. Install one, or name it: PYTHON=/path/to/python $0"
}

# What is installed: the package's requirements, the pins, and where the code is.
fingerprint() {
    cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" <(printf '%s' "$ROOT") | cksum | cut -d' ' -f1
}

# setup EXTRA...: make .venv if there is none and install stpipe with these extras through constraints.txt.
# What is already up to date is left alone; extras installed before are kept.
setup() {
    local stamp="$VENV/.stpipe-extras" want installed="" extra missing="" extras
    want="$(fingerprint)"
    if [ ! -x "$VENV/bin/python" ]; then
        local python
        python="$(find_python)" || exit 1
        say "Making a virtual environment in $VENV with $("$python" --version)"
        "$python" -m venv "$VENV" || fail "could not make $VENV; remove it and try again"
    elif ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        fail "$VENV does not work here (moved, or older than Python 3.10): remove it and run this again"
    fi
    # The stamp's first line is the fingerprint, the others the installed extras.
    if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$want" ]; then
        installed="$(tail -n +2 "$stamp" | tr '\n' ' ')"
    fi
    for extra in "$@"; do
        case " $installed " in *" $extra "*) ;; *) missing="$missing $extra" ;; esac
    done
    [ -n "$missing" ] || return 0
    extras="$(printf '%s\n' $installed "$@" | sort -u)"
    say "Installing stpipe[$(echo $extras | tr ' ' ',')] with the versions of constraints.txt into .venv (a few minutes the first time)"
    rm -f "$stamp"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet -c "$ROOT/constraints.txt" \
        -e "$ROOT[$(echo $extras | tr ' ' ',')]" </dev/null ||
        fail "the installation failed; pip's message is above. Check the network and free disk space (6 GB), then run this again"
    printf '%s\n' "$want" $extras >"$stamp"
}
