"""What every command of the project does the same way: a user's mistake costs one line and exit status 2."""

import argparse
import io
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

STDOUT = 1  # file descriptor
LAUNCHED = "SELFPATCH_LAUNCHED"  # environment: set where the launcher of this process tells why it ended


class UserError(Exception):
    """A mistake that the user can mend; its message says what was wrong, where, and what to do.

    It is one line, whatever names stand in it; one that a loading process raises brings that process's traceback along,
    which ends in the message.
    """

    def __init__(self, message: str = "") -> None:
        text = str(message)
        super().__init__(" ".join(text.rpartition("UserError: ")[2].split()) if "\n" in text else text)


def listed(names: Sequence[object], most: int = 5) -> str:
    """Some names in one line, and how many more there are."""
    more = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" … and {more} more" if more > 0 else "")


class ProcessError(Exception):
    """A process that this one started has failed.

    Args:
        message: what the user is shown, as it is.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of a command's description (its examples) and shows the defaults of its options."""

    def __init__(self, prog: str) -> None:
        super().__init__(
            prog, max_help_position=32, width=min(110, os.get_terminal_size().columns) if sys.stdout.isatty() else 110
        )

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """A default of None or False says nothing: leave it out."""
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """A parser whose complaints are user errors, too: one line instead of a page of usage."""

    def error(self, message: str) -> None:
        """Called by argparse for arguments that it cannot use."""
        raise UserError(f"{message} (--help tells more)")


def command_parser(description: str) -> argparse.ArgumentParser:
    """The parser of one command: ``description`` is shown as written, ``--debug`` is always there.

    The shell entry points and the console script set ``SELFPATCH_COMMAND`` to what the user typed, so that usage lines
    and examples repeat it.
    """
    typed = os.environ.get("SELFPATCH_COMMAND")
    if typed and typed.startswith("selfpatch "):  # examples are written for tools/, which an installed wheel has not
        description = re.sub(r"tools/(eval_)?(\w+)\.sh", _console_name, description)
    parser = CommandParser(prog=typed, description=description, formatter_class=HelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def _console_name(tool: re.Match) -> str:
    """``selfpatch eval davis`` for ``tools/eval_davis.sh``."""
    name = {"prepare_data": "data"}.get(tool[2], tool[2])
    return f"selfpatch eval {name}" if tool[1] and name != "all" else f"selfpatch {name}"


def run_command(
    main: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None = None,
    interrupted: str = "the same command goes on where this one was interrupted",
) -> None:
    """Run ``main(argv)`` and exit: 0 when it returns, 2 with one line on a :class:`UserError`, 130 on Ctrl-C.

    Args:
        interrupted: what a user is told to do after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    if LAUNCHED in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import record

        main = record(main)  # the launcher reads there what it tells once for all processes
    message = ""
    try:
        status = main(argv) or 0
    except SystemExit as end:  # argparse's, after --help
        status = end.code
    except UserError as error:
        debug = "--debug" in argv
        message, status = (traceback.format_exc() if debug else f"error: {error}\n"), 1 if debug else 2
    except ProcessError as error:
        message, status = str(error), error.status
    except KeyboardInterrupt:
        message, status = f"stopped: {interrupted}\n", 130
    except Exception as error:
        closed = isinstance(error, BrokenPipeError) and _nobody_reads()
        if LAUNCHED not in os.environ and not closed:
            raise
        status = 128 + signal.SIGPIPE if closed else 1
    if LAUNCHED not in os.environ:
        sys.stderr.write(message)
    if _nobody_reads():  # what the interpreter has yet to write goes nowhere, without a word
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    sys.exit(status)


def _nobody_reads() -> bool:
    """Whether the reader of this process's output, such as ``head``, has gone."""
    output = select.poll()
    output.register(STDOUT, 0)  # errors are always reported
    return any(event & select.POLLERR for _, event in output.poll(0))
