#!/bin/sh
# Make a virtual environment from the lock file that fits its Python.
#   requirements/make_env.sh <folder> [python]
# Without a Python: the first of python3.11, python3.10, python3 that is 3.10 or 3.11, else uv gets one.
set -eu
folder=$1
wanted=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
uv_version=0.13.9 # pip 26 and later refuse merlin-dataloader's metadata; uv is also much faster

fits() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' 2>/dev/null; }

# pyenv's shims refuse a version that is installed but not selected: look behind them too.
candidates() {
    echo "$1"
    ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/${1#python}".*/bin/python 2>/dev/null || true
}

python=
for name in ${wanted:-python3.11 python3.10 python3}; do
    for candidate in $(candidates "$name"); do
        if [ -z "$python" ] && fits "$candidate"; then python=$candidate; fi
    done
done
case ${python:+found}$wanted in
found* | "" | python3.10 | python3.11) ;; # what is not installed here, uv knows where to get
*)
    echo "PYTHON=$wanted: this project needs Python 3.10 or 3.11, see requirements/" >&2
    exit 1
    ;;
esac

# uv goes into an environment of its own, made by whatever Python 3 there is.
tools=$folder-tools
if [ ! -x "$tools/bin/uv" ]; then
    "${python:-python3}" -m venv "$tools" || {
        echo "python3 -m venv does not work here; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    }
    "$tools/bin/pip" install --quiet --disable-pip-version-check "uv==$uv_version"
fi
uv=$tools/bin/uv

rm -rf "$folder"
"$uv" venv --quiet --python "${python:-${wanted:-3.11}}" "$folder"
case $("$folder/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
3.10) lock=container-py310.txt ;;
*) lock=cpu-py311.txt ;;
esac
echo "installing $lock into $folder (about 200 packages, 3 GB)"
quiet=--quiet
if [ -t 2 ]; then quiet=; fi # people see progress, logs do not
# Compiled here, because Python keeps no bytecode where PYTHONDONTWRITEBYTECODE is set or the folder
# cannot be written to, as in many containers: each command would compile TensorFlow for 12 seconds.
"$uv" pip install $quiet --compile-bytecode --python "$folder/bin/python" --no-deps \
    --requirement "$here/$lock"
"$uv" pip install --quiet --python "$folder/bin/python" --no-deps --no-build-isolation \
    --editable "$here/.."
