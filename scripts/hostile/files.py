"""What happens to files when many write at once, and when a run is killed or interrupted at any moment.

    python scripts/hostile/files.py --writers 200 --kills 20 --interrupts 20 --seed 1

Writers: threads in several processes, all of one process id as in containers, write one file, and every read of it must
be what one of them wrote. Kills and interrupts: SIGKILL and Ctrl-C to the command line, from its imports to its end.
Each output must be absent, the old one, or whole. Ctrl-C must end with status 130, without a traceback, and leave
nothing else. Prints a table; exit status 1 if there is a fault.
"""
import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from p2p_min.files import write

LIMIT = 120                                    # seconds for any one process
RUN = ["-m", "p2p_min", "a red car in the snow", "a red boat in the snow", "--device", "cpu", "--steps", "3",
       "--spacing", "trailing", "--singles", "--maps", "maps.png"]
PICTURES = ["p2p.png", "p2p-0.png", "p2p-1.png", "maps.png"]
READY = 1.5                                    # times what the imports of `__main__` take: before, Python itself starts
WORKER = """
import os, sys
os.getpid = lambda: 1
sys.path.insert(0, sys.argv[1])
import files
files.write_from_threads(files.Path(sys.argv[2]), range(int(sys.argv[3]), int(sys.argv[4])))
"""
ENDLESS = """
import sys
from p2p_min.files import write
print(flush=True)
while True:
    write(sys.argv[1], bytes(20_000_000))
"""


def python(*arguments, folder=None):
    """A process that can be interrupted, whether this one can or not."""
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


# ---- writers -------------------------------------------------------------------------------------------------------

def content(writer):
    return f"{writer:07}\n".encode() * (1 + 997 * writer % 20_000)


def write_from_threads(path, writers):
    """Raises ValueError if one of them could not."""
    faults = []

    def work(writer):
        try:
            write(path, content(writer))
        except Exception as error:
            faults.append(error)
    threads = [threading.Thread(target=work, args=[writer]) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    if faults:
        raise ValueError(f"{len(faults)} of {len(threads)} writers failed: {faults[0]}")


def writers(count, folder, processes=4):
    """The faults, as lines, and the number of reads."""
    path, faults, reads = folder / "file", [], 0
    path.write_bytes(content(0))
    ends = [count * i // processes for i in range(processes + 1)]
    running = [python("-c", WORKER, Path(__file__).parent, path, *ends[i:i + 2]) for i in range(processes)]
    while any(process.poll() is None for process in running):
        read, reads = path.read_bytes(), reads + 1
        if read != content(int(read[:7] or -1)):
            faults.append(f"a read of {len(read)} bytes is of no one writer")
    for process in running:
        _, errors = process.communicate(timeout=LIMIT)
        faults += errors.splitlines()[-1:]
    return faults + unknown(folder, ["file"]), reads


# ---- kills and interrupts ------------------------------------------------------------------------------------------

def unknown(folder, names):
    return [f"{name} is left" for name in sorted({path.name for path in folder.iterdir()} - set(names))]


def damaged(folder, old):
    """Lines about pictures that are neither as before nor whole."""
    faults = []
    for path in sorted(folder.glob("*.png")):
        if old is None or path.read_bytes() != old:
            try:
                Image.open(path).load()
            except Exception as error:
                faults.append(f"{path.name} is damaged: {error}")
    return faults


def span(folder):
    """(seconds until the command line's own code runs, seconds until its end)."""
    began = time.monotonic()
    python("-c", "import p2p_min.__main__").communicate(timeout=LIMIT)
    ready = READY * (time.monotonic() - began)
    began = time.monotonic()
    _, errors = python(*RUN, folder=folder).communicate(timeout=LIMIT)
    if errors:
        raise ValueError(f"a run that nobody stops says: {errors}")
    return ready, time.monotonic() - began


def stopped(signals, moment, folder, old):
    """Runs the command line and sends it signals, the first after `moment` seconds. (faults, exit status)"""
    for name in PICTURES:
        (folder / name).unlink(missing_ok=True)
        if old is not None:
            (folder / name).write_bytes(old)
    process = python(*RUN, folder=folder)
    for each in signals:
        time.sleep(moment)
        process.send_signal(each)
        moment = 0.05
    try:
        _, errors = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        return ["it does not end"], None
    faults = damaged(folder, old)
    if signals[0] == signal.SIGINT:
        # Ended by the signal itself, which a shell calls 130 too: while Python was ending, after main().
        if process.returncode not in (0, 130, -signal.SIGINT) or "Traceback" in errors or errors.count("\n") > 1:
            faults.append(f"status {process.returncode}: {errors.strip()}")
        if len(signals) == 1:
            faults += unknown(folder, PICTURES)
        if process.returncode == 0 and len(list(folder.glob("*.png"))) < len(PICTURES):
            faults.append("status 0 without all pictures")
    for part in folder.glob(".*.part"):                    # what a kill leaves
        part.unlink()
    return faults, process.returncode


def stops(count, signals, folder, draw):
    """(faults, what happened), for runs that are stopped at random moments. Every other has old pictures to lose."""
    ready, end = span(folder)
    old, faults, ended = (folder / "p2p.png").read_bytes(), [], 0
    for i in range(count):
        moment = draw.uniform(ready, 1.05 * end)
        found, status = stopped(signals[:1 + i // 2 % len(signals)], moment, folder, old if i % 2 else None)
        faults += [f"after {moment:.2f} s: {fault}" for fault in found]
        ended += status == 0
    return faults, f"from {ready:.2f} to {end:.2f} s; {ended} had ended before"


def kills_of_writers(count, folder, draw):
    """(faults, what happened): a kill in the middle of writing leaves the file whole, and a piece of the next one."""
    faults, left = [], 0
    for _ in range(count):
        process = python("-c", ENDLESS, folder / "file")
        process.stdout.readline()
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.communicate(timeout=LIMIT)
        if (folder / "file").exists() and (folder / "file").read_bytes() != bytes(20_000_000):
            faults.append("the file is not whole")
        for part in folder.glob(".*.part"):
            left += 1
            part.unlink()
    return faults, f"{left} left an unfinished file"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("writers", "kills", "interrupts"):
        parser.add_argument(f"--{name}", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, failed = random.Random(args.seed), False
    checks = dict(
        writers=lambda folder: writers(args.writers, folder),
        kills=lambda folder: stops(args.kills, [signal.SIGKILL], folder, draw),
        writing=lambda folder: kills_of_writers(args.kills, folder, draw),
        interrupts=lambda folder: stops(args.interrupts, [signal.SIGINT] * 2, folder, draw))
    numbers = dict(vars(args), writing=args.kills)
    print(f"{'':12}{'number':>8}{'faults':>8}")
    for name, check in checks.items():
        with tempfile.TemporaryDirectory() as folder:
            faults, what = check(Path(folder)) if numbers[name] else ([], "")
        print(f"{name:12}{numbers[name]:8}{len(faults):8}  {f'{what} reads' if name == 'writers' else what}",
              *faults[:5], sep="\n    ", flush=True)
        failed = failed or bool(faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
