"""Turns typed parameters into command-line options, and trouble into one line and an exit code.

Nothing here or in a stage imports torch before the command runs, so `--help` and bad input answer at once.
"""

import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Generic, NoReturn, TypeVar

import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from typer.core import TyperCommand

from oniris_core.common.artefacts.remote import Location, location
from oniris_core.common.errors import Interrupted, OnirisError, UserError
from oniris_core.common.process import leave
from oniris_core.config.base import Params
from oniris_core.config.common import CommonParams
from oniris_core.config.reader import load_section, parse_value, read_yaml

S = TypeVar("S", bound=Params)

PARAMS_FILE = Path("params.yaml")
HELP_ALL = "--help-all"
OUT_OF_MEMORY = "out of memory; lower batch, clip length or frame size"
PANEL, ADVANCED = "Parameters", "Advanced"  # the help shows the options of a section under these and its name


class Settings(Generic[S]):
    """What a stage runs with: the shared parameters and its own section, options applied.

    `arguments` are a command line that says the same, `file` is where the parameters were read.
    """

    def __init__(self, common: CommonParams, section: S, arguments: Sequence[str] = (), file: Path = PARAMS_FILE):
        self.common, self.own, self.arguments, self.file = common, section, arguments, file

    def as_json(self, name: str) -> dict[str, Any]:
        """What of both sections decides the result, as JSON values, to be kept inside artefacts."""
        return {"common": self.common.as_record(), name: self.own.as_record()}


def place(description: str) -> Any:
    """The option of a store, which may be on this disk or at a URL."""
    return typer.Option(help=description, parser=location, metavar="PATH|URL")


def say(message: str) -> None:
    """One line to the person at the terminal. Of the processes of one training only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        _print(message)


def _print(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)


class StageCommand(TyperCommand):
    """A command whose failures are `oniris: error: ...` and an exit code instead of a traceback."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> NoReturn:
        """Run the command and exit: 0 done, 1 trouble at run time, 2 bad input, 128 + n stopped by signal n."""
        signal.signal(signal.SIGTERM, _terminate)
        try:
            code = super().main(args, *others, **{**options, "standalone_mode": False})
            if code == 128 + signal.SIGINT:  # how the option parser passes a Ctrl-C on
                raise KeyboardInterrupt
        except Interrupted as error:
            say(f"oniris: error: {error}")
            leave(error.exit_code)
        except SystemExit as stopped:
            if isinstance(stopped.code, int) and stopped.code > 128:  # ranks that it waited for
                leave(stopped.code)
            raise
        except KeyboardInterrupt:
            _fail("stopped; the same command goes on from here", 128 + signal.SIGINT)
        except UserError as error:
            _fail(str(error), 2)
        except OnirisError as error:
            _fail(str(error), 1)
        except OSError as error:
            _fail_alone(f"{error.filename or 'system'}: {error.strerror or error}")
        except MemoryError:
            _fail_alone(OUT_OF_MEMORY)
        except Exception as error:
            if hasattr(error, "format_message"):  # a usage error of the option parser
                _fail(error.format_message().replace("\n", " "), 2)
            if "out of memory" in str(error) or "can't allocate memory" in str(error):
                _fail_alone(OUT_OF_MEMORY)
            raise
        finally:
            # A rank that leaves because another has died is told to stop by their launcher too, while it tidies up.
            signal.signal(signal.SIGTERM, _leave_as_you_are)
        sys.exit(0)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line. A switch that is given a value is refused with how it is said."""
        if HELP_ALL in args:
            ctx.meta[HELP_ALL] = True
            args = ["--help"]
        for option in self.params:
            switches = [*option.opts, *option.secondary_opts] if getattr(option, "is_flag", False) else []
            for name in switches:
                given = [one.partition("=")[2] for one in args if one.startswith(f"{name}=")]
                given += [after for one, after in pairwise(args) if one == name and not after.startswith("-")]
                if given:
                    raise UserError(
                        f"{name} is a switch and takes no value ('{given[0]}'): say {' or '.join(switches)}"
                    )
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show each parameter with its value in params.yaml, where that can be read; advanced ones if all are asked for."""
        try:
            content = read_yaml(PARAMS_FILE)
        except UserError:
            content = {}
        before = [(option, getattr(option, "help", None), option.secondary_opts) for option in self.params]
        advanced = 0
        for option, text, off in before:
            panel, _, section = (getattr(option, "rich_help_panel", None) or "").partition(": ")
            option.hidden = panel == ADVANCED and HELP_ALL not in ctx.meta  # type: ignore[attr-defined]
            advanced += option.hidden  # type: ignore[attr-defined]
            notes = [f"params.yaml: {content[section][option.name]}"] if option.name in content.get(section, {}) else []
            notes += [f"off: {off[0]}"] if off else []
            option.help = f"{text} ({'; '.join(notes)})" if notes else text  # type: ignore[attr-defined]
            option.secondary_opts = []  # a column of their own would leave the texts no room
        self.epilog = f"{HELP_ALL} shows {advanced} more, which few need." if advanced else None
        super().format_help(ctx, formatter)
        for option, text, off in before:
            option.help, option.secondary_opts = text, off  # type: ignore[attr-defined]


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _leave_as_you_are(_: int, __: FrameType | None) -> None:
    """All is said and done; an exception from here would only be a traceback on the way out."""


def _fail(message: str, code: int) -> NoReturn:
    say(f"oniris: error: {message}")
    sys.exit(code)


def _fail_alone(message: str) -> NoReturn:
    # Trouble of the machine, which other processes of the same training need not share.
    rank = os.environ.get("RANK")
    _print(f"oniris: error: {message}" + (f" (process {rank})" if rank else ""))
    sys.exit(1)


def stage(name: str, model: type[S], in_pipeline: bool = True) -> Callable[[Callable[..., None]], typer.Typer]:
    """Make a stage program of a function `main(settings, <path options>)`.

    Every parameter of the section `name`, of those that `model` shares and of `common` becomes an option that overrides
    params.yaml. What differs from params.yaml is announced for the stages of the pipeline, because `dvc repro` will replace
    what such a run made.
    """

    def decorate(main: Callable[..., None]) -> typer.Typer:
        paths = list(inspect.signature(main).parameters.values())[1:]
        sections: list[tuple[str, type[Params]]] = [("common", CommonParams), *model.SHARED.items(), (name, model)]
        fields = {field: (section, m, info) for section, m in sections
                  for field, info in m.model_fields.items() if m.section_of(field, section) == section}  # fmt: skip

        def command(**options: Any) -> None:
            arguments = [_as_argument(option, value) for option, value in options.items()
                         # a switch that only this stage has is off unless it is said
                         if value is not None and (option in fields or value is not False)]  # fmt: skip
            file = options.pop("params")
            given: dict[str, dict[str, Any]] = {"common": {}, name: {}}
            for field, (section, _, _) in fields.items():
                value = options.pop(field)
                if value is not None:
                    of = given["common" if section == "common" else name]
                    of[field] = parse_value(value) if isinstance(value, str) else value
            content = read_yaml(file)
            settings = Settings(
                load_section(CommonParams, "common", content, file, given["common"]),
                load_section(model, name, content, file, given[name]),
                arguments,
                file,
            )
            if in_pipeline:
                _announce(file, content, settings, name, given)
            main(settings, **options)

        command.__doc__ = main.__doc__
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_for_typer(p) for p in paths]
            + [_params_option()]
            + [_option(field, section, m, info) for field, (section, m, info) in fields.items()]
        )  # fmt: skip
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(cls=StageCommand, context_settings={"help_option_names": ["-h", "--help"]})(command)
        return app

    return decorate


def _for_typer(path: inspect.Parameter) -> inspect.Parameter:
    annotation = path.annotation
    if annotation.__origin__ == Location:  # Typer knows no unions; the option's own parser makes the value
        annotation = Annotated[str, annotation.__metadata__[0]]
    return path.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def _params_option() -> inspect.Parameter:
    annotation = Annotated[Path, typer.Option(help="the parameter file")]
    return inspect.Parameter("params", inspect.Parameter.KEYWORD_ONLY, default=PARAMS_FILE, annotation=annotation)


def _option(field: str, section: str, model: type[Params], info: FieldInfo) -> inspect.Parameter:
    """A switch where the parameter is true or false, and elsewhere an option whose text is read as params.yaml would be."""
    name = field.replace("_", "-")
    kind, names = (bool, f"--{name}/--no-{name}") if info.annotation is bool else (str, f"--{name}")
    option = typer.Option(
        names, help=info.description or "", metavar=None if kind is bool else "VALUE", show_default=False,
        rich_help_panel=f"{ADVANCED if field in model.ADVANCED else PANEL}: {section}",
    )  # fmt: skip
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _as_argument(option: str, value: Any) -> str:
    name = option.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def _announce(
    file: Path, in_file: dict[str, Any], settings: Settings[S], name: str, given: dict[str, dict[str, Any]]
) -> None:
    if "ONIRIS_ANNOUNCED" in os.environ:  # by the process that launched this one
        return
    for section, params in (("common", settings.common), (name, settings.own)):
        for field in given[section]:
            place = params.section_of(field, section)
            value, before = params.model_dump(mode="json")[field], in_file[place][field]
            if value != before:
                say(f"note: {place}.{field} = {value} ({file} has {before}); `dvc repro` will follow {file}")
