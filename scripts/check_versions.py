"""Whether the versions that setup.cfg claims are true: the whole suite, parity with diffusers too, in fresh venvs.

    python scripts/check_versions.py                         lowest versions on python3.11, the newest on python3.13
    python scripts/check_versions.py --python python3.12 --versions newest --work FOLDER

For each: a venv, an install of this checkout, every test. Takes about half an hour and, where torch comes with CUDA,
12 GB. Exit status 1 if anything fails; what was run is in FOLDER/NAME.log.
"""
import argparse
import configparser
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = "test", "parity"


def lowest():
    """What setup.cfg names as the lowest version of each package, as exact requirements."""
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg")
    named = read["options"]["install_requires"].split() + [
        line for extra in EXTRAS for line in read["options.extras_require"][extra].split()]
    return [line.replace(">=", "==") for line in named if ">=" in line]


def check(python, versions, work):
    """Whether everything passes with one Python and with "lowest" or "newest" versions."""
    name = f"{versions}-{Path(python).name}"
    venv, log = work / name, work / f"{name}.log"
    pins = lowest() if versions == "lowest" else []
    package = f"{ROOT}[{','.join(EXTRAS)}]"
    run = [venv / "bin" / "python", "-m"]
    commands = [[python, "-m", "venv", venv],
                [*run, "pip", "install", "-q", *pins, "-e", package],
                [*run, "pip", "list"],
                [*run, "pytest", "-m", ""]]              # the long tests too
    print(f"{name}: {' '.join(pins) or 'whatever is newest'}", flush=True)
    with open(log, "w") as file:
        failed = any(subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                                    env={**os.environ, "PYTHONPATH": ""}).returncode for command in commands)
    print(f"{name}: {'FAILED' if failed else 'passed'}: {log.read_text().strip().splitlines()[-1]} ({log})", flush=True)
    return not failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="its name or path; repeatable")
    parser.add_argument("--versions", choices=("lowest", "newest"), action="append", help="repeatable")
    parser.add_argument("--work", type=Path, help="folder for the venvs and logs (default: a temporary one)")
    args = parser.parse_args()
    pairs = [("python3.11", "lowest"), ("python3.13", "newest")]
    if args.python or args.versions:
        pairs = [(python, versions) for python in args.python or ["python3.11", "python3.13"]
                 for versions in args.versions or ["lowest", "newest"]]
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        return not all([check(python, versions, work.resolve()) for python, versions in pairs])


if __name__ == "__main__":
    sys.exit(main())
