"""The command line `esv-jax`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import signal
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any

from esv_jax import __version__
from esv_jax.cli.printing import BAD_INPUT, INTERRUPTED, complain
from esv_jax.extras import require

_ADDRESS_SPACE = 4e9  # bytes, below which a warning is printed

COMMANDS = {  # first line of the help by command, whose module is imported when it is run
    "demo": "Explain videos of a synthetic world, in which the right answer is known.",
    "train": "Train a model on labelled sequences of features.",
    "extract": "Extract features of video frames with BN-Inception (TRN) or ResNet-50 (TSN).",
    "explain": "Explain videos or sequences of features: what did each frame contribute?",
    "sweep": "Explain a whole set of videos or sequences; continue an interrupted run.",
    "results": "Summarise results, write them as a table, or collate several.",
    "report": "Write results as one HTML file with a gallery of videos, which opens offline.",
    "dashboard": "Show results in a browser: each video with its bars, and the whole set.",
    "relevance": "Show where in the pixels of a clip a 3D network's prediction comes from.",
    "perturb": "Find the smallest parts of a clip that keep a prediction, or destroy it.",
    "evaluate": "Compare attribution methods by how well they find what predictions rest on.",
    "import-play-fair": "Import the checkpoints of play-fair, without torch or running their code.",
}
DESCRIPTION = """How much did each frame contribute to this prediction?

Element Shapley Values and relevance of video and sequence models. Start with: esv-jax demo"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `esv-jax` with the given arguments (default: the process's) and return its exit code.

    Errors of input, files or missing extras become one line on the standard error and code 2;
    ESV_JAX_DEBUG=1 in the environment shows their tracebacks.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"esv-jax {__version__}")
        return 0
    try:
        tyro = require("tyro", "cli")
        if argv and argv[0] in COMMANDS:
            command = command_class(argv[0])
            return tyro.cli(command, prog=f"esv-jax {argv[0]}", args=argv[1:]).run()
        names = {
            command: dataclasses.make_dataclass(command.title(), (), namespace={"__doc__": line})
            for command, line in COMMANDS.items()
        }
        tyro.extras.subcommand_cli_from_dict(
            names, prog="esv-jax", description=DESCRIPTION, args=argv or ["--help"]
        )
        raise AssertionError("a command that is not in COMMANDS")  # tyro exits
    except KeyboardInterrupt:
        print("\nesv-jax: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        if os.environ.get("ESV_JAX_DEBUG") or not is_memory:
            raise
        first = str(error).strip().partition("\n")[0]
        complain(f"Out of memory. {first}".strip())
        return BAD_INPUT
    except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
        if os.environ.get("ESV_JAX_DEBUG"):
            raise
        complain(str(error))
        return BAD_INPUT


def command_class(name: str) -> Any:
    """Return the dataclass of a command: fields are its options; `run` runs it."""
    module = importlib.import_module(f"esv_jax.cli.{name.replace('-', '_')}")
    return getattr(module, name.title().replace("-", ""))


def warn_of_small_memory() -> None:
    """Print a warning if the process may use too little address space for JAX.

    C++ code then ends the process with "std::bad_alloc", which Python cannot catch.
    """
    try:
        import resource
    except ImportError:  # not on every system
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _ADDRESS_SPACE:
        text = f"The address space is limited to {limit / 1e9:.1f} GB. JAX needs 2 GB or more: a"
        complain(f"{text} process with less ends with 'std::bad_alloc'. Raise it with ulimit -v.")


def interrupt(number: int, frame: types.FrameType | None) -> None:
    """Handle SIGINT: raise KeyboardInterrupt, but only after an import that is in progress.

    Native modules (jaxlib's among them) crash if their initialisation is interrupted.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return _interrupt_later()
        frame = frame.f_back
    raise KeyboardInterrupt


def _interrupt_later() -> None:
    again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


def unraisable(error: sys.UnraisableHookArgs) -> None:
    """Handle an exception that Python cannot raise, such as one in a weak reference's callback.

    An interrupt there would be lost, and a server would run on: it is repeated.
    """
    if error.exc_type is KeyboardInterrupt:
        _interrupt_later()
    else:
        sys.__unraisablehook__(error)


def run() -> None:
    """Run the console script.

    An interrupted process exits at once: threads that still compile or compute would crash while
    the interpreter shuts down.
    """
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = unraisable
    warn_of_small_memory()
    code = main()
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
