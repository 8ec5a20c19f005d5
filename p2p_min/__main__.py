"""The command line: `python -m p2p_min SOURCE TARGET [TARGET ...]`."""
import os
import shlex
import signal
import sys
import warnings
from functools import partial

from p2p_min.cli.options import arguments, check_live, plan
from p2p_min.files import say

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")        # CUDA and MPS; CPU; CPU


def main(argv=None):
    """Exit status: 0; 2 with one line on standard error; 130 after Ctrl-C."""
    # Ctrl-C is ours if the process is, and if nobody handles it in another way (nohup ignores it).
    ours = argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    on_ctrl_c = partial(signal.signal, signal.SIGINT) if ours else lambda handler: None
    on_ctrl_c(end)
    for stream in sys.stdout, sys.stderr:
        if hasattr(stream, "reconfigure"):                 # an "×" that a terminal does not know is no reason to stop
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            run = prepare(sys.argv[1:] if argv is None else argv)
            on_ctrl_c(stop)
            run()
    except (ValueError, OSError) as error:
        message = str(error).strip() or type(error).__name__
        say("p2p-min: error: " + " ".join(message.split("\n")[0].split()), file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        say("p2p-min: error: not enough memory; try a smaller --height and --width, or --dtype", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        on_ctrl_c(end)
        say(end="")                                        # also what argparse has printed
    return 0


def prepare(argv):
    """What the arguments ask for, as a function. Raises ValueError for all that can be told before torch is there."""
    if any(argument.split("=")[0] == "--live" for argument in argv):
        args = arguments(is_live=True).parse_intermixed_args(argv)
        check_live(args)
    else:
        args = arguments().parse_args(argv)
        planned = plan(args)
    warnings.simplefilter("ignore")                        # of the libraries, whose import takes seconds
    from p2p_min.cli import run as running

    running.show_our_warnings()
    if args.live is not None:
        return partial(running.live, args)
    command = shlex.join(["python", "-m", "p2p_min", *argv])
    command = command.encode(errors="backslashreplace").decode()         # the name of a file need not be UTF-8
    return partial(running.run, args, planned, command)


def end(*_):
    """Ctrl-C while nothing is to be tidied up. An exception could get lost in an import, or at the end of Python."""
    os._exit(130)


def stop(*_):
    """Ctrl-C in a run, which tidies up what it is writing. A second one does not wait for that."""
    signal.signal(signal.SIGINT, end)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
