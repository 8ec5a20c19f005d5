"""The command line: `python -m p2p_min SOURCE TARGET [TARGET ...]`."""
import os
import re
import shlex
import signal
import sys
import warnings
from functools import partial

from p2p_min.cli.options import parse


def tell(kind, message):
    """The first line of a message, its middle left out if it is long, as by a prompt that somebody pasted."""
    line = str(message).splitlines()[0]
    print(f"p2p-min: {kind}:", line if len(line) <= 400 else f"{line[:240]} … {line[-157:]}", file=sys.stderr)


def main(argv=None):
    """Exit status: 0; 2 with one line on standard error; 130 after Ctrl-C; 141 where nobody reads the output."""
    # Handle Ctrl-C only as a program, if nobody else does (nohup). Outside the run, it simply ends the process.
    is_ours = argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    on_ctrl_c = partial(signal.signal, signal.SIGINT) if is_ours else lambda handler: None
    on_ctrl_c(signal.SIG_DFL)
    # A terminal without "×" must not end the run, and a log must have each line at once.
    for stream in sys.stdout, sys.stderr:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace", line_buffering=True)
    argv = sys.argv[1:] if argv is None else argv
    try:
        with warnings.catch_warnings():
            args = parse(argv)
            warnings.simplefilter("ignore")                # of the libraries, whose import takes seconds
            from p2p_min.cli.run import run
            # Our warnings once each, on a line; those of the libraries not at all.
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning, module=r"p2p_min\b")
            warnings.showwarning = lambda message, *_: tell("warning", message)
            on_ctrl_c(signal.default_int_handler)
            run(args, shlex.join(["python", "-m", "p2p_min", *argv]))
    except BrokenPipeError:                                # nobody reads on, as after `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13                                    # what a shell says of a program that SIGPIPE ended
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        message = str(error).strip() or type(error).__name__
        if isinstance(error, MemoryError) or re.search("out of memory|(not enough|can't allocate) memory", message):
            message = "not enough memory; try a smaller --height and --width, or --dtype"
        elif isinstance(error, RuntimeError):
            raise
        tell("error", message)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        on_ctrl_c(signal.SIG_DFL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
