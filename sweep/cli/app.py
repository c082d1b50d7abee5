"""The command line: `sweep` and `python -m mixsweep`."""

import io
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from mixsweep.cluster.ray_cluster.head_monitor import HeadGoneError
from mixsweep.core.errors import UserError
from mixsweep.core.verbosity import log_verbosely
from mixsweep.core.version import __version__
from mixsweep.sweep.cli import compare, exports, inspection, running, sweep_files

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SHOWN_VERSIONS = ("torch", "torchvision", "ray", "optuna", "submitit", "wandb", "pyarrow", "numpy")


def _print_versions(asked: bool) -> None:
    if asked:
        print(f"mixsweep {__version__}")
        found = [f"Python {platform.python_version()}"]
        for name in _SHOWN_VERSIONS:
            try:
                found.append(f"{name} {version(name)}")  # from metadata: nothing is imported
            except PackageNotFoundError:
                continue
        print(", ".join(found))
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool,
        typer.Option(
            "-v", "--verbose", help="Log internal steps on stderr; workers log to their own output."
        ),
    ] = False,
    versions: Annotated[
        bool,
        typer.Option("--version", callback=_print_versions, is_eager=True, help="Print versions and exit."),
    ] = False,
) -> None:
    """Plan a sweep, run it anywhere, and report what it shows."""
    if verbose:
        log_verbosely()


for group in (sweep_files, running, inspection, exports, compare):
    app.add_typer(group.app)


def main() -> None:
    """Run the command line; a UserError or OSError is printed on one line, with exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a name that the terminal cannot show must not end a command
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_encoding()
        app()
    except UserError as error:
        print(f"sweep: {' '.join(str(error).splitlines())}", file=sys.stderr)
        if isinstance(error, HeadGoneError):
            sys.stdout.flush()
            os._exit(2)  # Ray's threads would block the exit, and then print tracebacks
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        words = (error.filename, error.strerror or str(error))  # a write to a full disk names no file
        print(f"sweep: {': '.join(str(word) for word in words if word)}", file=sys.stderr)
        sys.exit(2)


def _check_encoding() -> None:
    """Check that names of files are UTF-8, as those of a store are for every other process of its sweep.

    Raises:
        UserError: a locale of another encoding is set.
    """
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        raise UserError(f"the locale's encoding is {encoding}, a store's is UTF-8; set PYTHONUTF8=1")
