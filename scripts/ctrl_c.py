"""The scripts import this first: Ctrl-C ends them without a traceback (130 in a shell), also while they import."""
import sys


def without_traceback(kind, error, traceback, usual=sys.excepthook):
    if not issubclass(kind, KeyboardInterrupt):
        usual(kind, error, traceback)


sys.excepthook = without_traceback
