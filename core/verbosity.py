"""`sweep --verbose`: the modules' log on standard error, in this process and in those that it starts.

Modules log to `logging.getLogger(__name__)`; below warnings, nothing is shown until SWEEP_VERBOSE is set.
`import mixsweep` reads that variable, so a worker of any place that inherits it, or is given it, logs too.
"""

import logging
import os
import sys

VARIABLE = "SWEEP_VERBOSE"


class _StandardError(logging.Handler):
    """Writes to the current sys.stderr, which a live view replaces by its own."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # a closed or full standard error must not end a trial
            self.handleError(record)


def is_verbose() -> bool:
    """Whether the variable is set to anything but 0."""
    return os.environ.get(VARIABLE, "0") not in ("", "0")


def verbosity_variables() -> dict[str, str]:
    """The variables that make processes elsewhere log as this one does."""
    return {VARIABLE: "1"} if is_verbose() else {}


def log_if_asked() -> None:
    """Show the log if SWEEP_VERBOSE is set."""
    if is_verbose():
        log_verbosely()


def log_verbosely() -> None:
    """Show the log of all mixsweep modules, in this process and in those that inherit its environment."""
    os.environ[VARIABLE] = "1"
    logger = logging.getLogger("mixsweep")
    if any(isinstance(handler, _StandardError) for handler in logger.handlers):
        return
    handler = _StandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s[%(process)d]: %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # Ray and notebooks have handlers of their own at the root
